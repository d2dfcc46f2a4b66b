package snapshot_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/backend/snapshot"
)

// tour is the way through the engines: each is filled by the one before it. An
// etcd counts revisions by itself, so that it is not on the way, but its beginning.
var tour = []struct {
	name  string
	fresh func(t testing.TB) string
}{
	{"etcd", databases.Etcd},
	{"postgres", databases.Postgres},
	{"file", func(t testing.TB) string { return "file://" + t.TempDir() + "/" }},
	{"mysql", databases.MariaDB},
	{"sqlite", func(t testing.TB) string { return "sqlite://" + t.TempDir() + "/" }},
	{"postgres again", databases.Postgres},
}

// What was written to one engine is the same after it went through all: values,
// revisions, ends of lifetimes, and history.
func TestTour(t *testing.T) {
	opened := func(name, address string) backend.Backend {
		b, err := engines.Open(address)
		if err != nil {
			t.Fatalf("open %s: %v", name, err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	}
	from := opened(tour[0].name, tour[0].fresh(t))
	fill(t, from)
	want, newest := everything(t, from)
	var history []string
	var oldest int64
	for i, stop := range tour[1:] {
		to := opened(stop.name, stop.fresh(t))
		copied, err := snapshot.Copy(t.Context(), from, to, untold)
		if err != nil {
			t.Fatalf("from %s to %s: %v", tour[i].name, stop.name, err)
		}
		got, at := everything(t, to)
		equal(t, "entries in "+stop.name, got, want)
		if at != newest || copied.Newest != newest || copied.Entries != len(want) {
			t.Errorf("%s is at %d after %+v, want %d at %d", stop.name, at, copied, len(want), newest)
		}
		if i == 0 {
			oldest = copied.Oldest
			history = changes(t, from, oldest, newest)
		}
		if copied.Oldest != oldest || len(history) == 0 {
			t.Errorf("%s has history from %d on, want it from %d on", stop.name, copied.Oldest, oldest)
		}
		equal(t, "history in "+stop.name, changes(t, to, oldest, newest), history)
		if _, err := snapshot.Copy(t.Context(), from, to, untold); !errors.Is(err, backend.ErrNotEmpty) {
			t.Errorf("a second copy to %s: %v", stop.name, err)
		}
		from = to
	}
	if next := put(t, from, "/next", "1", 0); next != newest+1 {
		t.Errorf("at the end of the tour, the next revision is %d after %d", next, newest)
	}
	want, _ = everything(t, from)
	backup := write(t, from)
	restored := memory.New()
	defer restored.Close()
	if _, err := snapshot.Restore(t.Context(), bytes.NewReader(backup), restored, 0, untold); err != nil {
		t.Fatal(err)
	}
	if got, _ := everything(t, restored); !slices.Equal(got, want) {
		t.Error("a backup of the last is not restored as it is")
	}
}
