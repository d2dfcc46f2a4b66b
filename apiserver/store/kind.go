package store

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// tree is a sorted set of items that can be cloned at once; clones share what
// neither has changed since.
type tree = btree.BTreeG[*Item]

func newTree() *tree {
	return btree.NewG(32, func(a, b *Item) bool { return a.key < b.key })
}

// kind is the cache and the feed of one kind. Only the follower changes it.
type kind struct {
	r          *resource.Resource // the stored version
	prefix     string             // of keys in the backend
	encryption Encryption
	locked     atomic.Bool // something could not be decrypted
	feed       *feed
	gone       chan struct{} // closed when the kind is removed or replaced

	mu    sync.RWMutex
	items *tree
	last  int64 // revision of the newest change applied
	// snapshot is a clone of items, made for readers and dropped by the next
	// change. Readers walk it without a lock.
	snapshot *tree
	past     []*view // of older revisions, the last used in front
}

func newKind(r *resource.Resource, encryption Encryption, revision int64) *kind {
	return &kind{r: r, prefix: r.Key("", ""), encryption: encryption, feed: newFeed(r, revision), gone: make(chan struct{}), items: newTree(), last: revision}
}

// key is where an object is below the prefix of the kind.
func (k *kind) key(namespace, name string) string {
	if k.r.ClusterScoped || namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func (k *kind) get(key string) (*Item, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.items.Get(&Item{key: key})
}

// step is a change of one object: item (nil: a delete) becomes current under key.
type step struct {
	key      string
	item     *Item
	revision int64
}

// apply makes steps, all there are of their revision, current at once, and
// returns the events that they are.
func (k *kind) apply(steps []step) []*Event {
	k.mu.Lock()
	defer k.mu.Unlock() // for both: rewind must find the feed no shorter than items
	events := make([]*Event, len(steps))
	for i, st := range steps {
		var old *Item
		if st.item != nil {
			old, _ = k.items.ReplaceOrInsert(st.item)
		} else {
			old, _ = k.items.Delete(&Item{key: st.key})
		}
		k.last = st.revision
		events[i] = &Event{New: st.item, Old: old, Revision: st.revision, at: time.Now()}
	}
	k.snapshot = nil
	k.feed.append(events...)
	return events
}

// now is a view of all items at the newest revision applied. applied is the
// revision the whole store had reached when now was called, or an older one.
func (k *kind) now(applied int64) *view {
	k.mu.RLock()
	snapshot, last := k.snapshot, k.last
	k.mu.RUnlock()
	if snapshot == nil {
		k.mu.Lock()
		if k.snapshot == nil {
			k.snapshot = k.items.Clone()
		}
		snapshot, last = k.snapshot, k.last
		k.mu.Unlock()
	}
	// The follower changes the kind first and says so afterwards: the kind can
	// be ahead of the store, never behind.
	return &view{k: k, items: snapshot, revision: max(applied, last)}
}

// view is all items of a kind at a revision. Its items never change.
type view struct {
	k        *kind
	items    *tree
	revision int64
}

// each calls f with the items that match or, as they are unreadable, may
// match, and whose keys are not less than start, in order, until f returns
// false.
func (v *view) each(m Match, start string, f func(*Item) bool) {
	match := v.k.matcher(m)
	if match.key != "" {
		item, ok := v.items.Get(&Item{key: match.key})
		if ok && item.key >= start && match.possible(item) {
			f(item)
		}
		return
	}
	v.items.AscendGreaterOrEqual(&Item{key: max(start, match.prefix)}, func(item *Item) bool {
		if !strings.HasPrefix(item.key, match.prefix) {
			return false
		}
		return !match.possible(item) || f(item)
	})
}

// all are the items that match. ErrUnreadable.
func (v *view) all(m Match) (items []*Item, err error) {
	items = []*Item{}
	if m.plain() && m.Namespace == "" {
		items = make([]*Item, 0, v.items.Len())
	}
	v.each(m, "", func(item *Item) bool {
		items, err = append(items, item), item.broken
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}
