// Package relationaltest has the tests of faults that the engines over SQL
// servers share. What they do to a database, they do by SQL and with a server of
// their own.
package relationaltest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
)

// Engine is what Run needs to know of an engine.
type Engine struct {
	Open func(url string) (backend.Backend, error)
	// Database returns the URL of a fresh database.
	Database func(t testing.TB) string
	// Server starts a server of the test's own.
	Server func(t testing.TB) Server
	// Execute runs a statement beside the engine.
	Execute func(t testing.TB, url, statement string)
	// Size is how many bytes the tables take on disk.
	Size func(t testing.TB, url string) int64
	// Purge waits until the database has taken back the room of deleted rows that it is to use again; nil: it does so by itself
	// as it goes on.
	Purge func(t testing.TB, url string)
}

// Server is a database server that can be killed and started again.
type Server interface {
	Database(t testing.TB) (url string)
	Kill(t testing.TB)
	Start(t testing.TB)
}

// Run checks what an engine does when something goes wrong.
func Run(t *testing.T, e Engine) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Engine)
	}{
		{"a commit of unknown outcome happens once", testDoubt},
		{"a write that the database refuses costs no other", testRefusedWrite},
		{"a database that lost commits gives no revision twice", testLostCommits},
		{"tables of others are refused", testForeign},
		{"a key can be too long", testLongKey},
		{"what is compacted gives its space back", testBounded},
		{"a database that was killed comes back", testOutage},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, e) })
	}
}

func open(t testing.TB, e Engine, url string) backend.Backend {
	t.Helper()
	b, err := e.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	return backendtest.CloseLater(t, b)
}

// watch collects changes until one has a key.
func watch(t testing.TB, b backend.Backend, after int64, last string) (changes []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for c, err := range b.Watch(ctx, "", after) {
		if err != nil {
			return changes, err
		}
		if c.Key != "" {
			changes = append(changes, fmt.Sprintf("%s=%s@%d", c.Key, c.Value, c.Revision))
		}
		if c.Key == last {
			return changes, nil
		}
	}
	return changes, errors.New("watch ended")
}

// The connection is lost in a commit, before the database has it or before it
// has answered. The write is there once, and its writer is told so.
func testDoubt(t *testing.T, e Engine) {
	for _, answered := range []bool{false, true} {
		t.Run(fmt.Sprintf("committed=%v", answered), func(t *testing.T) {
			address := e.Database(t)
			p := startProxy(t, &address)
			b := open(t, e, address)
			r := backendtest.Put(t, b, "/before", "0", backend.Absent)
			p.arm("/doubt", answered)
			doubt := backendtest.Put(t, b, "/doubt", "1", backend.Absent)
			if !p.cutOnce() {
				t.Fatal("no commit was cut")
			}
			if doubt != r+1 {
				t.Errorf("the write is at %d, want %d", doubt, r+1)
			}
			backendtest.Put(t, b, "/doubt", "2", doubt)
			backendtest.Put(t, b, "/after", "3", backend.Absent)
			changes, err := watch(t, b, r, "/after")
			got := strings.Join(changes, " ")
			if want := fmt.Sprintf("/doubt=1@%d /doubt=2@%d /after=3@%d", r+1, r+2, r+3); got != want || err != nil {
				t.Errorf("watch: got %s, %v, want %s", got, err, want)
			}
		})
	}
}

func testRefusedWrite(t *testing.T, e Engine) {
	url := e.Database(t)
	b := open(t, e, url)
	backendtest.Put(t, b, "/a", "1", backend.Absent)
	e.Execute(t, url, `ALTER TABLE skiff_writes ADD CONSTRAINT refuse CHECK (name <> '/refused')`)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := b.Put(t.Context(), fmt.Sprintf("/good/%d", i), nil, backend.Absent, 0); err != nil {
				t.Errorf("put: %v", err)
			}
		})
		wg.Go(func() {
			_, err := b.Put(t.Context(), "/refused", nil, backend.Absent, 0)
			if err == nil || errors.Is(err, backend.ErrConflict) || errors.Is(err, backend.ErrUnavailable) {
				t.Errorf("put of what the database refuses: got %v, want its error", err)
			}
		})
	}
	wg.Wait()
}

