package reconcile

import (
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// What happens to a key at once is worked on at once. A key that is woken again and again, as a set is while its pods
// are made, rests after each sync for nine times as long as that took: it has a tenth of a worker at most, and many
// changes cost one sync and one status.
const (
	restFactor = 9
	longRest   = 100 * time.Millisecond
)

// restingQueue is a queue that lets keys rest.
type restingQueue struct {
	workqueue.TypedRateLimitingInterface[Key]
	rests *rests
}

// wake has a key worked on, as soon as it does not rest.
func (q restingQueue) wake(key Key) {
	switch left, first := q.rests.wake(key, time.Now()); {
	case left == 0:
		q.Add(key)
	case first:
		q.AddAfter(key, left)
	}
}

// putOff has a key that came out of the queue worked on when its rest is over, and reports whether it rests. A queue
// keeps but the earliest time for which a key was added, so that one that comes early is all there is.
func (q restingQueue) putOff(key Key) bool {
	left, _ := q.rests.wake(key, time.Now())
	if left > 0 {
		q.AddAfter(key, left)
	}
	return left > 0
}

// rests are the keys that rest. Safe for concurrent use.
type rests struct {
	mu    sync.Mutex
	keys  map[Key]*rest
	order []*rest // as they were put to rest, which is about as rests end
}

type rest struct {
	key   Key
	until time.Time
	woken bool // it is to be worked on then
}

func newRests() *rests { return &rests{keys: map[Key]*rest{}} }

// begin puts a key to rest after a sync that took some time.
func (r *rests) begin(key Key, took time.Duration, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tidy(now)
	one := &rest{key: key, until: now.Add(min(restFactor*took, longRest))}
	r.keys[key] = one
	r.order = append(r.order, one)
}

// wake tells how long a key still rests; 0: not. first is whether nobody has woken it in this rest before.
func (r *rests) wake(key Key, now time.Time) (left time.Duration, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.keys[key]
	if one == nil || !now.Before(one.until) {
		return 0, true
	}
	first = !one.woken
	one.woken = true
	return one.until.Sub(now), first
}

// tidy forgets rests that are over.
func (r *rests) tidy(now time.Time) {
	over := 0
	for ; over < len(r.order) && !now.Before(r.order[over].until); over++ {
		one := r.order[over]
		if r.keys[one.key] == one {
			delete(r.keys, one.key)
		}
	}
	r.order = slices.Delete(r.order, 0, over)
}
