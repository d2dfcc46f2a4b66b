package relational

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

const (
	// patience is how long the database may be away before operations fail.
	patience = 10 * time.Second
	// tryLimit is how long one try may take: long enough for a database under
	// load, and for the locks of others.
	tryLimit = 30 * time.Second
	// Pauses between tries double from the first to the last.
	firstPause = 2 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// outage is since when the database has been away.
type outage struct {
	mu    sync.Mutex
	since time.Time // zero: it is there
}

// lost notes that the database did not answer and returns for how long it has
// not.
func (o *outage) lost(name string, err error) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		o.since = time.Now()
		slog.Warn("Storage is away", "database", name, "error", err)
	}
	return time.Since(o.since)
}

// over notes that the database answered.
func (o *outage) over(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		slog.Info("Storage is back", "database", name, "after", time.Since(o.since).Round(time.Millisecond))
		o.since = time.Time{}
	}
}

// again does what may fail because of others or because the database is away
// until it succeeds, cannot succeed, or the database has been away for too
// long: backend.ErrUnavailable. It ends with ctx and with Close.
func (b *Backend) again(ctx context.Context, what string, do func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if b.closed() {
			return backend.ErrClosed
		}
		err := b.try(ctx, do)
		if err == nil {
			return nil
		}
		if again, err := b.judge(ctx, what, err); !again {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-b.stop:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (b *Backend) try(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	err := do(ctx)
	if err == nil || contractual(err) {
		b.outage.over(b.db.Name())
	}
	return err
}

// contractual reports whether err is an answer rather than a fault.
func contractual(err error) bool {
	return errors.Is(err, backend.ErrCompacted) || errors.Is(err, backend.ErrFuture) ||
		errors.Is(err, backend.ErrNotEmpty) || errors.Is(err, backend.ErrPartial)
}

// judge decides whether to try again after an error, or what to return.
func (b *Backend) judge(ctx context.Context, what string, err error) (again bool, _ error) {
	switch {
	case contractual(err):
		return false, err
	case ctx.Err() != nil:
		return false, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	switch b.class(err) {
	case Busy:
		return true, nil
	case Lost:
		if b.outage.lost(b.db.Name(), err) < patience {
			return true, nil
		}
		return false, fmt.Errorf("%s: %w: %w", what, backend.ErrUnavailable, err)
	}
	return false, fmt.Errorf("%s: %w", what, err)
}

// class is Class, but for the end of an attempt, of which no database knows.
func (b *Backend) class(err error) Class {
	if errors.Is(err, context.DeadlineExceeded) {
		return Lost
	}
	return b.db.Class(err)
}

// Unreachable reports whether an error is one of a connection, in whichever
// database.
func Unreachable(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}
