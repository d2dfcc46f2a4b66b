package relational

import (
	"context"
	"sync"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/guard"
)

// heads answers how far the database is, with one question under way at a time:
// all who ask while it is share the next one.
type heads struct {
	asked chan struct{} // tells run that somebody waits

	mu   sync.Mutex
	next *answer // nobody has begun to ask for it
}

type answer struct {
	done chan struct{}
	head Head
	err  error
}

// get returns a head that is not older than the call.
func (h *heads) get(ctx context.Context, stop <-chan struct{}) (Head, error) {
	a := h.join()
	select {
	case <-a.done:
		return a.head, a.err
	case <-stop:
		return Head{}, backend.ErrClosed
	case <-ctx.Done():
		return Head{}, context.Cause(ctx)
	}
}

func (h *heads) join() *answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = &answer{done: make(chan struct{})}
		h.asked <- struct{}{} // there is room: run has taken the answer before
	}
	return h.next
}

// run asks whenever somebody waits.
func (h *heads) run(stop <-chan struct{}, ask func() (Head, error)) {
	for {
		select {
		case <-stop:
			return
		case <-h.asked:
		}
		a := h.take()
		a.err = guard.Call("storage's revision", func() (err error) {
			a.head, err = ask()
			return err
		})
		close(a.done)
	}
}

func (h *heads) take() *answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.next
	h.next = nil
	return a
}
