package encryption

import (
	"context"
	"fmt"
	"time"

	"github.com/skiff-k8s/skiff/guard"
)

// follow takes new versions of the file, until ctx ends. A version that is not
// good leaves the one there is in place, and is tried again.
func (e *Encryption) follow(ctx context.Context, running *guard.Group) error {
	ticker := time.NewTicker(e.config.Times.Look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if err := e.look(ctx, running); err != nil && ctx.Err() == nil {
			e.metrics.reloadFailed()
			e.config.Log.ErrorContext(ctx, "error processing encryption config file; the one before stays in force", "file", e.config.File, "error", err)
		}
	}
}

// look takes the file if it has changed.
func (e *Encryption) look(ctx context.Context, running *guard.Group) error {
	old := e.now.Load()
	_, hash, err := read(e.config.File)
	if err != nil || hash == old.hash {
		return err
	}
	next, err := e.open(e.config.File)
	if err != nil {
		return err
	}
	if err := e.settle(ctx, next); err != nil {
		next.close()
		return err
	}
	next.run(ctx, running)
	e.now.Store(next)
	e.metrics.reloaded(next.hash)
	e.changed.give()
	e.config.Log.InfoContext(ctx, "encryption config file was read anew", "file", e.config.File)
	running.Go("old encryption", func() {
		select {
		case <-ctx.Done():
		case <-time.After(old.grace()):
		}
		old.close()
	})
	return nil
}

// settle waits until the plugins of v are well.
func (e *Encryption) settle(ctx context.Context, v *version) error {
	within := max(v.grace(), e.config.Times.Settle)
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := v.check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("health check for new transformers failed within %v: %w", within, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
