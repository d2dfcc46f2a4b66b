// Package traffic is clients that write, read and watch the same few objects of
// a server at once, and record what they saw. What each client does is decided
// by a seed; how the clients meet is not.
package traffic

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/robustness/history"
)

// Plan is what happens.
type Plan struct {
	Seed       uint64
	Clients    int
	Operations int // of each client
	Keys       int // objects there are at most
	// Namespace is where the objects are: one of its own for each plan.
	Namespace string
	// Servers are how clients reach the servers; client i takes server i.
	Servers []*rest.Config
	// Faults happen one after the other while the clients are at work, after equal
	// shares of their operations. The next waits for the end of the one before.
	Faults []Fault
	// Patience is how long a request may take before its client gives it up; 0
	// means ten seconds.
	Patience time.Duration
	// Settle is how long the last write, and watches to reach it, may take after
	// all faults are over; 0 means two minutes: client-go alone waits up to half a
	// minute before it tries again.
	Settle time.Duration
	// Forgets says that the servers keep history for so short a time that lists and
	// watches may be told that it is gone.
	Forgets bool
}

// Fault is something that goes wrong and is over when it returns: then servers
// answer again, or will soon by themselves.
type Fault struct {
	Name string
	Do   func(ctx context.Context) error
}

// run is a plan under way.
type run struct {
	Plan
	history *history.History
	apis    []*api
	done    atomic.Int64 // operations
	faults  sync.Mutex
	failed  error // of a fault, guarded by faults
	next    int   // fault, guarded by faults
	last    atomic.Int64
}

// Run does what p says and returns what the clients saw. The error is that of a
// fault that could not be made, or of ctx.
func Run(ctx context.Context, p Plan) (*history.History, error) {
	p.Patience, p.Settle = cmp.Or(p.Patience, 10*time.Second), cmp.Or(p.Settle, 2*time.Minute)
	r := &run{Plan: p, history: history.New()}
	for _, config := range p.Servers {
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			return nil, err
		}
		r.apis = append(r.apis, &api{client: client, base: config.Host, namespace: p.Namespace, patience: p.Patience})
	}
	// A watch after revision 0 is one of what there is: the first revision comes
	// before all watches.
	r.insist(ctx, "begin")
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watchers := r.watch(watching)
	var clients sync.WaitGroup
	for i := range p.Clients {
		clients.Go(func() { r.client(ctx, i) })
	}
	clients.Wait()
	r.finish(ctx)
	timer := time.AfterFunc(p.Settle, stop)
	defer timer.Stop()
	watchers.Wait()
	if r.failed != nil {
		return nil, r.failed
	}
	return r.history, ctx.Err()
}

// random is the source of the choices of one of many who take part.
func (r *run) random(role string, i int) *rand.Rand {
	hash := uint64(14695981039346656037)
	for _, b := range []byte(fmt.Sprint(role, i)) {
		hash = (hash ^ uint64(b)) * 1099511628211
	}
	return rand.New(rand.NewPCG(r.Seed, hash))
}

// api is how a client reaches a server.
func (r *run) api(i int) *api { return r.apis[i%len(r.apis)] }

// client does its operations one after the other.
func (r *run) client(ctx context.Context, i int) {
	c := &client{
		run: r, id: i, api: r.api(i), random: r.random("client", i),
		known: make(map[string]history.Object),
	}
	for n := range r.Operations {
		if ctx.Err() != nil {
			return
		}
		c.step(ctx, n)
		c.pause(ctx)
		r.count(ctx)
	}
}

// count counts an operation, and makes the fault that is due.
func (r *run) count(ctx context.Context) {
	done := r.done.Add(1)
	if len(r.Faults) == 0 {
		return
	}
	share := int64(r.Clients*r.Operations) / int64(len(r.Faults)+1)
	if share == 0 || done%share != 0 {
		return
	}
	r.faults.Lock()
	defer r.faults.Unlock()
	if r.failed != nil || r.next == len(r.Faults) {
		return
	}
	fault := r.Faults[r.next]
	r.next++
	if err := fault.Do(ctx); err != nil {
		r.failed = fmt.Errorf("%s: %w", fault.Name, err)
	}
}

// finish makes a last write, which every watch must see, and lists once more by
// every server.
func (r *run) finish(ctx context.Context) {
	c := r.insist(ctx, "end")
	r.last.Store(c.known[c.key(0)].Revision)
	for i := range r.apis {
		c.api = r.api(i)
		c.until(ctx, "the last list", func(int) *history.Operation { return c.list(ctx, history.Newest, 0, 0) })
	}
}

// insist writes an object that all watches see, until that succeeds.
func (r *run) insist(ctx context.Context, value string) *client {
	c := &client{run: r, id: r.Clients, api: r.api(0), random: r.random(value, 0), known: make(map[string]history.Object)}
	c.until(ctx, "a write", func(n int) *history.Operation { return c.put(ctx, c.key(0), red, fmt.Sprintf("%s-%d", value, n)) })
	return c
}

// until does an operation until it succeeds. That it never does is a failure of
// the server.
func (c *client) until(ctx context.Context, name string, do func(n int) *history.Operation) {
	deadline := time.Now().Add(c.Settle)
	for n := 0; ctx.Err() == nil; n++ {
		if o := do(n); o != nil && o.Outcome == history.Done {
			return
		}
		if time.Now().After(deadline) {
			c.history.Fail("%s does not succeed any more: %s", name, c.refused)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// settled reports whether all is written, and revision is not before the last
// write.
func (r *run) settled(revision int64) bool {
	last := r.last.Load()
	return last > 0 && revision >= last
}

// api is one server as one client reaches it.
type api struct {
	client    *http.Client
	base      string
	namespace string
	patience  time.Duration
}
