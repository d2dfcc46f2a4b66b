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
			if got := c.have.plan(c.now, c.revision, 5*time.Minute); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
