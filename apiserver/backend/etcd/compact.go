package etcd

import (
	"context"
	"errors"
	"strconv"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// compactKey is where kube-apiservers agree on who compacts: one that finds it written since it last looked leaves
// compacting to who wrote it, and takes its value for what has been compacted.
const compactKey = "compact_rev_key"

// Compact forgets history, as backend.Backend says. It writes compactKey, which makes a revision.
func (b *Backend) Compact(ctx context.Context, revision int64) error {
	at, newest, err := b.Get(ctx, compactKey)
	switch {
	case err != nil && !errors.Is(err, backend.ErrNotFound):
		return err
	case revision > newest:
		return backend.ErrFuture
	case revision <= 0:
		return nil
	}
	if compacted, err := strconv.ParseInt(string(at.Value), 10, 64); err != nil || compacted < revision {
		// That another one was quicker does not matter, nor that there is no space: compacting makes some.
		_, err := b.Put(ctx, compactKey, strconv.AppendInt(nil, revision, 10), at.Revision, 0)
		if err != nil && !errors.Is(err, backend.ErrConflict) && !errors.Is(err, rpctypes.ErrNoSpace) {
			return err
		}
	}
	err = b.call(ctx, repeatable, func(ctx context.Context) error {
		_, err := b.client.Compact(ctx, revision)
		return err
	})
	if errors.Is(err, backend.ErrCompacted) {
		return nil
	}
	return err
}

// compacted reports whether changes after a revision may be gone.
func (b *Backend) compacted(ctx context.Context, after int64) (bool, error) {
	err := b.call(ctx, repeatable, func(ctx context.Context) error {
		// Whichever member answers has compacted what any has, or will say so in the watch.
		_, err := b.client.Get(ctx, compactKey, clientv3.WithCountOnly(), clientv3.WithRev(max(after, 1)))
		return err
	})
	switch {
	case errors.Is(err, backend.ErrCompacted):
		return true, nil
	case errors.Is(err, backend.ErrFuture):
		return false, nil // a watch may begin in the future
	}
	return false, err
}
