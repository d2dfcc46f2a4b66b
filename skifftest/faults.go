package skifftest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Fault is something that happens to requests in real clusters. The zero value is none.
type Fault struct {
	kind  faultKind
	delay time.Duration
	after int
}

type faultKind string

const (
	conflict       faultKind = "conflict"
	expired        faultKind = "expired"
	latency        faultKind = "latency"
	droppedWatch   faultKind = "dropped watch"
	delayedWatch   faultKind = "delayed watch"
	staleCache     faultKind = "stale cache"
	refusedWebhook faultKind = "refused webhook"
	lostAnswer     faultKind = "lost answer"
	restart        faultKind = "restart"
)

// Conflict answers an update with 409, as if somebody else had changed the object since it was read.
func Conflict() Fault { return Fault{kind: conflict} }

// Expired answers 410 to a watch that begins at a revision, and to a list that is continued, as after a compaction.
func Expired() Fault { return Fault{kind: expired} }

// Latency has a request wait before it is served.
func Latency(d time.Duration) Fault { return Fault{kind: latency, delay: d} }

// DroppedWatch cuts the connection of a watch when so many events have come, and the next is on its way.
func DroppedWatch(events int) Fault { return Fault{kind: droppedWatch, after: events} }

// DelayedWatch has each event of a watch come so much later than the one before it was read.
func DelayedWatch(d time.Duration) Fault { return Fault{kind: delayedWatch, delay: d} }

// StaleCache holds a watch back once when so many events have come, so that what is made of it, an informer's cache, stays
// as it is for that time, while the cluster goes on.
func StaleCache(events int, d time.Duration) Fault {
	return Fault{kind: staleCache, after: events, delay: d}
}

// RefusedWebhook answers a write with 500, as if an admission webhook could not be reached.
func RefusedWebhook() Fault { return Fault{kind: refusedWebhook} }

// LostAnswer cuts the connection when a write has been done, and before its answer comes.
func LostAnswer() Fault { return Fault{kind: lostAnswer} }

// Restarted restarts the API server, and all that runs beside it: the request finds no server, and all watches end.
func Restarted() Fault { return Fault{kind: restart} }

// String says which one it is; empty: none.
func (f Fault) String() string {
	switch f.kind {
	case latency, delayedWatch:
		return fmt.Sprintf("%s of %v", f.kind, f.delay)
	case droppedWatch:
		return fmt.Sprintf("%s after %d events", f.kind, f.after)
	case staleCache:
		return fmt.Sprintf("%s for %v after %d events", f.kind, f.delay, f.after)
	}
	return string(f.kind)
}

// fits reports whether f can happen to a request.
func (f Fault) fits(r Request) bool {
	switch f.kind {
	case conflict:
		return r.Verb == "update"
	case expired:
		return r.Verb == "watch" && r.ResourceVersion != "" && r.ResourceVersion != "0" || r.Verb == "list" && r.ContinueToken != ""
	case droppedWatch, delayedWatch, staleCache:
		return r.Verb == "watch"
	case refusedWebhook, lostAnswer:
		return r.Resource != "" && slices.Contains([]string{"create", "update", "patch", "delete"}, r.Verb)
	}
	return true
}

// Inject has f strike the next requests that it can happen to, so many times, of those for which when reports true; nil: of
// all. It counts for more than Chaos. The requests of Client are spared.
func (c *Cluster) Inject(f Fault, times int, when func(Request) bool) {
	c.faults.inject(f, times, when)
}

// Chaos has all kinds of faults strike the requests of clients, about every fourth, until calm is called. Those of Client are
// spared, and if users are named, those of all others. Whether and how the nth request to come is struck depends on nothing
// but seed, n and what it asks for: the same seed does the same to the same requests.
func (c *Cluster) Chaos(seed uint64, users ...string) (calm func()) {
	c.t.Helper()
	c.t.Logf("skifftest: chaos with seed %d", seed)
	return c.faults.storm(&storm{seed: seed, users: users})
}

// faults are those that are to strike a cluster.
type faults struct {
	mu       sync.Mutex
	injected []*injection
	current  *storm
}

type injection struct {
	fault Fault
	left  int
	when  func(Request) bool
}

func (f *faults) inject(fault Fault, times int, when func(Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.injected = append(f.injected, &injection{fault, times, when})
}

func (f *faults) storm(s *storm) (calm func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = s
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.current == s {
			f.current = nil
		}
	}
}

// of is the fault that strikes a request.
func (f *faults) of(r Request) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.injected {
		if i.left > 0 && i.fault.fits(r) && (i.when == nil || i.when(r)) {
			i.left--
			return i.fault
		}
	}
	if f.current == nil {
		return Fault{}
	}
	return f.current.next(r)
}

// storm is a sequence of faults.
type storm struct {
	seed, count uint64
	users       []string
}

// next is what happens to the request that has just come.
func (s *storm) next(r Request) Fault {
	if len(s.users) > 0 && !slices.Contains(s.users, r.User) {
		return Fault{}
	}
	s.count++
	return drawn(rand.New(rand.NewPCG(s.seed, s.count)), r)
}

// frequent are how many of a hundred requests that a fault can happen to are struck by it.
var frequent = []struct {
	percent int
	fault   func(*rand.Rand) Fault
}{
	{12, func(*rand.Rand) Fault { return Conflict() }},
	{10, func(*rand.Rand) Fault { return Expired() }},
	{15, func(r *rand.Rand) Fault { return DroppedWatch(r.IntN(8)) }},
	{15, func(r *rand.Rand) Fault { return DelayedWatch(milliseconds(r, 100)) }},
	{10, func(r *rand.Rand) Fault { return StaleCache(r.IntN(8), milliseconds(r, 2000)) }},
	{5, func(*rand.Rand) Fault { return RefusedWebhook() }},
	{5, func(*rand.Rand) Fault { return LostAnswer() }},
	{1, func(*rand.Rand) Fault { return Restarted() }},
	{10, func(r *rand.Rand) Fault { return Latency(milliseconds(r, 50)) }},
}

func milliseconds(r *rand.Rand, most int) time.Duration {
	return time.Duration(1+r.IntN(most)) * time.Millisecond
}

// drawn draws one of the faults that can happen to a request, or none.
func drawn(random *rand.Rand, r Request) Fault {
	n := random.IntN(100)
	for _, kind := range frequent {
		fault := kind.fault(random)
		if !fault.fits(r) {
			continue
		}
		if n < kind.percent {
			return fault
		}
		n -= kind.percent
	}
	return Fault{}
}
