package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// watch collects n events that match after a revision.
func watch(t testing.TB, s *store.Store, r *resource.Resource, m store.Match, after int64, n int) []store.Step {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var steps []store.Step
	for step, err := range s.Watch(ctx, r, m, after) {
		if err != nil {
			t.Fatalf("watch after %d: %v", after, err)
		}
		if step.Event == nil {
			continue
		}
		if steps = append(steps, step); len(steps) == n {
			return steps
		}
	}
	t.Fatalf("watch after %d ended with %d of %d events", after, len(steps), n)
	return nil
}

// describe is a step as "name old→new"; what does not match is in brackets.
func describe(step store.Step) string {
	side := func(item *store.Item, matches bool) string {
		switch {
		case item == nil:
			return "-"
		case matches:
			return dataOf(item)
		}
		return "(" + dataOf(item) + ")"
	}
	e := step.Event
	return fmt.Sprintf("%s/%s %s→%s", e.Last().Object().GetNamespace(), e.Last().Object().GetName(), side(e.Old, step.Was), side(e.New, step.Is))
}

func describeAll(steps []store.Step) string {
	var parts []string
	for _, s := range steps {
		parts = append(parts, describe(s))
	}
	return strings.Join(parts, ", ")
}

func TestWatch(t *testing.T) {
	s := open(t)
	create(t, s, "a", "x", "1")
	update(t, s, "a", "x", "2")
	y := create(t, s, "b", "y", "1")
	deleted := remove(t, s, y)
	update(t, s, "a", "x", "3")
	two := func(o resource.Object) bool { return o.(*corev1.ConfigMap).Data["data"] == "2" }
	for _, c := range []struct {
		name  string
		match store.Match
		want  string
	}{
		{"all", store.Match{}, "a/x -→1, a/x 1→2, b/y -→1, b/y 1→-, a/x 2→3"},
		{"namespace", store.Match{Namespace: "b"}, "b/y -→1, b/y 1→-"},
		{"name", store.Match{Name: "x"}, "a/x -→1, a/x 1→2, a/x 2→3"},
		{"object", store.Match{Namespace: "a", Name: "x"}, "a/x -→1, a/x 1→2, a/x 2→3"},
		{"selector that is entered and left", store.Match{Select: two}, "a/x (1)→2, a/x 2→(3)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := strings.Count(c.want, ",") + 1
			if got := describeAll(watch(t, s, configMaps, c.match, 0, n)); got != c.want {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
		})
	}
	for _, step := range watch(t, s, configMaps, store.Match{}, 0, 5) {
		if step.Event.New == nil && step.Event.Last().Object().GetResourceVersion() != version(deleted.Revision()) {
			t.Errorf("delete is at %s, want %d", step.Event.Last().Object().GetResourceVersion(), deleted.Revision())
		}
	}
}

// A step says that another one is ready only if that one matches, and the last
// one never does: it must be sent at once.
func TestWatchTellsOfMore(t *testing.T) {
	s := open(t)
	for i := range 6 {
		create(t, s, "a", fmt.Sprint("n", i), fmt.Sprint(i/4))
	}
	first := store.Match{Select: func(obj resource.Object) bool { return obj.(*corev1.ConfigMap).Data["data"] == "0" }}
	for i, step := range watch(t, s, configMaps, first, 0, 4) {
		if want := i < 3; step.More != want {
			t.Errorf("step %d of 4: More = %t, want %t", i+1, step.More, want)
		}
	}
}

// A watch after a snapshot misses nothing and repeats nothing, whichever part
// of the feed it reads and whenever it starts.
func TestSnapshotThenWatch(t *testing.T) {
	s := open(t)
	const writes = 400
	var wg sync.WaitGroup
	wg.Go(func() {
		revisions := make(map[string]*store.Item)
		for i := range writes {
			key := fmt.Sprintf("n%d", rand.IntN(5))
			switch item := revisions[key]; {
			case item == nil:
				revisions[key] = create(t, s, "a", key, fmt.Sprint(i))
			case rand.IntN(4) == 0:
				remove(t, s, item)
				revisions[key] = nil
			default:
				revisions[key] = update(t, s, "a", key, fmt.Sprint(i))
			}
		}
		create(t, s, "a", "n1-end", "end")
		create(t, s, "a", "end", "end")
	})
	for w := range 16 {
		wg.Go(func() {
			time.Sleep(time.Duration(w) * time.Millisecond)
			m := []store.Match{{}, {Namespace: "a"}, {Select: func(o resource.Object) bool { return o.GetName() != "n3" }}}[w%3]
			follow(t, s, m)
		})
	}
	wg.Wait()
}

