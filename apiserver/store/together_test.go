package store_test

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// endings is a backend that deletes at one revision what was deleted in a row, as etcd does when a lease ends.
type endings struct {
	backend.Backend
	between func() // is called when a part of a revision has been given
}

func (b *endings) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		var held []backend.Change
		for c, err := range b.Backend.Watch(ctx, prefix, after) {
			if c.Value == nil && c.Key != "" && err == nil {
				held = append(held, c)
				continue
			}
			for i, h := range held {
				h.Revision, h.More = held[len(held)-1].Revision, i+1 < len(held)
				if !yield(h, nil) {
					return
				}
				if h.More {
					b.between()
				}
			}
			held = nil
			if !yield(c, err) {
				return
			}
		}
	}
}

// What ended at one revision is gone at once for every list, and each watch sees all of it.
func TestDeletedTogether(t *testing.T) {
	b := &endings{Backend: memory.New()}
	seen := make(map[string]bool)
	b.between = func() {}
	s := openOn(t, b, 0)
	const n = 5
	var first *store.Item
	for i := range n {
		item := create(t, s, "a", fmt.Sprint("n", i), "x")
		if first == nil {
			first = item
		}
	}
	last := newest(t, s)
	b.between = func() {
		items, at, err := s.Snapshot(context.Background(), configMaps, store.Match{}, 0)
		if err != nil || len(items) != n {
			t.Errorf("while a revision is being applied, a list at %d has %d objects, %v, want all %d", at, len(items), err, n)
		}
	}
	page, err := b.List(t.Context(), "/registry/configmaps/", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Entries {
		if _, err := b.Delete(t.Context(), e.Key, e.Revision); err != nil {
			t.Fatal(err)
		}
	}
	after := create(t, s, "a", "after", "x") // what was held back comes now
	for step, err := range s.Watch(t.Context(), configMaps, store.Match{}, last) {
		if err != nil {
			t.Fatal(err)
		}
		if step.Event == nil {
			continue
		}
		if step.Event.New != nil {
			break
		}
		if step.Revision != last+n {
			t.Errorf("a delete is at %d, want %d", step.Revision, last+n)
		}
		seen[step.Event.Last().Object().GetName()] = true
	}
	if len(seen) != n {
		t.Errorf("the watch saw the end of %v, want all %d", seen, n)
	}
	for _, at := range []struct {
		revision int64
		want     int
	}{{last, n}, {last + n, 0}, {after.Revision(), 1}} {
		page, err := s.List(t.Context(), configMaps, store.ListOptions{ResourceVersion: fmt.Sprint(at.revision), ResourceVersionMatch: "Exact"})
		if err != nil || len(page.Items) != at.want {
			t.Errorf("list at %d: got %v, %v, want %d objects", at.revision, page, err, at.want)
		}
	}
}

// Of what ended together, more than the feed holds is dropped whole.
func TestDeletedTogetherIsLarge(t *testing.T) {
	b := &endings{Backend: memory.New(), between: func() {}}
	s := openOn(t, b, 0)
	data := strings.Repeat("x", 1<<20)
	const n = 20
	for i := range n {
		create(t, s, "a", fmt.Sprintf("n%02d", i), data)
	}
	last := newest(t, s)
	page, err := b.List(t.Context(), "/registry/configmaps/", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Entries {
		if _, err := b.Delete(t.Context(), e.Key, e.Revision); err != nil {
			t.Fatal(err)
		}
	}
	after := create(t, s, "a", "after", data)
	for _, err := range s.Watch(t.Context(), configMaps, store.Match{}, last) {
		if err == nil {
			t.Error("a watch that missed what was dropped goes on")
		}
		break
	}
	for step, err := range s.Watch(t.Context(), configMaps, store.Match{}, last+n) {
		if err != nil || step.Event == nil || step.Revision != after.Revision() {
			t.Errorf("a watch after what was dropped: got %+v, %v, want the event at %d", step, err, after.Revision())
		}
		break
	}
}

func newest(t *testing.T, s *store.Store) int64 {
	t.Helper()
	revision, err := s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return revision
}
