// Package memory is the engine behind memory://: everything is in this
// process and ends with it. It is meant for tests and throw-away clusters.
package memory

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/changelog"
	"github.com/skiff-k8s/skiff/apiserver/backend/lifetime"
)

// Backend keeps all revisions of all keys back to the last compaction.
type Backend struct {
	mu        sync.RWMutex
	keys      *btree.BTreeG[*history]
	revision  int64
	compacted int64
	closed    bool

	log       *changelog.Log
	lifetimes *lifetime.Queue
}

var _ backend.Backend = (*Backend)(nil)

// history is what happened to one key, oldest first and never empty.
type history struct {
	key      string
	versions []version
}

// version is a value from a revision on; nil: the key was deleted.
type version struct {
	revision int64
	value    []byte
}

// New returns an empty backend.
func New() *Backend {
	b := &Backend{
		keys: btree.NewG(32, func(a, b *history) bool { return a.key < b.key }),
		log:  changelog.New(0),
	}
	b.lifetimes = lifetime.Start(func(key string, revision int64) {
		_, _ = b.Delete(context.Background(), key, revision) // fails only if the key has been written since
	})
	return b
}

func (b *Backend) Get(ctx context.Context, key string) (backend.Entry, int64, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return backend.Entry{}, 0, backend.ErrClosed
	}
	h, ok := b.keys.Get(&history{key: key})
	if !ok || h.last().value == nil {
		return backend.Entry{}, b.revision, backend.ErrNotFound
	}
	return backend.Entry{Key: key, Value: h.last().value, Revision: h.last().revision}, b.revision, nil
}

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
	page := backend.Page{Revision: revision}
	b.keys.AscendGreaterOrEqual(&history{key: max(prefix, after)}, func(h *history) bool {
		if !strings.HasPrefix(h.key, prefix) {
			return false
		}
		v := h.at(revision)
		switch {
		case h.key == after || v.value == nil:
		case limit > 0 && len(page.Entries) == limit:
			page.More++
		default:
			page.Entries = append(page.Entries, backend.Entry{Key: h.key, Value: v.value, Revision: v.revision})
		}
		return true
	})
	return page, nil
}

func (b *Backend) Put(ctx context.Context, key string, value []byte, expected int64, life time.Duration) (int64, error) {
	if value == nil {
		value = []byte{}
	}
	revision, err := b.write(key, value, expected)
	if err == nil && life > 0 {
		b.lifetimes.Add(key, revision, time.Now().Add(life))
	}
	return revision, err
}

func (b *Backend) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	if expected == backend.Absent {
		return 0, backend.ErrConflict
	}
	return b.write(key, nil, expected)
}

func (b *Backend) write(key string, value []byte, expected int64) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, backend.ErrClosed
	}
	h, ok := b.keys.Get(&history{key: key})
	var old version
	if ok {
		old = h.last()
	}
	if old.value == nil {
		old = version{}
	}
	if old.revision != expected {
		return 0, backend.ErrConflict
	}
	if !ok {
		h = &history{key: key}
		b.keys.ReplaceOrInsert(h)
	}
	b.revision++
	h.versions = append(h.versions, version{b.revision, value})
	b.log.Append(backend.Change{Key: key, Value: value, Old: old.value, Revision: b.revision, OldRevision: old.revision})
	return b.revision, nil
}

func (b *Backend) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.log.Watch(ctx, prefix, after, func(int64) ([]backend.Change, error) { return nil, backend.ErrCompacted })
}

func (b *Backend) Revision(ctx context.Context) (int64, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return 0, backend.ErrClosed
	}
	return b.revision, nil
}

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
	var gone []*history
	b.keys.Ascend(func(h *history) bool {
		if h.compact(revision) {
			gone = append(gone, h)
		}
		return true
	})
	for _, h := range gone {
		b.keys.Delete(h)
	}
	return nil
}

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

func (h *history) last() version { return h.versions[len(h.versions)-1] }

// at is the version that was current at a revision; zero if there was none.
func (h *history) at(revision int64) version {
	i, found := slices.BinarySearchFunc(h.versions, revision, func(v version, r int64) int { return int(v.revision - r) })
	switch {
	case found:
		return h.versions[i]
	case i == 0:
		return version{}
	}
	return h.versions[i-1]
}

// compact drops the versions no revision from the given one on can see. gone
// reports that none is left.
func (h *history) compact(revision int64) (gone bool) {
	first := 0
	for first+1 < len(h.versions) && h.versions[first+1].revision <= revision {
		first++
	}
	if first > 0 {
		h.versions = slices.Clone(h.versions[first:])
	}
	return len(h.versions) == 1 && h.versions[0].value == nil && h.versions[0].revision <= revision
}