// follow keeps a copy by snapshot and watch up to the object "end" and compares
// it with what is there.
func follow(t *testing.T, s *store.Store, m store.Match) {
	items, revision, err := s.Snapshot(t.Context(), configMaps, m, 0)
	if err != nil {
		t.Error(err)
		return
	}
	state := make(map[string]*store.Item)
	for _, i := range items {
		state[i.Object().GetName()] = i
	}
	if state["end"] != nil {
		return // came too late to see anything
	}
	last := revision
	for step, err := range s.Watch(t.Context(), configMaps, m, revision) {
		if err != nil {
			t.Error(err)
			return
		}
		e := step.Event
		if e == nil {
			continue
		}
		name := e.Last().Object().GetName()
		if e.Revision <= last || state[name] != e.Old {
			t.Errorf("event of %s at %d after %d replaces %p, want %p", name, e.Revision, last, e.Old, state[name])
		}
		last = e.Revision
		delete(state, name)
		if e.New != nil {
			state[name] = e.New
		}
		if name == "end" {
			break
		}
	}
	now, _, _ := s.Snapshot(t.Context(), configMaps, m, -1)
	if len(now) != len(state) {
		t.Errorf("copy has %d objects, want %d", len(state), len(now))
	}
	for _, i := range now {
		if state[i.Object().GetName()] != i {
			t.Errorf("copy of %s is %p, want %p", i.Object().GetName(), state[i.Object().GetName()], i)
		}
	}
}

// A pod that is bound enters the watch of its node, with its old state known,
// and concerns no other node.
func TestWatchByIndex(t *testing.T) {
	s := open(t)
	onNode := func(node string) store.Match {
		return store.Match{IndexValue: node, Select: func(o resource.Object) bool { return o.(*corev1.Pod).Spec.NodeName == node }}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}}
	created, err := s.Create(t.Context(), pods, pod, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"one", "two"} {
		_, err := s.Update(t.Context(), pods, "a", "p", false, func(current *store.Item) (resource.Object, error) {
			p := current.Object().DeepCopyObject().(*corev1.Pod)
			p.Spec.NodeName = node
			return p, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	got := watch(t, s, pods, onNode("one"), created.Revision(), 2)
	if got[0].Was || !got[0].Is || !got[1].Was || got[1].Is {
		t.Errorf("node one sees %v/%v then %v/%v, want the pod to come and go", got[0].Was, got[0].Is, got[1].Was, got[1].Is)
	}
	got = watch(t, s, pods, onNode("two"), created.Revision(), 1)
	if got[0].Was || !got[0].Is {
		t.Errorf("node two sees %v/%v, want the pod to come", got[0].Was, got[0].Is)
	}
	items, _, err := s.Snapshot(t.Context(), pods, onNode("two"), -1)
	if err != nil || len(items) != 1 {
		t.Errorf("node two lists %d pods, %v, want 1", len(items), err)
	}
}

// Quiet watches learn the revisions other kinds bring.
func TestProgress(t *testing.T) { synctest.Test(t, testProgress) }

func testProgress(t *testing.T) {
	s := open(t)
	r := create(t, s, "a", "x", "1").Revision()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for step, err := range s.Watch(ctx, pods, store.Match{}, 0) {
		if err != nil || step.Event != nil || step.Revision < r {
			t.Errorf("got %+v, %v; want progress to %d", step, err, r)
		}
		return
	}
	t.Error("no progress was reported")
}

// Adding a resource again decodes its objects anew, ends its watches, and keeps
// the history for those who come back.
func TestAddAgainAndRemove(t *testing.T) {
	b := memory.New()
	s := openOn(t, b, 0)
	first := create(t, s, "a", "x", "1")
	ended := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		var last error
		for step, err := range s.Watch(context.Background(), configMaps, store.Match{}, 0) {
			if last = err; step.Event != nil {
				close(started)
			}
		}
		ended <- last
	}()
	<-started
	again := *configMaps
	again.Stored = &again
	again.Default = func(obj resource.Object) { obj.SetLabels(map[string]string{"by": "default"}) }
	if err := s.Add(t.Context(), &again); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("watch ended with %v, want no error", err)
	}
	item, err := s.Get(t.Context(), &again, "a", "x")
	if err != nil || item.Object().GetLabels()["by"] != "default" || item.Revision() != first.Revision() {
		t.Errorf("object is %v, %v; want the new default at revision %d", item, err, first.Revision())
	}
	update(t, s, "a", "x", "2")
	if got, want := describeAll(watch(t, s, &again, store.Match{}, 0, 2)), "a/x -→1, a/x 1→2"; got != want {
		t.Errorf("history is %s, want %s", got, want)
	}
	s.Remove(&again)
	if _, err := s.Get(t.Context(), &again, "a", "x"); !errors.Is(err, store.ErrUnknownResource) {
		t.Errorf("get of a removed resource: got %v, want ErrUnknownResource", err)
	}
	if _, revision, err := b.Get(t.Context(), configMaps.Key("a", "x")); err != nil || revision == 0 {
		t.Errorf("what was stored is gone: %v", err)
	}
}

