package store

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// kind is the cache and the feed of one kind. Only the follower changes it.
type kind struct {
	r          *resource.Resource // the stored version
	shape      *shape
	prefix     string // of keys in the backend
	encryption Encryption
	locked     atomic.Bool // something could not be decrypted
	feed       *feed
	gone       chan struct{} // closed when the kind is removed or replaced

	mu    sync.RWMutex
	items *itemSet
	last  int64 // revision of the newest change applied
	// snapshot is a clone of items, made for readers and dropped by the next
	// change. Readers walk it without a lock.
	snapshot *itemSet
	past     []*view // of older revisions, the last used in front
}

func newKind(s *shape, encryption Encryption, revision int64) *kind {
	r := s.r
	return &kind{r: r, shape: s, prefix: r.Key("", ""), encryption: encryption, feed: newFeed(r, revision), gone: make(chan struct{}), items: newItemSet(r.IndexBy != ""), last: revision}
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
	return k.items.get(key)
}

// end says that the kind is gone.
func (k *kind) end() {
	close(k.gone)
	k.feed.wakeReaders()
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
			k.items.share(st.item)
			old = k.items.put(st.item)
		} else {
			old = k.items.remove(st.key)
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
			k.snapshot = k.items.clone()
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
	items    *itemSet
	revision int64
}

// each calls f with the items that match or, as they are unreadable, may
// match, and whose keys are not less than start, in order, until f returns
// false.
func (v *view) each(m Match, start string, f func(*Item) bool) {
	match := v.k.matcher(m)
	if match.key != "" {
		item, ok := v.items.get(match.key)
		if ok && item.key >= start && match.possible(item) {
			f(item)
		}
		return
	}
	walk := func(item *Item) bool {
		if !strings.HasPrefix(item.key, match.prefix) {
			return false
		}
		return !match.possible(item) || f(item)
	}
	start = max(start, match.prefix)
	if m.IndexValue == "" || v.items.byValue == nil || v.items.unreadable > 0 {
		v.items.byKey.AscendGreaterOrEqual(&Item{key: start}, walk)
		return
	}
	v.items.byValue.AscendGreaterOrEqual(&Item{key: start, value: m.IndexValue}, func(item *Item) bool {
		return item.value == m.IndexValue && walk(item)
	})
}

// manyInGroup is how many items with labels that do not match are passed one
// by one until the rest of them are looked past.
const manyInGroup = 8

// afterAnyName follows every name in the order of keys.
const afterAnyName = "\xff"

// labelled are the items that match by their labels and all else, and whose
// keys are not less than start, in order. enough is false if somebody should
// walk by key instead: the match is not by labels, or not everything can be
// read, or there are more than most, if that is not 0.
func (v *view) labelled(m Match, start string, most int) (items []*Item, enough bool) {
	match := v.k.matcher(m)
	if match.labels == nil || match.key != "" || m.IndexValue != "" || v.items.unreadable > 0 {
		return nil, false
	}
	items = []*Item{}
	var group *labelSet // of the last item
	var wanted bool
	passed, next := 0, &Item{key: match.prefix}
	look := func(item *Item) (further bool) {
		if !strings.HasPrefix(item.key, match.prefix) {
			return false
		}
		if item.labels != group {
			group, wanted, passed = item.labels, match.labels.Matches(item.labels.pairs), 0
		}
		switch {
		case wanted && item.key >= start && match.place(item) && match.others(item):
			items = append(items, item)
			return most == 0 || len(items) <= most
		case wanted:
			return true
		}
		if passed++; passed > manyInGroup {
			next = &Item{key: namespaceOf(item.key) + afterAnyName, labels: group}
			return false
		}
		return true
	}
	for next != nil {
		from := next
		next = nil
		v.items.byLabels.AscendGreaterOrEqual(from, look)
	}
	if most > 0 && len(items) > most {
		return nil, false
	}
	if byKey := func(a, b *Item) int { return strings.Compare(a.key, b.key) }; !slices.IsSortedFunc(items, byKey) {
		slices.SortFunc(items, byKey)
	}
	return items, true
}

// all are the items that match. ErrUnreadable.
func (v *view) all(m Match) ([]*Item, error) { return v.first(m, "", 0) }

// morePages is how many pages of a list by labels are found at a time, for
// want of a better way to find the first. Where there are more, nearly each
// object may match, and a walk by key is soon done.
const morePages = 8

// first are up to limit matching items, or all if it is 0, from start on.
// ErrUnreadable if one of them is.
func (v *view) first(m Match, start string, limit int) (items []*Item, err error) {
	if found, enough := v.labelled(m, start, limit*morePages); enough {
		return found[:min(len(found), cmp.Or(limit, len(found)))], nil
	}
	items = []*Item{}
	if m.plain() && m.Namespace == "" && start == "" {
		items = make([]*Item, 0, min(v.items.len(), cmp.Or(limit, v.items.len())))
	}
	v.each(m, start, func(item *Item) bool {
		items, err = append(items, item), item.broken
		return err == nil && (limit == 0 || len(items) < limit)
	})
	return items, err
}
