// Package lifetime deletes keys whose time has come, for engines whose
// database does not do that itself.
package lifetime

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/guard"
)

// retryAfter is when a deletion that failed is tried again.
const retryAfter = 10 * time.Second

// Queue remembers when keys end. A key that was written again since is known
// by its revision and left alone.
type Queue struct {
	del func(ctx context.Context, key string, revision int64) (int64, error)

	mu      sync.Mutex
	entries entries
	changed chan struct{}
	stop    chan struct{}
	done    guard.Group
}

// Start returns a running queue. del is the Delete of the backend. The owner
// must Stop the queue.
func Start(del func(ctx context.Context, key string, revision int64) (int64, error)) *Queue {
	q := &Queue{del: del, changed: make(chan struct{}, 1), stop: make(chan struct{})}
	q.done.Go("storage's lifetimes", q.run)
	return q
}

// Add says that key, written at revision, ends at a time.
func (q *Queue) Add(key string, revision int64, end time.Time) {
	q.mu.Lock()
	heap.Push(&q.entries, entry{key, revision, end})
	first := q.entries[0].revision == revision
	q.mu.Unlock()
	if !first {
		return
	}
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// Stop ends the queue and waits for a deletion under way.
func (q *Queue) Stop() {
	close(q.stop)
	q.done.Wait()
}

func (q *Queue) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(q.expireDue())
		select {
		case <-q.stop:
			return
		case <-q.changed:
		case <-timer.C:
		}
	}
}

// expireDue deletes what is due and returns the time until the next.
func (q *Queue) expireDue() time.Duration {
	for {
		e, wait := q.pop()
		if wait > 0 {
			return wait
		}
		_, err := q.del(context.Background(), e.key, e.revision)
		if err != nil && !errors.Is(err, backend.ErrConflict) && !errors.Is(err, backend.ErrClosed) {
			q.Add(e.key, e.revision, time.Now().Add(retryAfter))
		}
		select {
		case <-q.stop:
			return time.Hour
		default:
		}
	}
}

func (q *Queue) pop() (entry, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 {
		return entry{}, time.Hour
	}
	if wait := time.Until(q.entries[0].end); wait > 0 {
		return entry{}, wait
	}
	return heap.Pop(&q.entries).(entry), 0
}

type entry struct {
	key      string
	revision int64
	end      time.Time
}

type entries []entry

func (e entries) Len() int           { return len(e) }
func (e entries) Less(i, j int) bool { return e[i].end.Before(e[j].end) }
func (e entries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any)        { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	last := (*e)[len(*e)-1]
	(*e)[len(*e)-1] = entry{}
	*e = (*e)[:len(*e)-1]
	return last
}
