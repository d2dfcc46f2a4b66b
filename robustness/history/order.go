package history

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// sighting is a moment at which somebody was told of a revision.
type sighting struct {
	by       string
	called   time.Duration // when the question was asked
	returned time.Duration
	revision int64
	// fresh: the revision was not there before the call, as it is that of the
	// write itself. newest: it was the newest at some moment after the call.
	fresh, newest bool
}

// order checks that revisions follow the clock: what begins after a revision was
// seen by anybody gets a greater one if it writes, and is not older if it lists.
func (h *History) order() (violations []string) {
	seen := h.sightings()
	byReturn := slices.Clone(seen)
	slices.SortStableFunc(byReturn, func(a, b sighting) int { return cmp.Compare(a.returned, b.returned) })
	slices.SortStableFunc(seen, func(a, b sighting) int { return cmp.Compare(a.called, b.called) })
	var latest sighting // with the greatest revision that had been told of before
	next := 0
	for _, s := range seen {
		for ; next < len(byReturn) && byReturn[next].returned < s.called; next++ {
			if byReturn[next].revision > latest.revision {
				latest = byReturn[next]
			}
		}
		if s.fresh && s.revision <= latest.revision || s.newest && s.revision < latest.revision {
			violations = append(violations, fmt.Sprintf("%s, begun at %v, has revision %d, but %s told of %d at %v",
				s.by, s.called, s.revision, latest.by, latest.revision, latest.returned))
		}
	}
	return violations
}

func (h *History) sightings() (seen []sighting) {
	for _, o := range h.Operations {
		if o.Outcome != Done {
			continue
		}
		s := sighting{by: o.String(), called: o.Call, returned: o.Return, revision: o.Object.Revision}
		switch o.Verb {
		case Delete:
			continue // its revision is not told
		case List:
			s.revision, s.newest = o.Revision, o.Freshness == Newest
		case Create, Update, Patch:
			s.fresh = true
		}
		seen = append(seen, s)
	}
	for _, session := range h.Sessions {
		for _, e := range session.Events {
			seen = append(seen, sighting{
				by: fmt.Sprintf("%s of %s by watch %s", e.Type, e.Key, session.Watcher), called: e.Time, returned: e.Time, revision: e.Object.Revision,
			})
		}
	}
	return seen
}
