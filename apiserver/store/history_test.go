package store

import (
	"reflect"
	"testing"
	"time"
)

func TestHistoryPlan(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }
	for _, c := range []struct {
		name     string
		have     history
		revision int64
		now      time.Time
		want     history
	}{
		{"first", history{}, 0, at(0),
			history{Points: []point{{0, at(0)}}}},
		{"the last point learns its revision", history{Points: []point{{0, at(0)}}}, 7, at(1),
			history{Points: []point{{7, at(0)}, {0, at(1)}}}},
		{"what is old enough goes", history{Compacted: 3, Points: []point{{7, at(0)}, {9, at(1)}, {0, at(2)}}}, 11, at(6),
			history{Compacted: 9, Points: []point{{11, at(2)}, {0, at(6)}}}},
		{"after a long stop", history{Compacted: 3, Points: []point{{7, at(0)}, {0, at(1)}}}, 9, at(600),
			history{Compacted: 9, Points: []point{{0, at(600)}}}},
		{"a clock that went back", history{Compacted: 3, Points: []point{{0, at(10)}}}, 9, at(5),
			history{Compacted: 3, Points: []point{{9, at(10)}, {0, at(5)}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.have.plan(c.now, c.revision, 5*time.Minute, func(p point) time.Duration { return c.now.Sub(p.Time) }); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// History is kept for its time whatever becomes of the clock on the wall.
func TestHistoryOutlivesClockJumps(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for name, jump := range map[string]time.Duration{"none": 0, "ahead": time.Hour, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			var h history
			var known ages
			// It is looked every minute; in the third the clock jumps. Revisions are minutes.
			for minute := range 12 {
				own := time.Duration(minute) * time.Minute
				wall := noon.Add(own)
				if minute >= 3 {
					wall = wall.Add(jump)
				}
				h = h.plan(wall, int64(minute), 5*time.Minute, known.look(h, wall, own))
				if kept := int64(minute) - h.Compacted; h.Compacted > 0 && (kept < 4 || kept > 6) {
					t.Errorf("in minute %d, %d minutes are kept, want 5", minute, kept)
				}
			}
			if h.Compacted == 0 {
				t.Error("nothing was compacted in 12 minutes")
			}
		})
	}
}

// A server that begins trusts what points say of the clock, as far as that can be.
func TestAgesOfOthers(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	old, future, later := point{1, noon.Add(-time.Hour)}, point{2, noon.Add(time.Hour)}, point{3, noon.Add(-2 * time.Hour)}
	var known ages
	age := known.look(history{Points: []point{old, future}}, noon, 0)
	if age(old) != time.Hour || age(future) != 0 {
		t.Errorf("got %v and %v, want an hour and nothing", age(old), age(future))
	}
	// Another server's clock is behind: its point is no older than the last look.
	age = known.look(history{Points: []point{future, later}}, noon, time.Minute)
	if age(future) != time.Minute || age(later) != time.Minute {
		t.Errorf("a minute later: got %v and %v, want a minute each", age(future), age(later))
	}
}
