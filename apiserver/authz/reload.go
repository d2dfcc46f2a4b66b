package authz

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-k8s/skiff/guard"
)

// Run follows changes of roles and bindings, and of the file, until ctx ends.
func (z *Authorizer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(guard.Try("authorization", func() error { return z.RBAC.Run(ctx) }))
	if z.config.File != "" {
		group.Go(guard.Try("authorization", func() error { return z.followFile(ctx) }))
	}
	return group.Wait()
}

// followFile takes new versions of the file. One that is not good leaves the one before in force; it is not tried again.
func (z *Authorizer) followFile(ctx context.Context) error {
	ticker := time.NewTicker(z.config.Look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := z.look(); err != nil {
			z.metrics.reloaded(nil)
			z.config.Log.ErrorContext(ctx, "reloading authorization config; the one before stays in force", "file", z.config.File, "error", err)
		}
	}
}

// look takes the file if it has changed.
func (z *Authorizer) look() error {
	data, err := os.ReadFile(z.config.File)
	if err != nil || bytes.Equal(data, z.data) {
		return err
	}
	z.data = data
	order, err := parse(data, z.required)
	if err != nil {
		return err
	}
	for _, e := range order {
		if (e.Type == typeNode || e.Type == typeRBAC) && !slices.Contains(z.required, e.Type) {
			return fmt.Errorf("authorizer type %s is not allowed if it was not enabled at initial server startup", e.Type)
		}
	}
	made, err := z.chain(order)
	if err != nil {
		return err
	}
	z.current.Store(&made)
	z.metrics.reloaded(data)
	z.config.Log.Info("authorization config was read anew", "file", z.config.File)
	return nil
}

// besidesWebhooks lists what is no webhook in a configuration. A new version of the file must name those that the server was
// started with.
func besidesWebhooks(order []entry) []string {
	var kinds []string
	for _, e := range order {
		if e.Type != typeWebhook {
			kinds = append(kinds, e.Type)
		}
	}
	return slices.Sorted(slices.Values(kinds))
}