// A store that starts on a used backend has its objects and its history, and
// two stores on one backend see each other's writes.
func TestTwoStores(t *testing.T) {
	b := memory.New()
	s := openOn(t, b, 0)
	create(t, s, "a", "x", "1")
	update(t, s, "a", "x", "2")
	other := openOn(t, b, 0)
	item, err := other.Get(t.Context(), configMaps, "a", "x")
	if err != nil || dataOf(item) != "2" {
		t.Fatalf("the other store has %v, %v; want 2", item, err)
	}
	if got, want := describeAll(watch(t, other, configMaps, store.Match{}, 1, 1)), "a/x 1→2"; got != want {
		t.Errorf("history of the other store is %s, want %s", got, want)
	}
	for i := range 50 {
		update(t, []*store.Store{s, other}[i%2], "a", "x", fmt.Sprint("n", i))
		item, err := []*store.Store{other, s}[i%2].Get(t.Context(), configMaps, "a", "x")
		if err != nil || dataOf(item) != fmt.Sprint("n", i) {
			t.Fatalf("write %d is read as %v, %v by the other store", i, dataOf(item), err)
		}
	}
}

// A client that comes from a server that is ahead does not get again what it
// has seen there.
func TestWatchFromTheFuture(t *testing.T) {
	s := open(t)
	create(t, s, "a", "x", "1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	next, stop := iter.Pull2(s.Watch(ctx, configMaps, store.Match{}, 3))
	defer stop()
	go func() {
		for i := 2; i <= 4; i++ {
			_, _ = s.Update(ctx, configMaps, "a", "x", false, setData(fmt.Sprint(i)))
		}
	}()
	step, err, _ := next()
	for ; err == nil && step.Event == nil && ctx.Err() == nil; step, err, _ = next() {
	}
	if err != nil || step.Event == nil || step.Event.Revision != 4 {
		t.Errorf("got %+v, %v; want the event at 4", step, err)
	}
}

// After a restart the objects are there, and watches go on where they were.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	session := func(use func(s *store.Store)) {
		b, err := file.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		s, err := store.Open(t.Context(), store.Config{Backend: b, Resources: []*resource.Resource{configMaps, pods}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		use(s)
	}
	var seen int64
	session(func(s *store.Store) {
		create(t, s, "a", "x", "1")
		seen = update(t, s, "a", "x", "2").Revision()
		remove(t, s, create(t, s, "a", "y", "1"))
		update(t, s, "a", "x", "3")
	})
	session(func(s *store.Store) {
		if page := list(t, s, store.ListOptions{}); names(page.Items) != "a/x=3" || page.Revision != 5 {
			t.Errorf("after the restart: %s at %d, want a/x=3 at 5", names(page.Items), page.Revision)
		}
		if got, want := describeAll(watch(t, s, configMaps, store.Match{}, seen, 3)), "a/y -→1, a/y 1→-, a/x 2→3"; got != want {
			t.Errorf("the watch goes on with %s, want %s", got, want)
		}
		update(t, s, "a", "x", "4")
	})
}
