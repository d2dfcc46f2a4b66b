package main

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func TestWorkDoesTheFirstJobsOnce(t *testing.T) {
	var sum atomic.Int64
	o, err := work(t.Context(), 4, 100, time.Minute, func(_ context.Context, _, job int) error {
		sum.Add(int64(job))
		return nil
	})
	if err != nil || sum.Load() != 99*100/2 || len(o.took) != 100 || !slices.IsSorted(o.took) {
		t.Errorf("got error %v, sum of jobs %d, %d times; want none, %d, 100 in order", err, sum.Load(), len(o.took), 99*100/2)
	}
}

func TestWorkEnds(t *testing.T) {
	o, err := work(t.Context(), 2, 1<<40, 20*time.Millisecond, func(context.Context, int, int) error {
		time.Sleep(time.Millisecond)
		return nil
	})
	if err != nil || len(o.took) == 0 || len(o.took) > 60 {
		t.Errorf("at its limit: got %d jobs and error %v, want a few and none", len(o.took), err)
	}
	broken := errors.New("broken")
	if _, err = work(t.Context(), 2, 1<<40, time.Minute, func(context.Context, int, int) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("at an error: got %v, want %v", err, broken)
	}
}

func TestTable(t *testing.T) {
	got := table([]column{
		{"real", []figure{{"start", seconds, 4}, {"create", perSecond, 1234.5}, {"disk", mebibytes, 128}}},
		{"ours", []figure{{"start", seconds, 0.5}, {"create", perSecond, 617.25}}},
	})
	want := `| | real | ours | times better |
|---|---:|---:|---:|
| start | 4.0 s | 0.50 s | 8.0 |
| create | 1,230/s | 617/s | 0.50 |
| disk | 128 MiB | – | – |
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestMedians(t *testing.T) {
	run := func(ours ...float64) []column {
		return []column{
			{"real", []figure{{"start", seconds, 4}}},
			{"ours", []figure{{"start", seconds, ours[0]}, {"create", perSecond, ours[1]}}},
		}
	}
	for _, c := range []struct {
		name string
		runs [][]column
		want []column
	}{
		{"of one", [][]column{run(3, 10)}, run(3, 10)},
		{"of three, row by row", [][]column{run(3, 10), run(1, 20), run(2, 15)}, run(2, 15)},
		{"of two", [][]column{run(3, 10), run(1, 20)}, run(2, 15)},
	} {
		if got := medians(c.runs); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestNextCollection(t *testing.T) {
	got, err := nextCollection([]byte("# HELP go_memstats_next_gc_bytes Number\ngo_memstats_next_gc_bytes_total 1\ngo_memstats_next_gc_bytes 4.194304e+06\n"))
	if err != nil || got != 4<<20 {
		t.Errorf("got %v, %v, want %d", got, err, 4<<20)
	}
	if got, err := nextCollection([]byte("go_goroutines 7\n")); err == nil {
		t.Errorf("without it: got %v, want an error", got)
	}
}

// What is done while it is measured counts as busy.
func TestBusyShare(t *testing.T) {
	all, idle, err := processorTicks()
	if err != nil || idle <= 0 || idle > all {
		t.Fatalf("got %d ticks, of which %d idle, and error %v", all, idle, err)
	}
	busy, err := busyShare(t.Context(), 50*time.Millisecond)
	if err != nil || busy < 0 || busy > 1 {
		t.Errorf("got %v, %v, want a share", busy, err)
	}
}
