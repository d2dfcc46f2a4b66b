package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// futureWait is how long a read waits for a revision that has not come yet.
const futureWait = 3 * time.Second

// Get reads an object as it is at the newest revision of the backend.
// ErrNotFound, ErrUnreadable.
func (s *Store) Get(ctx context.Context, r *resource.Resource, namespace, name string) (*Item, error) {
	k, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	return s.get(ctx, k, k.key(namespace, name))
}

func (s *Store) get(ctx context.Context, k *kind, key string) (*Item, error) {
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	item, ok := k.get(key)
	if !ok {
		return nil, ErrNotFound
	}
	if item.broken != nil {
		return nil, item.broken
	}
	return item, nil
}

// Snapshot returns all matching items in the order of keys and the revision
// they are of, which is at least minRevision; 0 takes what the cache has, -1
// waits for the newest revision of the backend. A watch after the revision
// misses nothing and repeats nothing. ErrFuture, ErrUnreadable.
func (s *Store) Snapshot(ctx context.Context, r *resource.Resource, m Match, minRevision int64) ([]*Item, int64, error) {
	k, err := s.kind(r)
	if err != nil {
		return nil, 0, err
	}
	v, err := s.atLeast(ctx, k, minRevision)
	if err != nil {
		return nil, 0, err
	}
	items, err := v.all(m)
	return items, v.revision, err
}

// Count is how many objects of r there are in a namespace, or in all, as the cache has it; it does not count beyond most.
func (s *Store) Count(r *resource.Resource, namespace string, most int) (n int) {
	k, err := s.kind(r)
	if err != nil {
		return 0
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if namespace == "" || r.ClusterScoped {
		return min(k.items.len(), most)
	}
	prefix := k.key(namespace, "")
	k.items.byKey.AscendGreaterOrEqual(&Item{key: prefix}, func(item *Item) bool {
		if n == most || !strings.HasPrefix(item.key, prefix) {
			return false
		}
		n++
		return true
	})
	return n
}

// Changed is the revision of the newest change of any object of r, once the cache has the newest revision of the backend.
// It is as cheap as a read, and tells who keeps what it made of the objects whether it still holds.
func (s *Store) Changed(ctx context.Context, r *resource.Resource) (int64, error) {
	k, err := s.kind(r)
	if err != nil {
		return 0, err
	}
	if err := s.catchUp(ctx); err != nil {
		return 0, err
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.last, nil
}

// Revision is the newest revision of the backend.
func (s *Store) Revision(ctx context.Context) (int64, error) { return s.backend.Revision(ctx) }

// catchUp waits until the cache has the newest revision of the backend, as of the beginning of a request if ctx is of one.
func (s *Store) catchUp(ctx context.Context) error {
	revision, err := s.newest(ctx)
	if err != nil {
		return err
	}
	return s.progress.wait(ctx, revision)
}

// atLeast is a view of k that is not older than revision, as in Snapshot.
func (s *Store) atLeast(ctx context.Context, k *kind, revision int64) (*view, error) {
	var err error
	switch {
	case revision < 0:
		err = s.catchUp(ctx)
	case revision > 0:
		err = s.waitFor(ctx, revision)
	}
	if err != nil {
		return nil, err
	}
	return k.now(s.progress.reached.Load()), nil
}

var errNotYet = errors.New("revision not reached in time")

// waitFor waits for a revision a client named.
func (s *Store) waitFor(ctx context.Context, revision int64) error {
	if s.progress.reached.Load() >= revision {
		return nil
	}
	limited, cancel := context.WithTimeoutCause(ctx, futureWait, errNotYet)
	defer cancel()
	err := s.progress.wait(limited, revision)
	if errors.Is(err, errNotYet) {
		return &FutureError{Asked: revision, Current: s.progress.reached.Load()}
	}
	return err
}