// The database is put back to an earlier state, as by a fail-over to a replica
// that was behind.
func testLostCommits(t *testing.T, e Engine) {
	url := e.Database(t)
	a, b := open(t, e, url), open(t, e, url)
	kept := backendtest.Put(t, a, "/kept", "1", backend.Absent)
	lost := backendtest.Put(t, a, "/lost", "1", backend.Absent)
	lost = backendtest.Put(t, a, "/lost", "2", lost)
	if _, err := watch(t, b, kept, "/lost"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	for _, server := range []backend.Backend{a, b} {
		go func() {
			_, err := watch(t, server, lost, "/never")
			ended <- err
		}()
	}
	e.Execute(t, url, fmt.Sprintf("UPDATE skiff_meta SET revision = %d", kept))
	e.Execute(t, url, fmt.Sprintf("DELETE FROM skiff_writes WHERE revision > %d", kept))
	for range 2 {
		if err := <-ended; !errors.Is(err, backend.ErrCompacted) {
			t.Errorf("a watch of what was lost ended with %v, want %v", err, backend.ErrCompacted)
		}
	}
	if next := backendtest.Put(t, a, "/next", "1", backend.Absent); next <= lost {
		t.Errorf("revision %d was given again, of which %d were seen", next, lost)
	}
	page, err := b.List(t.Context(), "", "", 0, 0)
	if err != nil || len(page.Entries) != 2 || page.Entries[0].Key != "/kept" || page.Entries[1].Key != "/next" {
		t.Errorf("list: got %v, %v, want /kept and /next", page.Entries, err)
	}
}

func testForeign(t *testing.T, e Engine) {
	for name, c := range map[string]struct{ statement, want string }{
		"another layout": {"UPDATE skiff_meta SET layout = 2", "the layout of the tables is 2, this version reads 1"},
		"another table":  {"ALTER TABLE skiff_meta DROP COLUMN dropped", "the tables skiff_… can neither be read nor made"},
	} {
		t.Run(name, func(t *testing.T) {
			url := e.Database(t)
			b := open(t, e, url)
			backendtest.Put(t, b, "/a", "1", backend.Absent)
			e.Execute(t, url, c.statement)
			second, err := e.Open(url)
			if err == nil {
				second.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("open: got %v, want an error with %q", err, c.want)
			}
			if _, err := b.Put(t.Context(), "/b", nil, backend.Absent, 0); err == nil {
				t.Error("a server that has the database open went on writing")
			}
		})
	}
}

func testLongKey(t *testing.T, e Engine) {
	b := open(t, e, e.Database(t))
	if _, err := b.Put(t.Context(), strings.Repeat("k", 2000), nil, backend.Absent, 0); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("put: got %v, want that the key is too long", err)
	}
	backendtest.Put(t, b, strings.Repeat("\xff", 1024), "1", backend.Absent)
	page, err := b.List(t.Context(), strings.Repeat("\xff", 1024), "", 0, 0)
	if err != nil || len(page.Entries) != 1 {
		t.Errorf("list of the last possible key: got %d entries, %v, want 1", len(page.Entries), err)
	}
}

// A steady number of objects that are written for ever takes a bounded space. How
// soon the room of deleted rows is used again is the database's affair: it is waited
// for, and the tables may grow for a while, but not with what is written.
func testBounded(t *testing.T, e Engine) {
	url := e.Database(t)
	b := open(t, e, url)
	const keys, writes = 32, 60
	var current [keys]int64
	var written atomic.Int64
	write := func() {
		var wg sync.WaitGroup
		for k := range keys {
			wg.Go(func() {
				value := []byte(strings.Repeat(fmt.Sprint(k), 3000))
				for range writes {
					var err error
					if current[k], err = b.Put(t.Context(), fmt.Sprintf("/k/%d", k), value, current[k], 0); err != nil {
						t.Errorf("put: %v", err)
						return
					}
					written.Add(int64(len(value)))
				}
			})
		}
		wg.Wait()
		revision, err := b.Revision(t.Context())
		if err == nil {
			err = b.Compact(t.Context(), revision)
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Purge != nil {
			e.Purge(t, url)
		}
	}
	for range 2 {
		write()
	}
	early := e.Size(t, url)
	written.Store(0)
	for range 6 {
		write()
	}
	if late := e.Size(t, url); late-early > written.Load()/2 {
		t.Errorf("the tables grew from %d to %d bytes with %d that were written, while their content stayed the same", early, late, written.Load())
	}
}

// While the database is away writes fail with a clear error and watches wait;
// when it is back all goes on.
func testOutage(t *testing.T, e Engine) {
	server := e.Server(t)
	b := open(t, e, server.Database(t))
	first := backendtest.Put(t, b, "/a", "1", backend.Absent)
	seen := make(chan string, 1)
	go func() {
		changes, err := watch(t, b, 0, "/end")
		seen <- fmt.Sprint(changes, err)
	}()
	server.Kill(t)
	left, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := b.Put(left, "/left", nil, backend.Absent, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("put by one who leaves: got %v, want the end of the context", err)
	}
	if _, err := b.Put(t.Context(), "/b", nil, backend.Absent, 0); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("put: got %v, want %v", err, backend.ErrUnavailable)
	}
	if _, err := b.Revision(t.Context()); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("revision: got %v, want %v", err, backend.ErrUnavailable)
	}
	server.Start(t)
	entry, _, err := b.Get(t.Context(), "/a")
	if err != nil || entry.Revision != first {
		t.Errorf("get: got %v, %v, want what was written before", entry, err)
	}
	last := backendtest.Put(t, b, "/end", "2", backend.Absent)
	if got, want := <-seen, fmt.Sprintf("[/a=1@%d /end=2@%d] <nil>", first, last); got != want {
		t.Errorf("the watch saw %s, want %s", got, want)
	}
}
