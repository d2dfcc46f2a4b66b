// Package footprint gives memory back to the system when a process has become quiet.
//
// Go collects garbage when the heap has doubled, and keeps what was freed for the heap that it expects. After a load that
// heap does not come, and nothing is allocated that would tell: a server that held a hundred megabytes for a minute would hold
// them for good. So would the pages of the program that only its start needed.
package footprint

import (
	"context"
	"log/slog"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Every is how often Keep looks.
const Every = 10 * time.Second

const (
	// early is how often it looks at first: what a process needs to start alone is most of what it holds until it has something to do.
	early      = 3 * time.Second
	earlyLooks = 2
	// quiet is how much a process allocates between two looks that has nothing to do.
	quiet = 4 << 20
	// worthwhile is the least for which memory is given back, beside a quarter of the live heap: it takes a collection.
	worthwhile = 16 << 20
	// again is after how many more looks it is given back once more: what is kept for a while after a load is gone by then.
	again = 4
)

// Keep gives back what is free or garbage whenever the process is quiet after a load, until ctx ends.
func Keep(ctx context.Context) {
	var k keeper
	for looks := 0; ; looks++ {
		wait := Every
		if looks < earlyLooks {
			wait = early
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !k.look(take()) {
			continue
		}
		debug.FreeOSMemory()
		if err := giveBackProgram(); err != nil {
			slog.Debug("The pages of the program stay", "error", err)
		}
	}
}

// sample is the memory of the process, in bytes.
type sample struct {
	allocated uint64 // since it began
	live      uint64 // at the last collection
	free      uint64 // neither used nor given back
}

func take() sample {
	read := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(read)
	return sample{allocated: read[0].Value.Uint64(), live: read[1].Value.Uint64(), free: read[2].Value.Uint64()}
}

// keeper decides when memory is given back. The zero value is of a process that just began.
type keeper struct {
	allocated uint64 // at the last look
	given     uint64 // what was allocated when memory was last given back
	left      int    // looks until it is given back once more
}

// look reports whether memory is to be given back now.
func (k *keeper) look(now sample) bool {
	since := now.allocated - k.allocated
	k.allocated = now.allocated
	if since >= quiet {
		return false
	}
	much := max(worthwhile, now.live/4)
	if now.allocated-k.given >= much { // so much at most is garbage by now
		k.given, k.left = now.allocated, again
		return true
	}
	if k.left > 0 {
		k.left--
		return k.left == 0
	}
	return now.free >= much
}
