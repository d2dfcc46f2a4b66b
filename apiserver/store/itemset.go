package store

import (
	"strings"

	"github.com/google/btree"
)

// tree is a sorted set of items that can be cloned at once; clones share what
// neither has changed since.
type tree = btree.BTreeG[*Item]

func newTree(less btree.LessFunc[*Item]) *tree { return btree.NewG(32, less) }

// itemSet is a set of items that finds them by key, by their labels and by the
// value of the field that the kind is indexed by, so that reading some of many
// costs what they are.
type itemSet struct {
	byKey      *tree
	byLabels   *tree // in a namespace, all that have the same labels side by side
	byValue    *tree // nil for kinds without such a field
	unreadable int   // so many have neither labels nor a value that anybody knows
}

func newItemSet(indexed bool) *itemSet {
	s := &itemSet{byKey: newTree(lessKey), byLabels: newTree(lessLabels)}
	if indexed {
		s.byValue = newTree(lessValue)
	}
	return s
}

func lessKey(a, b *Item) bool { return a.key < b.key }

func lessValue(a, b *Item) bool {
	if a.value != b.value {
		return a.value < b.value
	}
	return a.key < b.key
}

func lessLabels(a, b *Item) bool {
	if in, other := namespaceOf(a.key), namespaceOf(b.key); in != other {
		return in < other
	}
	if order := a.labels.compare(b.labels); order != 0 {
		return order < 0
	}
	return a.key < b.key
}

// namespaceOf is the part of a key before the name, empty for what is in no namespace.
func namespaceOf(key string) string { return key[:strings.IndexByte(key, '/')+1] }

// others are the trees beside byKey.
func (s *itemSet) others() [2]*tree { return [2]*tree{s.byLabels, s.byValue} }

func (s *itemSet) len() int { return s.byKey.Len() }

func (s *itemSet) get(key string) (*Item, bool) { return s.byKey.Get(&Item{key: key}) }

// put adds an item and returns the one whose key it has, which is there no more.
func (s *itemSet) put(item *Item) (old *Item) {
	old, _ = s.byKey.ReplaceOrInsert(item)
	s.count(old, -1)
	s.count(item, +1)
	moved := old != nil && (old.value != item.value || old.labels.compare(item.labels) != 0)
	for _, t := range s.others() {
		if t == nil {
			continue
		}
		if moved { // else it takes the place of old
			t.Delete(old)
		}
		t.ReplaceOrInsert(item)
	}
	return old
}

// remove takes out the item with a key and returns it.
func (s *itemSet) remove(key string) (old *Item) {
	old, _ = s.byKey.Delete(&Item{key: key})
	if old == nil {
		return nil
	}
	s.count(old, -1)
	for _, t := range s.others() {
		if t != nil {
			t.Delete(old)
		}
	}
	return old
}

func (s *itemSet) count(item *Item, by int) {
	if item != nil && item.broken != nil {
		s.unreadable += by
	}
}

func (s *itemSet) clone() *itemSet {
	c := &itemSet{byKey: s.byKey.Clone(), byLabels: s.byLabels.Clone(), unreadable: s.unreadable}
	if s.byValue != nil {
		c.byValue = s.byValue.Clone()
	}
	return c
}

// share makes item, which nobody else knows yet, have its labels in common
// with those beside it that have the same: pods of one owner mostly do.
func (s *itemSet) share(item *Item) {
	s.byLabels.AscendGreaterOrEqual(&Item{key: namespaceOf(item.key), labels: item.labels}, func(beside *Item) bool {
		if beside.labels.compare(item.labels) == 0 {
			item.labels = beside.labels
		}
		return false
	})
}
