package store_test

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// asked is a backend that counts how often it is asked for the newest revision, and can hold back what it tells watches.
type asked struct {
	backend.Backend
	times atomic.Int64
	tell  sync.Mutex // held: nothing is told
	onAsk func()
}

func (a *asked) Revision(ctx context.Context) (int64, error) {
	a.times.Add(1)
	if a.onAsk != nil {
		a.onAsk()
	}
	return a.Backend.Revision(ctx)
}

func (a *asked) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for change, err := range a.Backend.Watch(ctx, prefix, after) {
			a.mayTell()
			if !yield(change, err) {
				return
			}
		}
	}
}

func (a *asked) mayTell() {
	a.tell.Lock()
	defer a.tell.Unlock()
}

// A request asks once which revision is the newest, and again after somebody else had a say; other reads ask each time.
func TestInRequest(t *testing.T) {
	b := &asked{Backend: memory.New()}
	s := openOn(t, b, 0)
	create(t, s, "a", "x", "1")
	reads := func(ctx context.Context) int64 {
		t.Helper()
		before := b.times.Load()
		for range 3 {
			if item, err := s.Get(ctx, configMaps, "a", "x"); err != nil || dataOf(item) != "1" {
				t.Fatal(item, err)
			}
		}
		return b.times.Load() - before
	}
	request := store.InRequest(t.Context())
	if got := reads(t.Context()); got != 3 {
		t.Errorf("three reads asked %d times", got)
	}
	if got := reads(request); got != 1 {
		t.Errorf("three reads of a request asked %d times", got)
	}
	store.Anew(request)
	if got := reads(request); got != 1 {
		t.Errorf("three reads after somebody had a say asked %d times", got)
	}
}

// An update that meets what another server wrote since the request began asks again, rather than trying what it knows
// again and again.
func TestInRequestMeetsAnother(t *testing.T) {
	shared := memory.New()
	b := &asked{Backend: shared}
	s, other := openOn(t, b, 0), openOn(t, shared, 0)
	create(t, s, "a", "x", "1")
	request := store.InRequest(t.Context())
	if _, err := s.Get(request, configMaps, "a", "x"); err != nil {
		t.Fatal(err)
	}
	b.tell.Lock()
	told := sync.OnceFunc(b.tell.Unlock)
	defer told()
	update(t, other, "a", "x", "2")
	b.onAsk = told // it is asked about what was met, and then has it told
	tries := 0
	item, err := s.Update(request, configMaps, "a", "x", false, func(current *store.Item) (resource.Object, error) {
		if tries++; tries > 100 {
			told()
		}
		return setData(dataOf(current) + "+")(current)
	})
	if err != nil || dataOf(item) != "2+" || tries != 2 {
		t.Errorf("got %v, %v after %d tries, want 2+ after 2", item, err, tries)
	}
}
