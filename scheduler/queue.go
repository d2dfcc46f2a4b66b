package scheduler

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

const (
	firstBackoff = time.Second
	mostBackoff  = 10 * time.Second
	// forgotten is how long a pod that could not be placed waits at most for
	// another try, should no event have woken it.
	forgotten = 5 * time.Minute
)

// queue holds the pods to place: by priority, then by age. A pod that could not
// be placed sleeps until something changes in the cluster, and not before its
// back-off has passed.
type queue struct {
	mu      sync.Mutex
	entries map[types.UID]*entry
	ready   pile
	// waiting are those whose back-off has not passed; broken are those of them whose latest attempt ended with an error.
	waiting, broken pile
	asleep          map[types.UID]*entry
	// stirred is whether all that sleep are to be woken. Of many changes between two attempts that is done once.
	stirred bool
	// sweep is when one of those that sleep may have been forgotten; zero: never.
	sweep time.Time
	// moved counts the changes of the cluster, so that a pod whose attempt
	// began before the latest change does not sleep through it.
	moved int64
	wake  chan struct{} // gets a value when ready may have grown
}

type entry struct {
	pod      *plugin.Pod
	added    time.Time
	attempts int
	// wait is when the back-off ends; asleep is whether an event must come too.
	wait   time.Time
	asleep bool
	since  time.Time // when it fell asleep
	broken bool      // the latest attempt ended with an error
	taken  bool      // an attempt is under way
	news   bool      // and the pod has changed since it began

	in    *pile // nil: it is in none
	index int   // there
}

func newQueue() *queue {
	sooner := func(a, b *entry) bool { return a.wait.Before(b.wait) }
	return &queue{
		entries: make(map[types.UID]*entry), asleep: make(map[types.UID]*entry), wake: make(chan struct{}, 1),
		ready: pile{before: moreUrgent}, waiting: pile{before: sooner}, broken: pile{before: sooner},
	}
}

// add queues a pod, or takes in its new state. A changed pod is tried again.
func (q *queue) add(pod *plugin.Pod, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.entries[pod.UID]
	if !ok {
		e = &entry{added: now}
		q.entries[pod.UID] = e
	}
	e.pod = pod
	e.asleep, e.news = false, e.taken
	q.sort(e, now)
}

// update takes in a state of the pod that gives no reason for another try.
func (q *queue) update(pod *plugin.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e, ok := q.entries[pod.UID]; ok {
		e.pod = pod
	}
}

// remove forgets a pod.
func (q *queue) remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e, ok := q.entries[uid]; ok {
		delete(q.entries, uid)
		q.lift(e)
	}
}

