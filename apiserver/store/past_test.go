package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// Every revision of a random history can be listed as it was.
func TestEveryRevision(t *testing.T) {
	s := open(t)
	random := rand.New(rand.NewPCG(1, 2))
	current := make(map[string]*store.Item)
	past := make(map[int64]string)
	for i := range 300 {
		name := fmt.Sprintf("n%02d", random.IntN(20))
		item, revision := current[name], int64(0)
		switch {
		case item == nil:
			current[name] = create(t, s, "a", name, fmt.Sprint(i))
			revision = current[name].Revision()
		case random.IntN(3) == 0:
			revision = remove(t, s, item).Revision()
			delete(current, name)
		default:
			current[name] = update(t, s, "a", name, fmt.Sprint(i))
			revision = current[name].Revision()
		}
		var items []*store.Item
		for _, name := range slices.Sorted(maps.Keys(current)) {
			items = append(items, current[name])
		}
		past[revision] = names(items)
	}
	for revision, want := range past {
		page := list(t, s, store.ListOptions{ResourceVersion: version(revision), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		if got := names(page.Items); got != want {
			t.Errorf("at %d: got %s\nwant %s", revision, got, want)
		}
	}
}

// When the feed has been cut short, old revisions come from the backend.
func TestReadBack(t *testing.T) {
	s := open(t)
	old := create(t, s, "a", "small", "1").Revision()
	update(t, s, "a", "small", "2")
	create(t, s, "a", "large", "")
	for i := range 120 {
		update(t, s, "a", "large", fmt.Sprint(i, strings.Repeat("x", 200_000)))
	}
	for _, err := range s.Watch(t.Context(), configMaps, store.Match{}, old) {
		if !errors.Is(err, store.ErrExpired) {
			t.Fatalf("watch: got %v; the feed was to be cut short for this test", err)
		}
		break
	}
	page := list(t, s, store.ListOptions{ResourceVersion: version(old), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if got := names(page.Items); got != "a/small=1" {
		t.Errorf("got %s, want a/small=1", got)
	}
}

// interrupted is a backend whose watches break off with an error on demand.
type interrupted struct {
	*memory.Backend
	with atomic.Pointer[error]
}

func (i *interrupted) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		if err := i.with.Swap(nil); err != nil {
			yield(backend.Change{}, *err)
			return
		}
		for c, err := range i.Backend.Watch(ctx, prefix, after) {
			if err == nil && i.with.Load() != nil {
				err = *i.with.Swap(nil)
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// An interrupted follower goes on; one that missed changes loads everything
// anew, and tells those who watch.
func TestInterruptedFollower(t *testing.T) {
	for _, c := range []struct {
		name    string
		err     error
		expired bool
	}{
		{"connection lost", errors.New("connection lost"), false},
		{"compacted", backend.ErrCompacted, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &interrupted{Backend: memory.New()}
			defer b.Close()
			s, err := store.Open(t.Context(), store.Config{Backend: b, Resources: []*resource.Resource{configMaps}})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			item := create(t, s, "a", "x", "1")
			kept := create(t, s, "a", "kept", "1")
			next, stop := iter.Pull2(s.Watch(t.Context(), configMaps, store.Match{}, kept.Revision()))
			defer stop()

			b.with.Store(&c.err)
			remove(t, s, item) // must not hang, nor be missed
			create(t, s, "a", "y", "1")
			if page := list(t, s, store.ListOptions{}); names(page.Items) != "a/kept=1 a/y=1" {
				t.Errorf("afterwards: %s, want a/kept=1 a/y=1", names(page.Items))
			}
			step, err, _ := next()
			switch {
			case c.expired && !errors.Is(err, store.ErrExpired):
				t.Errorf("watch goes on with %+v, %v; want ErrExpired", step, err)
			case !c.expired && (err != nil || describe(step) != "a/x 1→-"):
				t.Errorf("watch goes on with %+v, %v; want the delete of x", step, err)
			}
			update(t, s, "a", "y", "2")
			if got, want := describeAll(watch(t, s, configMaps, store.Match{Name: "y"}, 4, 1)), "a/y 1→2"; got != want {
				t.Errorf("a new watch sees %s, want %s", got, want)
			}
		})
	}
}
