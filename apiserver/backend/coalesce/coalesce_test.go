package coalesce_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/skiff-k8s/skiff/apiserver/backend/coalesce"
)

// Callers that come while a query runs share the next one, and only that.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, answers := make(chan struct{}), make(chan int)
		q := coalesce.New("test", func(context.Context) (int, error) {
			began <- struct{}{}
			return <-answers, nil
		})
		defer q.Close(errors.New("closed"))
		var wg sync.WaitGroup
		ask := func(want int) {
			wg.Go(func() {
				if got, err := q.Ask(t.Context()); got != want || err != nil {
					t.Errorf("ask: got %d, %v, want %d", got, err, want)
				}
			})
		}
		ask(1)
		<-began // nobody who asks from now on may get the first answer
		for range 50 {
			ask(2)
		}
		synctest.Wait()
		answers <- 1
		<-began
		answers <- 2
		wg.Wait()
	})
}

// No answer is older than what the caller knew before it asked.
func TestNeverOlder(t *testing.T) {
	var newest, asked atomic.Int64
	q := coalesce.New("test", func(context.Context) (int64, error) {
		asked.Add(1)
		return newest.Load(), nil
	})
	defer q.Close(errors.New("closed"))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 200 {
				mine := newest.Add(1)
				if got, err := q.Ask(t.Context()); got < mine || err != nil {
					t.Errorf("got %d, %v, want at least %d", got, err, mine)
				}
			}
		})
	}
	wg.Wait()
	if asked.Load() == 0 {
		t.Error("nothing was asked")
	}
}

func TestEnds(t *testing.T) {
	closed := errors.New("closed")
	began := make(chan struct{}, 1)
	q := coalesce.New("test", func(ctx context.Context) (int, error) {
		began <- struct{}{}
		<-ctx.Done()
		return 0, ctx.Err()
	})
	gone := errors.New("gone")
	ctx, leave := context.WithCancelCause(t.Context())
	left, stayed := make(chan error, 1), make(chan error, 1)
	go func() { _, err := q.Ask(ctx); left <- err }()
	<-began
	go func() { _, err := q.Ask(t.Context()); stayed <- err }()
	leave(gone)
	if err := <-left; !errors.Is(err, gone) {
		t.Errorf("a caller who left: got %v, want %v", err, gone)
	}
	q.Close(closed)
	if err := <-stayed; !errors.Is(err, closed) {
		t.Errorf("a caller who waited: got %v, want %v", err, closed)
	}
	if _, err := q.Ask(t.Context()); !errors.Is(err, closed) {
		t.Errorf("a caller who came late: got %v, want %v", err, closed)
	}
}

// A panic is an error of those who waited for it; the next query is asked.
func TestPanic(t *testing.T) {
	calls := 0
	q := coalesce.New("test", func(context.Context) (int, error) {
		if calls++; calls == 1 {
			panic("first")
		}
		return calls, nil
	})
	defer q.Close(errors.New("closed"))
	if _, err := q.Ask(t.Context()); err == nil {
		t.Error("a panic was no error")
	}
	if got, err := q.Ask(t.Context()); got != 2 || err != nil {
		t.Errorf("afterwards: got %d, %v, want 2", got, err)
	}
}
