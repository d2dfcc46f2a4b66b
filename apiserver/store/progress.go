package store

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// progress is the revision the follower has reached, and who waits for more.
type progress struct {
	reached atomic.Int64
	end     chan struct{} // closed when the follower has ended

	mu      sync.Mutex
	waiters waiters
}

// advance says that everything up to revision has been applied.
func (p *progress) advance(revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision <= p.reached.Load() {
		return
	}
	p.reached.Store(revision)
	for len(p.waiters) > 0 && p.waiters[0].revision <= revision {
		close(heap.Pop(&p.waiters).(*waiter).done)
	}
}

// wait returns when revision has been reached, with the error of ctx, or with
// backend.ErrClosed.
func (p *progress) wait(ctx context.Context, revision int64) error {
	if p.reached.Load() >= revision {
		return nil
	}
	w := p.add(revision)
	if w == nil {
		return nil
	}
	select {
	case <-w.done:
		return nil
	case <-p.end:
		return backend.ErrClosed
	case <-ctx.Done():
		p.remove(w)
		return context.Cause(ctx)
	}
}

func (p *progress) add(revision int64) *waiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reached.Load() >= revision {
		return nil
	}
	w := &waiter{revision: revision, done: make(chan struct{})}
	heap.Push(&p.waiters, w)
	return w
}

func (p *progress) remove(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.place < len(p.waiters) && p.waiters[w.place] == w {
		heap.Remove(&p.waiters, w.place)
	}
}

type waiter struct {
	revision int64
	done     chan struct{}
	place    int // in the heap
}

type waiters []*waiter

func (w waiters) Len() int           { return len(w) }
func (w waiters) Less(i, j int) bool { return w[i].revision < w[j].revision }
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].place, w[j].place = i, j
}

func (w *waiters) Push(x any) {
	x.(*waiter).place = len(*w)
	*w = append(*w, x.(*waiter))
}

func (w *waiters) Pop() any {
	last := (*w)[len(*w)-1]
	(*w)[len(*w)-1] = nil
	*w = (*w)[:len(*w)-1]
	return last
}
