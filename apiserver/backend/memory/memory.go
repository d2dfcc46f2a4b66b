// Package memory is the engine behind memory://: everything is in this
// process and ends with it. It is meant for tests and throw-away clusters.
package memory

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/changelog"
	"github.com/skiff-k8s/skiff/apiserver/backend/lifetime"
	"github.com/skiff-k8s/skiff/apiserver/backend/revisions"
)

// Backend keeps all revisions of all keys back to the last compaction.
type Backend struct {
	mu        sync.RWMutex
	index     *revisions.Index
	values    map[int64]value // by the revision that wrote them
	revision  int64
	compacted int64
	closed    bool

	log       *changelog.Log
	lifetimes *lifetime.Queue
}

type value struct {
	bytes []byte
	end   time.Time // of its lifetime; zero: none
}

var (
	_ backend.Backend = (*Backend)(nil)
	_ backend.Loader  = (*Backend)(nil)
)

// New returns an empty backend. It must be closed.
func New() *Backend {
	b := &Backend{index: revisions.New(), values: make(map[int64]value), log: changelog.New(0, 0)}
	b.lifetimes = lifetime.Start(b.Delete)
	return b
}

// Get reads a key, as backend.Backend says.
func (b *Backend) Get(ctx context.Context, key string) (backend.Entry, int64, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return backend.Entry{}, 0, backend.ErrClosed
	}
	at := b.index.Current(key)
	if at == backend.Absent {
		return backend.Entry{}, b.revision, backend.ErrNotFound
	}
	return b.entry(key, at), b.revision, nil
}

func (b *Backend) entry(key string, at int64) backend.Entry {
	v := b.values[at]
	return backend.Entry{Key: key, Value: v.bytes, Revision: at, End: v.end}
}

// List reads entries, as backend.Backend says.
func (b *Backend) List(ctx context.Context, prefix, after string, limit int, revision int64) (backend.Page, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	switch {
	case b.closed:
		return backend.Page{}, backend.ErrClosed
	case revision == 0:
		revision = b.revision
	case revision < b.compacted:
		return backend.Page{}, backend.ErrCompacted
	case revision > b.revision:
		return backend.Page{}, backend.ErrFuture
	}
	entries, more := b.index.List(prefix, after, limit, revision)
	page := backend.Page{Revision: revision, More: more}
	for _, e := range entries {
		page.Entries = append(page.Entries, b.entry(e.Key, e.Revision))
	}
	return page, nil
}

// Put writes a key, as backend.Backend says.
func (b *Backend) Put(ctx context.Context, key string, bytes []byte, expected int64, life time.Duration) (int64, error) {
	if bytes == nil {
		bytes = []byte{} // nil means deleted
	}
	v := value{bytes: bytes}
	if life > 0 {
		v.end = time.Now().Add(life)
	}
	revision, err := b.write(key, v, expected)
	if err == nil && life > 0 {
		b.lifetimes.Add(key, revision, v.end)
	}
	return revision, err
}

// Delete removes a key, as backend.Backend says.
func (b *Backend) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	if expected == backend.Absent {
		return 0, backend.ErrConflict
	}
	return b.write(key, value{}, expected)
}

// write writes v, or deletes key if v has no bytes.
func (b *Backend) write(key string, v value, expected int64) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, backend.ErrClosed
	}
	if b.index.Current(key) != expected {
		return 0, backend.ErrConflict
	}
	b.revision++
	b.index.Add(key, b.revision, v.bytes == nil)
	if v.bytes != nil {
		b.values[b.revision] = v
	}
	b.log.Append(backend.Change{Key: key, Value: v.bytes, Revision: b.revision})
	return b.revision, nil
}

// Load fills the backend, as backend.Loader says.
func (b *Backend) Load(ctx context.Context, writes iter.Seq[backend.Entry], compacted, newest int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return backend.ErrClosed
	case b.revision > 0:
		return backend.ErrNotEmpty
	}
	all := slices.Collect(writes)
	if err := ctx.Err(); err != nil {
		return err
	}
	b.log.Reset(compacted)
	for _, w := range all {
		b.index.Add(w.Key, w.Revision, w.Value == nil)
		if w.Value != nil {
			b.values[w.Revision] = value{w.Value, w.End}
		}
		if !w.End.IsZero() {
			b.lifetimes.Add(w.Key, w.Revision, w.End)
		}
		if w.Revision > compacted {
			b.log.Append(backend.Change{Key: w.Key, Value: w.Value, Revision: w.Revision})
		}
	}
	b.revision, b.compacted = newest, compacted
	return nil
}

// Watch yields changes, as backend.Backend says.
func (b *Backend) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.log.Watch(ctx, prefix, after, func(int64) ([]backend.Change, error) { return nil, backend.ErrCompacted })
}

// Revision is the newest revision.
func (b *Backend) Revision(ctx context.Context) (int64, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return 0, backend.ErrClosed
	}
	return b.revision, nil
}

// Compact forgets history, as backend.Backend says.
func (b *Backend) Compact(ctx context.Context, revision int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return backend.ErrClosed
	case revision > b.revision:
		return backend.ErrFuture
	case revision <= b.compacted:
		return nil
	}
	b.compacted = revision
	b.log.Forget(revision)
	for _, dropped := range b.index.Compact(revision) {
		delete(b.values, dropped)
	}
	return nil
}

// Close ends all watches and forgets everything.
func (b *Backend) Close() error {
	b.mu.Lock()
	was := b.closed
	b.closed = true
	b.mu.Unlock()
	if was {
		return nil
	}
	b.log.Close()
	b.lifetimes.Stop()
	return nil
}
