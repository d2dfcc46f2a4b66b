// Package coalesce lets many callers share the answers to one question, for engines whose database is asked over a
// network which revision is the newest.
package coalesce

import (
	"context"
	"sync"

	"github.com/skiff-k8s/skiff/guard"
)

// Query asks one question. What a caller gets was asked for after its call began, so that it is never older than
// what the caller knew; callers that come while one query runs share the next. Its methods may be called
// concurrently.
type Query[T any] struct {
	part string
	ask  func(context.Context) (T, error)

	mu      sync.Mutex
	next    *answer[T] // that callers wait for and nobody has asked for yet
	asking  bool
	ctx     context.Context // of the queries
	end     context.CancelCauseFunc
	running guard.Group
}

type answer[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// New returns a query that must be closed. ask is called by one goroutine at a time, which logs name part, with a
// context that ends when the query is closed.
func New[T any](part string, ask func(context.Context) (T, error)) *Query[T] {
	q := &Query[T]{part: part, ask: ask}
	q.ctx, q.end = context.WithCancelCause(context.Background())
	return q
}

// Ask returns what ask says from now on, or the cause of the end of ctx.
func (q *Query[T]) Ask(ctx context.Context) (T, error) {
	a := q.join()
	select {
	case <-a.done:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// Close ends the query under way; it and all later ones fail with cause.
func (q *Query[T]) Close(cause error) {
	q.end(cause)
	q.running.Wait()
}

func (q *Query[T]) join() *answer[T] {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := context.Cause(q.ctx); err != nil {
		a := &answer[T]{done: make(chan struct{}), err: err}
		close(a.done)
		return a
	}
	if q.next == nil {
		q.next = &answer[T]{done: make(chan struct{})}
	}
	if !q.asking {
		q.asking = true
		q.running.Go(q.part, q.answer)
	}
	return q.next
}

// answer asks until nobody waits.
func (q *Query[T]) answer() {
	for a := q.take(); a != nil; a = q.take() {
		a.err = guard.Call(q.part, func() (err error) {
			a.value, err = q.ask(q.ctx)
			return err
		})
		if cause := context.Cause(q.ctx); cause != nil && a.err != nil {
			a.err = cause
		}
		close(a.done)
	}
}

func (q *Query[T]) take() *answer[T] {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.next
	q.next, q.asking = nil, a != nil
	return a
}
