package footprint

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

const mib = 1 << 20

// TestLook tells what a process allocates from look to look, in MiB, and when memory is given back.
func TestLook(t *testing.T) {
	for _, c := range []struct {
		name       string
		live, free uint64
		allocates  []uint64
		want       string // a letter a look
	}{
		{"after a load, and once more", 10, 0, []uint64{500, 300, 1, 0, 0, 0, 0, 0, 0, 0}, "--G---G---"},
		{"while it is busy", 10, 200, []uint64{5, 5, 5, 5, 5}, "-----"},
		{"a pause in a load", 10, 0, []uint64{100, 1, 100, 1, 0, 0, 0, 0}, "-G-G---G"},
		{"what little adds up to", 10, 0, []uint64{2, 2, 2, 2, 2, 2, 2, 2, 0}, "-------G-"},
		{"beside much that lives that is little", 400, 0, []uint64{20, 3, 1, 0, 0, 0, 0, 0}, "--------"},
		{"what somebody else's collection found", 10, 20, []uint64{1, 0}, "GG"},
		{"a little is free", 10, 15, []uint64{1, 0}, "--"},
	} {
		var k keeper
		got, allocated := "", uint64(0)
		for _, n := range c.allocates {
			allocated += n * mib
			if k.look(sample{allocated: allocated, live: c.live * mib, free: c.free * mib}) {
				got += "G"
			} else {
				got += "-"
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

var held [][]byte

// TestKeep: what a load left is given back while nothing else happens.
func TestKeep(t *testing.T) {
	for range 128 {
		held = append(held, make([]byte, mib))
	}
	runtime.GC()
	held = nil // garbage, and nothing allocates that would have it collected
	full := used()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		go Keep(ctx)
		time.Sleep(2*Every + time.Second)
		stop()
		synctest.Wait()
	})
	if now := used(); now > full-100*mib {
		t.Errorf("%d MiB were the process', %d are", full/mib, now/mib)
	}
}

// used is what of the heap is not the system's.
func used() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapSys - m.HeapReleased
}