// next waits for the next pod to place. moved is to be given back to failed.
func (q *queue) next(ctx context.Context) (pod *plugin.Pod, moved int64, ok bool) {
	for {
		pod, moved, wait := q.take(time.Now())
		if pod != nil {
			return pod, moved, true
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, 0, false
		case <-q.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// take pops the first ready pod, or says how long it takes until there may be
// one. If no other pod is to be placed, one that only waits for the end of its
// back-off need not, unless that keeps an error from being repeated at once.
func (q *queue) take(now time.Time) (pod *plugin.Pod, moved int64, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakeSleepers(now)
	for _, p := range []*pile{&q.waiting, &q.broken} {
		for first := p.first(); first != nil && !now.Before(first.wait); first = p.first() {
			q.sort(first, now)
		}
	}
	if q.ready.Len() == 0 {
		idle := q.waiting.first()
		if idle == nil {
			return nil, 0, q.pause(now)
		}
		idle.wait = now
		q.sort(idle, now)
	}
	e := heap.Pop(&q.ready).(*entry)
	e.taken, e.news = true, false
	e.attempts++
	return e.pod, q.moved, 0
}

// wakeSleepers wakes those that sleep if the cluster has changed, and those that were forgotten.
func (q *queue) wakeSleepers(now time.Time) {
	if !q.stirred && (q.sweep.IsZero() || now.Before(q.sweep)) {
		return
	}
	q.sweep = time.Time{}
	for _, e := range q.asleep {
		e.asleep = !q.stirred && now.Sub(e.since) < forgotten
		q.sort(e, now)
	}
	q.stirred = false
}

// pause is how long it takes until there may be a pod to place, if nothing happens.
func (q *queue) pause(now time.Time) time.Duration {
	wait := forgotten
	if first := q.broken.first(); first != nil {
		wait = min(wait, first.wait.Sub(now))
	}
	if !q.sweep.IsZero() {
		wait = min(wait, q.sweep.Sub(now))
	}
	return wait
}

// failed puts a pod back after an attempt. unplaceable pods sleep until the
// cluster changes, others are tried again after their back-off.
func (q *queue) failed(uid types.UID, moved int64, unplaceable bool, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.entries[uid]
	if !ok {
		return
	}
	e.taken = false
	e.wait = now.Add(backoff(e.attempts))
	e.broken = !unplaceable
	e.asleep = unplaceable && moved == q.moved && !e.news
	e.since = now
	q.sort(e, now)
	q.signal()
}

// park puts a pod back that cannot be tried before something it names is there. That was no attempt.
func (q *queue) park(uid types.UID, moved int64, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.entries[uid]
	if !ok {
		return
	}
	e.taken = false
	e.attempts--
	e.wait, e.since = now, now
	e.broken, e.asleep = false, moved == q.moved && !e.news
	q.sort(e, now)
	q.signal()
}

// stir wakes the pods that could not be placed, since the cluster has changed.
func (q *queue) stir() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moved++
	q.stirred = true
	q.signal()
}

// stirThose is stir for a change that matters to some pods only.
func (q *queue) stirThose(now time.Time, matters func(pod *plugin.Pod) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moved++
	for _, e := range q.asleep {
		if matters(e.pod) {
			e.asleep = false
			q.sort(e, now)
		}
	}
	q.signal()
}

// sort puts an entry where it now belongs.
func (q *queue) sort(e *entry, now time.Time) {
	q.lift(e)
	switch {
	case e.taken:
	case e.asleep:
		q.asleep[e.pod.UID] = e
		if due := e.since.Add(forgotten); q.sweep.IsZero() || due.Before(q.sweep) {
			q.sweep = due
		}
	case now.Before(e.wait) && e.broken:
		heap.Push(&q.broken, e)
	case now.Before(e.wait):
		heap.Push(&q.waiting, e)
	default:
		heap.Push(&q.ready, e)
		q.signal()
	}
}

// lift takes an entry from where it is.
func (q *queue) lift(e *entry) {
	delete(q.asleep, e.pod.UID)
	if e.in != nil {
		heap.Remove(e.in, e.index)
	}
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func backoff(attempts int) time.Duration {
	wait := firstBackoff
	for range attempts - 1 {
		if wait *= 2; wait >= mostBackoff {
			return mostBackoff
		}
	}
	return wait
}

// moreUrgent orders pods to place.
func moreUrgent(a, b *entry) bool {
	if x, y := a.pod.Priority(), b.pod.Priority(); x != y {
		return x > y
	}
	return a.added.Before(b.added)
}

// pile implements heap.Interface.
type pile struct {
	entries []*entry
	before  func(a, b *entry) bool
}

// first is the entry that is to come out next, or nil.
func (p *pile) first() *entry {
	if len(p.entries) == 0 {
		return nil
	}
	return p.entries[0]
}

func (p *pile) Len() int { return len(p.entries) }

func (p *pile) Less(i, j int) bool { return p.before(p.entries[i], p.entries[j]) }

func (p *pile) Swap(i, j int) {
	p.entries[i], p.entries[j] = p.entries[j], p.entries[i]
	p.entries[i].index, p.entries[j].index = i, j
}

func (p *pile) Push(x any) {
	e := x.(*entry)
	e.in, e.index = p, len(p.entries)
	p.entries = append(p.entries, e)
}

func (p *pile) Pop() any {
	last := len(p.entries) - 1
	e := p.entries[last]
	p.entries[last] = nil
	p.entries = p.entries[:last]
	e.in = nil
	return e
}
