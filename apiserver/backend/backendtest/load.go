package backendtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// latest is how much later than it should an hour may end: engines may end many
// lifetimes at once.
const latest = time.Minute + 2*time.Second

func testEnd(t *testing.T, e Engine) {
	b := open(t, e)
	Put(t, b, "/e/unlimited", "1", backend.Absent)
	before := time.Now()
	first, err := b.Put(t.Context(), "/e/limited", []byte("1"), backend.Absent, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	entry, _, err := b.Get(t.Context(), "/e/limited")
	if err != nil {
		t.Fatal(err)
	}
	entries := list(t, b, "/e/", "", 0, 0).Entries
	for what, end := range map[string]time.Time{"get": entry.End, "list": entries[0].End} {
		if end.Before(before.Add(time.Hour-2*time.Second)) || end.After(after.Add(time.Hour+latest)) {
			t.Errorf("%s: the lifetime ends at %v, want an hour after %v, or little later", what, end, before)
		}
	}
	same(t, "a value for ever has an end", !entries[1].End.IsZero(), false)
	Put(t, b, "/e/limited", "2", first)
	same(t, "a value written over one with a lifetime has an end", !list(t, b, "/e/limited", "", 0, 0).Entries[0].End.IsZero(), false)
	same(t, "the value before it has one", list(t, b, "/e/limited", "", 0, first).Entries[0].End.IsZero(), false)
}

func loader(t testing.TB, b backend.Backend) backend.Loader {
	t.Helper()
	l, ok := b.(backend.Loader)
	if !ok {
		t.Fatalf("%T is no backend.Loader", b)
	}
	return l
}

// loaded is what testLoad puts into a backend as compacted at 200 and newest at
// 203: before, writes far apart and not by key; then history.
func loaded(now time.Time) []backend.Entry {
	return []backend.Entry{
		{Key: "/l/z", Value: []byte("1"), Revision: 3},
		{Key: "/l/short", Value: []byte("2"), Revision: 17, End: now.Add(time.Second)},
		{Key: "/l/a", Value: []byte{}, Revision: 20},
		{Key: "/l/gone", Value: []byte("3"), Revision: 100},
		{Key: "/l/long", Value: []byte("4"), Revision: 150, End: now.Add(time.Hour)},
		{Key: "/l/z", Value: []byte("5"), Revision: 201},
		{Key: "/l/gone", Revision: 202},
		{Key: "/l/new", Value: []byte("6"), Revision: 203},
	}
}

func testLoad(t *testing.T, e Engine) {
	b := e.Open(t)
	now := time.Now()
	if err := loader(t, b).Load(t.Context(), slices.Values(loaded(now)), 200, 203); err != nil {
		t.Fatal(err)
	}
	checkLoaded(t, b, now)
	last := Put(t, b, "/l/z", "7", 201)
	if last <= 203 {
		t.Errorf("a write after loading up to 203 has revision %d", last)
	}
	same(t, "the first change", describe(collect(t, b, "/l/z", 203, 1)[0]), fmt.Sprintf("/l/z=7@%d", last))
	if e.Durable {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = e.Open(t)
		checkLoaded(t, b, now)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second+e.Lifetime)
	defer cancel()
	for c, err := range b.Watch(ctx, "/l/short", 203) {
		if err != nil {
			t.Fatalf("waiting for the end of a lifetime that was loaded: %v", err)
		}
		if c.Key == "/l/short" {
			break
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// checkLoaded looks at what does not change after testLoad has loaded it.
func checkLoaded(t *testing.T, b backend.Backend, now time.Time) {
	t.Helper()
	if newest := revisionOf(t, b); newest < 203 {
		t.Errorf("newest revision is %d, want that of the load, 203, at least", newest)
	}
	same(t, "at the compacted revision of the load", text(list(t, b, "/l/", "", 0, 200)), "/l/a=@20 /l/gone=3@100 /l/long=4@150 /l/short=2@17 /l/z=1@3")
	same(t, "at the newest revision of the load", text(list(t, b, "/l/", "", 0, 203)), "/l/a=@20 /l/long=4@150 /l/new=6@203 /l/short=2@17 /l/z=5@201")
	var history []string
	for _, c := range collect(t, b, "/l/", 200, 3) {
		history = append(history, describe(c))
	}
	same(t, "history", strings.Join(history, ", "), "/l/z=5@201, /l/gone gone@202, /l/new=6@203")
	same(t, "now", text(list(t, b, "/l/a", "", 0, 0))+" "+text(list(t, b, "/l/long", "", 0, 0)), "/l/a=@20 /l/long=4@150")
	end := list(t, b, "/l/long", "", 0, 0).Entries[0].End
	if off := end.Sub(now.Add(time.Hour)).Abs(); off > 2*time.Second {
		t.Errorf("a lifetime that was loaded ends %v away from when it should", off)
	}
	_, err := b.List(t.Context(), "/l/", "", 0, 199)
	is(t, "list before the load", err, backend.ErrCompacted)
	for _, err := range b.Watch(t.Context(), "/l/", 150) {
		is(t, "watch from before the load", err, backend.ErrCompacted)
		break
	}
}

func testLoadRefuses(t *testing.T, e Engine) {
	b := open(t, e)
	r := Put(t, b, "/a", "1", backend.Absent)
	is(t, "load", loader(t, b).Load(t.Context(), slices.Values(loaded(time.Now())), 200, 203), backend.ErrNotEmpty)
	del(t, b, "/a", r)
	is(t, "load after a delete", loader(t, b).Load(t.Context(), slices.Values(loaded(time.Now())), 200, 203), backend.ErrNotEmpty)
	same(t, "content", text(list(t, b, "/", "", 0, 0)), "")
}

func testLoadEndsEarly(t *testing.T, e Engine) {
	b := open(t, e)
	ctx, cancel := context.WithCancel(t.Context())
	err := loader(t, b).Load(ctx, func(yield func(backend.Entry) bool) {
		for i, entry := range loaded(time.Now()) {
			if i == 2 {
				cancel()
			}
			if !yield(entry) {
				return
			}
		}
	}, 200, 203)
	is(t, "load", err, context.Canceled)
	_, err = b.Put(t.Context(), "/b", nil, backend.Absent, 0)
	if err != nil {
		is(t, "put", err, backend.ErrPartial)
		return
	}
	page := list(t, b, "", "", 0, 0)
	same(t, "what is there after a load of nothing and a put", len(page.Entries), 1)
}
