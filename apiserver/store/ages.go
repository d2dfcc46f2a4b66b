package store

import "time"

// ages knows how old the points of a history are by a clock that nobody sets.
// The clock on the wall may jump: what a point says of it is trusted for what was
// there when the process began, and no further.
type ages struct {
	looked bool
	last   time.Duration           // when it was looked at the history, by our clock
	born   map[int64]time.Duration // when points were made, by what they say of it
}

// look returns how old each point of h is, at a time by the clock on the wall and
// by our own.
func (a *ages) look(h history, wall time.Time, own time.Duration) func(point) time.Duration {
	born := make(map[int64]time.Duration, len(h.Points))
	for _, p := range h.Points {
		says := p.Time.UnixNano()
		at, known := a.born[says]
		if !known {
			age := max(0, wall.Sub(p.Time))
			if a.looked { // it was not there then
				age = min(age, own-a.last)
			}
			at = own - age
		}
		born[says] = at
	}
	a.looked, a.last, a.born = true, own, born
	return func(p point) time.Duration { return own - born[p.Time.UnixNano()] }
}
