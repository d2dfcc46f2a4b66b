package store

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// pairs are names with their values, one after the other: a map of so few takes several times as much memory.
type pairs []string

var _ labels.Labels = pairs(nil)

func newPairs(m map[string]string) pairs {
	if len(m) == 0 {
		return nil
	}
	p := make(pairs, 0, 2*len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		p = append(p, name, m[name])
	}
	return p
}

// Lookup implements labels.Labels.
func (p pairs) Lookup(name string) (value string, exists bool) {
	for i := 0; i < len(p); i += 2 {
		if p[i] == name {
			return p[i+1], true
		}
	}
	return "", false
}

// Has implements labels.Labels.
func (p pairs) Has(name string) bool {
	_, exists := p.Lookup(name)
	return exists
}

// Get implements labels.Labels.
func (p pairs) Get(name string) string {
	value, _ := p.Lookup(name)
	return value
}

// labelSet is the labels of an object, or of many that have the same.
type labelSet struct {
	pairs pairs
	hash  uint64 // so that sets are seldom compared name by name
}

var (
	seed       = maphash.MakeSeed()
	unlabelled = &labelSet{}
)

func newLabelSet(m map[string]string) *labelSet {
	if len(m) == 0 {
		return unlabelled
	}
	set := &labelSet{pairs: newPairs(m)}
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range set.pairs {
		h.WriteString(part)
		h.WriteByte(0)
	}
	set.hash = h.Sum64()
	return set
}

// compare orders sets of labels; nil, of what is unreadable, comes first. The
// order is another one in each process.
func (s *labelSet) compare(other *labelSet) int {
	switch {
	case s == other:
		return 0
	case s == nil:
		return -1
	case other == nil:
		return 1
	case s.hash != other.hash:
		return cmp.Compare(s.hash, other.hash)
	}
	return slices.Compare(s.pairs, other.pairs)
}
