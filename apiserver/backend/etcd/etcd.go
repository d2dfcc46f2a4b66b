// Package etcd is the engine behind etcd://host:port,host:port: the etcd of a cluster, of one member or several.
//
// Any number of servers may share it, kube-apiserver among them: revisions are etcd's own, and keys and values are
// taken as they are. What survives is what etcd has promised to its own clients: an acknowledged write is on the disks
// of most members. Every request is answered by most members too, so that none is stale.
//
// A request that etcd did not carry out is made again for some time, be it that etcd has too much to do, has no leader
// or is not there. One of which nobody can say whether it was carried out is made again if it cannot be carried out
// twice; else its caller is told.
package etcd

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/coalesce"
)

// Bounds of how long a connection may be silent: a member that was stopped or cut off is noticed after both together.
const (
	aliveEvery   = 10 * time.Second
	aliveTimeout = 5 * time.Second
)

// Backend is a connection to etcd.
type Backend struct {
	client *clientv3.Client
	newest *coalesce.Query[int64]
	leases *leases
	ends   ends
	// partial: this backend has begun to fill etcd.
	partial atomic.Bool
	ctx     context.Context // ends when the backend is closed
	end     context.CancelCauseFunc
}

var _ backend.Stepper = (*Backend)(nil)

// Open connects to an etcd that answers. The backend must be closed.
func Open(c Config) (*Backend, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints, TLS: c.TLS, Username: c.User, Password: c.Password,
		DialTimeout: patience, DialKeepAliveTime: aliveEvery, DialKeepAliveTimeout: aliveTimeout, PermitWithoutStream: true,
		Logger: zap.NewNop(), // what goes wrong is an error of a request, or logged by the watch
	})
	if err != nil {
		return nil, fmt.Errorf("open etcd at %s: %w", strings.Join(c.Endpoints, ", "), err)
	}
	b := &Backend{client: client, leases: newLeases(client.Grant)}
	b.ctx, b.end = context.WithCancelCause(context.Background())
	b.newest = coalesce.New("etcd's revision", b.askRevision)
	_, err = b.Revision(b.ctx)
	if err == nil {
		err = b.checkWhole(b.ctx)
	}
	if err != nil {
		_ = b.Close() // the error that counts is the first
		return nil, fmt.Errorf("open storage: %w", err)
	}
	return b, nil
}

// Close ends all watches and requests, and the connection.
func (b *Backend) Close() error {
	if b.ctx.Err() != nil {
		return nil
	}
	b.end(backend.ErrClosed)
	err := b.client.Close()
	b.newest.Close(backend.ErrClosed)
	return err
}

// Get reads a key, as backend.Backend says.
func (b *Backend) Get(ctx context.Context, key string) (backend.Entry, int64, error) {
	var r *clientv3.GetResponse
	if err := b.call(ctx, repeatable, func(ctx context.Context) (err error) {
		r, err = b.client.Get(ctx, key)
		return err
	}); err != nil {
		return backend.Entry{}, 0, err
	}
	if len(r.Kvs) == 0 {
		return backend.Entry{}, r.Header.Revision, backend.ErrNotFound
	}
	entries, err := b.entries(ctx, r.Kvs)
	if err != nil {
		return backend.Entry{}, 0, err
	}
	return entries[0], r.Header.Revision, nil
}

// Revision is the newest revision.
func (b *Backend) Revision(ctx context.Context) (int64, error) { return b.newest.Ask(ctx) }

func (b *Backend) askRevision(ctx context.Context) (revision int64, err error) {
	err = b.call(ctx, repeatable, func(ctx context.Context) error {
		r, err := b.client.Get(ctx, compactKey, clientv3.WithCountOnly())
		if err == nil {
			revision = r.Header.Revision
		}
		return err
	})
	return revision, err
}
