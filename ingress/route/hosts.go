package route

import (
	"hash/maphash"
	"maps"
)

// hosts are what is served for names, in parts, so that a Table that differs in one name shares all other parts with the
// one before. The zero value is empty.
type hosts struct {
	parts [parts]map[string]*host
}

// parts is how many there are: a change copies one, and the list of all.
const parts = 256

var seed = maphash.MakeSeed()

func partOf(name string) int { return int(maphash.String(seed, name) % parts) }

func (h *hosts) get(name string) *host { return h.parts[partOf(name)][name] }

// with is a copy in which names have other hosts, or none where they are nil.
func (h *hosts) with(changed map[string]*host) hosts {
	next := *h
	var own [parts]bool
	for name, now := range changed {
		part := partOf(name)
		if !own[part] {
			own[part] = true
			if next.parts[part] = maps.Clone(next.parts[part]); next.parts[part] == nil {
				next.parts[part] = make(map[string]*host)
			}
		}
		if now == nil {
			delete(next.parts[part], name)
		} else {
			next.parts[part][name] = now
		}
	}
	return next
}
