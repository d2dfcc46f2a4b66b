package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

func TestRunEndsBeforeItBegan(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	informer := cache.NewSharedInformer(nil, &corev1.Pod{}, 0).(cache.SharedIndexInformer)
	stop()
	informer.Run(ctx.Done())
	loop := Controller{Name: "test", Watch: []Source{Self(informer)}, Sync: func(context.Context, Key) (time.Duration, error) {
		t.Error("worked without having seen anything")
		return 0, nil
	}}
	if err := loop.Run(ctx); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func TestRunRetriesAndRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var feed Feed
		feed.Add(Key{Name: "early"}) // before the loop runs
		var mu sync.Mutex
		calls := map[string][]time.Duration{}
		begin := time.Now()
		loop := Controller{
			Name:  "test",
			Watch: []Source{feed.Source()},
			Sync: func(_ context.Context, key Key) (time.Duration, error) {
				mu.Lock()
				defer mu.Unlock()
				calls[key.Name] = append(calls[key.Name], time.Since(begin))
				switch n := len(calls[key.Name]); {
				case key.Name == "fails" && n < 3:
					return 0, errors.New("not yet")
				case key.Name == "again" && n == 1:
					return time.Minute, nil
				}
				return 0, nil
			},
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- loop.Run(ctx) }()
		synctest.Wait()
		feed.Add(Key{Name: "fails"})
		feed.Add(Key{Name: "again"})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]int{"early": 1, "fails": 3, "again": 2} {
			if got := len(calls[name]); got != want {
				t.Errorf("%s: got %d calls, want %d", name, got, want)
			}
		}
		if got := calls["again"][1] - calls["again"][0]; got < time.Minute {
			t.Errorf("again after %s, want a minute", got)
		}
		if got := calls["fails"][1] - calls["fails"][0]; got < firstRetry {
			t.Errorf("retry after %s, want at least %s", got, firstRetry)
		}
	})
}

func TestRunNeverWorksTwiceOnAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var feed Feed
		var mu sync.Mutex
		atOnce, most, total := 0, 0, 0
		loop := Controller{
			Workers: 4,
			Watch:   []Source{feed.Source()},
			Sync: func(context.Context, Key) (time.Duration, error) {
				mu.Lock()
				atOnce++
				total++
				most = max(most, atOnce)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				atOnce--
				mu.Unlock()
				return 0, nil
			},
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- loop.Run(ctx) }()
		for range 5 {
			feed.Add(Key{Name: "one"})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if most != 1 || total != 2 {
			t.Errorf("got %d calls, %d at once, want 2, one after the other", total, most)
		}
	})
}

// A key that is woken all the time is worked on now and then, and at last after the last time.
func TestRunLetsBusyKeysRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took, events = 10 * time.Millisecond, 1000
		var feed Feed
		var mu sync.Mutex
		var syncs, seen, news int
		loop := Controller{Workers: 4, Watch: []Source{feed.Source()}, Sync: func(_ context.Context, key Key) (time.Duration, error) {
			mu.Lock()
			syncs, seen = syncs+1, news
			mu.Unlock()
			time.Sleep(took)
			return 0, nil
		}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- loop.Run(ctx) }()
		synctest.Wait()
		begun := time.Now()
		for range events {
			mu.Lock()
			news++
			mu.Unlock()
			feed.Add(Key{Name: "busy"})
			time.Sleep(time.Millisecond)
		}
		lasted := time.Since(begun)
		time.Sleep(longRest + took)
		synctest.Wait()
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if most := int(lasted/((1+restFactor)*took)) + 2; syncs > most || syncs < most/2 {
			t.Errorf("got %d syncs in %s, want about %d", syncs, lasted, most)
		}
		if seen != events {
			t.Errorf("the last sync saw %d of %d changes", seen, events)
		}
	})
}

// A key that failed is retried, although it is woken while it rests and waits for the retry.
func TestRunForgetsNoRetryOfARestingKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var feed Feed
		var mu sync.Mutex
		calls := 0
		loop := Controller{Watch: []Source{feed.Source()}, Sync: func(context.Context, Key) (time.Duration, error) {
			time.Sleep(10 * firstRetry) // the rest is longer than the pause before the retry
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls == 1 {
				return 0, errors.New("not yet")
			}
			return 0, nil
		}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- loop.Run(ctx) }()
		feed.Add(Key{Name: "one"})
		time.Sleep(10*firstRetry + firstRetry/2)
		feed.Add(Key{Name: "one"})
		time.Sleep(time.Minute)
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if calls != 2 {
			t.Errorf("got %d calls, want 2", calls)
		}
	})
}

func TestRestsAreForgotten(t *testing.T) {
	r, now := newRests(), time.Now()
	for i := range 1000 {
		r.begin(Key{Name: fmt.Sprint(i)}, time.Second, now.Add(time.Duration(i)*time.Second))
	}
	if len(r.keys) != 1 || len(r.order) != 1 {
		t.Errorf("got %d and %d kept, want the last one", len(r.keys), len(r.order))
	}
}

func TestExpectations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const owner, child = types.UID("owner"), types.UID("child")
		e := NewExpectations()
		met := func(what string, want bool) {
			t.Helper()
			if got := e.Met(owner); got != want {
				t.Errorf("%s: met %v, want %v", what, got, want)
			}
		}
		met("nothing announced", true)
		e.Creating(owner, 2)
		e.Deleting(owner, child)
		e.Created(owner)
		e.Deleted(owner, child)
		met("one creation to be seen", false)
		e.Created(owner)
		met("all seen", true)
		e.Created(owner)
		met("more seen than announced", true)

		e.Deleting(owner, child)
		if !e.Going(owner, child) || e.Going(owner, "another") {
			t.Error("only the announced child should be going")
		}
		e.Deleted(owner, "another")
		met("another child gone", false)
		time.Sleep(expectationLifetime)
		met("an event lost", true)

		e.Creating(owner, 1)
		e.Forget(owner)
		met("owner gone", true)
	})
}

func TestWrites(t *testing.T) {
	object := func(version string) *metav1.ObjectMeta { return &metav1.ObjectMeta{UID: "u", ResourceVersion: version} }
	for _, test := range []struct {
		name            string
		written, cached string
		seen            bool
	}{
		{"never written", "", "5", true},
		{"cache is behind", "10", "9", false},
		{"cache has it", "10", "10", true},
		{"cache is ahead", "10", "11", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := NewWrites()
			if test.written != "" {
				w.Note(object(test.written))
			}
			if got := w.Seen(object(test.cached)); got != test.seen {
				t.Errorf("seen: got %v, want %v", got, test.seen)
			}
		})
	}
}

func TestParseKey(t *testing.T) {
	for text, want := range map[string]Key{"ns/name": {Namespace: "ns", Name: "name"}, "name": {Name: "name"}} {
		if got, err := ParseKey(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	if _, err := ParseKey("a/b/c"); err == nil {
		t.Error("a/b/c: got no error")
	}
	keys := []Key{{Name: "b"}, {Namespace: "a", Name: "c"}}
	if got := []string{keys[0].String(), keys[1].String()}; !slices.Equal(got, []string{"b", "a/c"}) {
		t.Errorf("got %v", got)
	}
}
