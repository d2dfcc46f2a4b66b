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
	ready   readyHeap
	// held are the entries that are neither ready nor taken.
	held map[types.UID]*entry
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
	index  int       // in ready, or -1
	taken  bool      // an attempt is under way
}

func newQueue() *queue {
	return &queue{entries: make(map[types.UID]*entry), held: make(map[types.UID]*entry), wake: make(chan struct{}, 1)}
}

// add queues a pod, or takes in its new state. A changed pod is tried again.
func (q *queue) add(pod *plugin.Pod, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.entries[pod.UID]
	if !ok {
		e = &entry{added: now, index: -1}
		q.entries[pod.UID] = e
	}
	e.pod = pod
	if e.index >= 0 {
		heap.Fix(&q.ready, e.index)
	}
	e.asleep = false
	q.promote(e, now)
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
		delete(q.held, uid)
		if e.index >= 0 {
			heap.Remove(&q.ready, e.index)
		}
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
	wait = forgotten
	var idle *entry
	for _, e := range q.held {
		if now.Sub(e.since) >= forgotten {
			e.asleep = false
		}
		if q.promote(e, now) || e.asleep {
			continue
		}
		wait = min(wait, e.wait.Sub(now))
		if !e.broken && (idle == nil || e.wait.Before(idle.wait)) {
			idle = e
		}
	}
	if q.ready.Len() == 0 {
		if idle == nil {
			return nil, 0, wait
		}
		idle.wait = now
		q.promote(idle, now)
	}
	e := heap.Pop(&q.ready).(*entry)
	e.taken = true
	e.attempts++
	return e.pod, q.moved, 0
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
	e.asleep = unplaceable && moved == q.moved
	e.since = now
	q.promote(e, now)
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
	e.broken, e.asleep = false, moved == q.moved
	q.promote(e, now)
	q.signal()
}

// stir wakes the pods that could not be placed, since the cluster has changed.
func (q *queue) stir(now time.Time) { q.stirThose(now, func(*plugin.Pod) bool { return true }) }

// stirThose is stir for a change that matters to some pods only.
func (q *queue) stirThose(now time.Time, matters func(pod *plugin.Pod) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moved++
	for _, e := range q.held {
		if !matters(e.pod) {
			continue
		}
		e.asleep = false
		q.promote(e, now)
	}
	q.signal()
}

// promote makes e ready if nothing holds it back, and reports whether it is.
func (q *queue) promote(e *entry, now time.Time) bool {
	if e.taken || e.index >= 0 {
		return true
	}
	if e.asleep || now.Before(e.wait) {
		q.held[e.pod.UID] = e
		return false
	}
	delete(q.held, e.pod.UID)
	heap.Push(&q.ready, e)
	q.signal()
	return true
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

// readyHeap implements heap.Interface.
type readyHeap []*entry

func (h readyHeap) Len() int { return len(h) }

func (h readyHeap) Less(i, j int) bool {
	if a, b := h[i].pod.Priority(), h[j].pod.Priority(); a != b {
		return a > b
	}
	return h[i].added.Before(h[j].added)
}

func (h readyHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *readyHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *readyHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	e.index = -1
	return e
}
