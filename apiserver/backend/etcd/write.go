package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Put writes a key, as backend.Backend says.
func (b *Backend) Put(ctx context.Context, key string, value []byte, expected int64, lifetime time.Duration) (int64, error) {
	if lifetime <= 0 {
		return b.write(ctx, key, expected, clientv3.OpPut(key, string(value)))
	}
	for {
		var lease clientv3.LeaseID
		if err := b.call(ctx, repeatable, func(ctx context.Context) (err error) {
			lease, err = b.leases.get(ctx, lifetime, time.Now())
			return err
		}); err != nil {
			return 0, err
		}
		revision, err := b.write(ctx, key, expected, clientv3.OpPut(key, string(value), clientv3.WithLease(lease)))
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return revision, err
		}
		b.leases.forget(lease) // somebody revoked it
	}
}

// Delete removes a key, as backend.Backend says.
func (b *Backend) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	if expected == backend.Absent {
		return 0, backend.ErrConflict
	}
	return b.write(ctx, key, expected, clientv3.OpDelete(key))
}

// write does op if key is at the expected revision.
func (b *Backend) write(ctx context.Context, key string, expected int64, op clientv3.Op) (revision int64, err error) {
	if b.partial.Load() {
		return 0, backend.ErrPartial
	}
	// A key that was at a revision never is there again once it was written: a second attempt does no harm. It can be
	// absent again.
	how := once
	if expected != backend.Absent {
		how = unlessDone
	}
	err = b.call(ctx, how, func(ctx context.Context) error {
		r, err := b.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", expected)).Then(op).Commit()
		switch {
		case err != nil:
			return err
		case !r.Succeeded:
			return backend.ErrConflict
		}
		revision = r.Header.Revision
		return nil
	})
	return revision, err
}
