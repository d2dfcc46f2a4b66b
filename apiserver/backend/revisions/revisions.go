// Package revisions is the index that engines without revisions of their own
// (memory, file) share: which key was written at which revisions. Values are
// kept by the engine, under the revision that wrote them.
package revisions

import (
	"slices"
	"strings"

	"github.com/google/btree"
)

// Index knows all revisions of all keys back to the last compaction. It may be
// read concurrently, but not while it is changed.
type Index struct {
	keys *btree.BTreeG[*history]
}

// history is the writes of one key, oldest first and never empty.
type history struct {
	key    string
	writes []write
}

type write struct {
	revision int64
	deleted  bool
}

// New returns an empty index.
func New() *Index {
	return &Index{keys: btree.NewG(32, func(a, b *history) bool { return a.key < b.key })}
}

// Current is the revision of the value key has; 0 if it has none.
func (x *Index) Current(key string) int64 {
	h, ok := x.keys.Get(&history{key: key})
	if !ok {
		return 0
	}
	return h.at(h.writes[len(h.writes)-1].revision)
}

// Add records that key was written, or deleted, at a revision greater than all
// before it.
func (x *Index) Add(key string, revision int64, deleted bool) {
	h, ok := x.keys.Get(&history{key: key})
	if !ok {
		h = &history{key: key}
		x.keys.ReplaceOrInsert(h)
	}
	h.writes = append(h.writes, write{revision, deleted})
}

// Entry is a key and the revision of its value.
type Entry struct {
	Key      string
	Revision int64
}

// List returns up to limit (0: all) keys below prefix that follow after and had
// a value at a revision, and how many more there are.
func (x *Index) List(prefix, after string, limit int, revision int64) (entries []Entry, more int64) {
	x.keys.AscendGreaterOrEqual(&history{key: max(prefix, after)}, func(h *history) bool {
		if !strings.HasPrefix(h.key, prefix) {
			return false
		}
		at := h.at(revision)
		switch {
		case at == 0 || h.key == after:
		case limit > 0 && len(entries) == limit:
			more++
		default:
			entries = append(entries, Entry{h.key, at})
		}
		return true
	})
	return entries, more
}

// Compact forgets the writes that no revision from the given one on can see
// and returns their revisions.
func (x *Index) Compact(revision int64) (dropped []int64) {
	var gone []*history
	x.keys.Ascend(func(h *history) bool {
		first := h.visible(revision)
		for _, w := range h.writes[:first] {
			dropped = append(dropped, w.revision)
		}
		if first == len(h.writes) {
			gone = append(gone, h)
		} else if first > 0 {
			h.writes = slices.Clone(h.writes[first:])
		}
		return true
	})
	for _, h := range gone {
		x.keys.Delete(h)
	}
	return dropped
}

// at is the revision of the value at a revision; 0 if there was none.
func (h *history) at(revision int64) int64 {
	for _, w := range slices.Backward(h.writes) {
		if w.revision > revision {
			continue
		}
		if w.deleted {
			return 0
		}
		return w.revision
	}
	return 0
}

// visible is the position of the first write that a revision, or a later one,
// can see.
func (h *history) visible(revision int64) int {
	first := 0
	for first+1 < len(h.writes) && h.writes[first+1].revision <= revision {
		first++
	}
	if w := h.writes[first]; w.deleted && w.revision <= revision {
		first++
	}
	return first
}
