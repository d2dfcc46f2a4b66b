package backendtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// runShared checks what an engine promises when several servers have one
// database open.
func runShared(t *testing.T, e Engine) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Engine)
	}{
		{"servers make a new database together", testFirstUse},
		{"what one server wrote the others read", testReadAfterWrite},
		{"one of many competing servers wins", testCompetingServers},
		{"servers write revisions without gaps", func(t *testing.T, e Engine) { testServers(t, e, nil) }},
		{"a server goes on where another compacted", testOthersCompaction},
		{"a lifetime ends once", testLifetimeOfAll},
		{"a server that was away sees what it missed", testServerReturns},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, e) })
	}
	if e.Cut != nil {
		t.Run("servers write while connections are cut", func(t *testing.T) { testServers(t, e, e.Cut) })
	}
}

// openAll opens the database of t several times at once.
func openAll(t *testing.T, e Engine, servers int) []backend.Backend {
	t.Helper()
	first := open(t, e)
	all := []backend.Backend{first}
	for range servers - 1 {
		all = append(all, open(t, e))
	}
	return all
}

func testFirstUse(t *testing.T, e Engine) {
	servers := make([]backend.Backend, 4)
	var wg sync.WaitGroup
	for i := range servers {
		wg.Go(func() { servers[i] = e.Open(t) })
	}
	wg.Wait()
	for i, b := range servers {
		Put(t, b, fmt.Sprintf("/f/%d", i), "1", backend.Absent)
	}
	for _, b := range servers {
		same(t, "entries", len(list(t, b, "/f/", "", 0, 0).Entries), len(servers))
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func testReadAfterWrite(t *testing.T, e Engine) {
	servers := openAll(t, e, 3)
	at := backend.Absent
	for i := range 30 {
		writer, reader := servers[i%3], servers[(i+1)%3]
		value := fmt.Sprint(i)
		at = Put(t, writer, "/r/a", value, at)
		if got := revisionOf(t, reader); got < at {
			t.Fatalf("another server is at revision %d after a write at %d", got, at)
		}
		entry, _, err := reader.Get(t.Context(), "/r/a")
		if err != nil || string(entry.Value) != value || entry.Revision != at {
			t.Fatalf("get: got %s at %d, %v, want %s at %d", entry.Value, entry.Revision, err, value, at)
		}
		same(t, "list", text(list(t, reader, "/r/", "", 0, 0)), fmt.Sprintf("/r/a=%s@%d", value, at))
		// What a revision was asked for can be seen by a watch without more ado.
		same(t, "watch", describe(collect(t, reader, "/r/", at-1, 1)[0]), fmt.Sprintf("/r/a=%s@%d", value, at))
	}
}

func testCompetingServers(t *testing.T, e Engine) {
	servers := openAll(t, e, 3)
	expected := backend.Absent
	for range 20 {
		wins := make(chan int64, len(servers))
		var wg sync.WaitGroup
		for i, b := range servers {
			wg.Go(func() {
				revision, err := b.Put(t.Context(), "/a", fmt.Append(nil, i), expected, 0)
				if err == nil {
					wins <- revision
				} else if !errors.Is(err, backend.ErrConflict) {
					t.Errorf("put: %v", err)
				}
			})
		}
		wg.Wait()
		if len(wins) != 1 {
			t.Fatalf("%d servers won, want 1", len(wins))
		}
		expected = <-wins
	}
}

// testServers lets writers of three servers write while something disturbs
// them. No write may fail, have another revision than its writer was told, or be
// seen more or less than once by the watch of any server.
func testServers(t *testing.T, e Engine, disturb func(testing.TB)) {
	servers := openAll(t, e, 3)
	const writers, each = 4, 60
	var written sync.Map // what is where, by revision
	var wg, disturbing sync.WaitGroup
	seen := make([][]backend.Change, len(servers))
	for i, b := range servers {
		wg.Go(func() { seen[i] = collect(t, b, "", 0, len(servers)*writers*each) })
		for w := range writers {
			wg.Go(func() {
				at, key := backend.Absent, fmt.Sprintf("/%d/%d", i, w)
				for n := range each {
					revision, err := b.Put(t.Context(), key, fmt.Append(nil, n), at, 0)
					if err != nil {
						t.Errorf("put %s at %d: %v", key, at, err)
						return
					}
					written.Store(revision, fmt.Sprintf("%s=%d@%d", key, n, revision))
					at = revision
				}
			})
		}
	}
	var done atomic.Bool
	if disturb != nil {
		disturbing.Go(func() {
			for range 40 {
				if done.Load() {
					return
				}
				disturb(t)
				time.Sleep(20 * time.Millisecond) // how often it is disturbed proves nothing
			}
		})
	}
	wg.Wait()
	done.Store(true)
	disturbing.Wait()
	for i, changes := range seen {
		for n, c := range changes {
			same(t, "revision", c.Revision, int64(n+1))
			if want, _ := written.Load(c.Revision); want != describe(c) {
				t.Fatalf("server %d saw %s where %v was written", i, describe(c), want)
			}
		}
	}
}

func testOthersCompaction(t *testing.T, e Engine) {
	servers := openAll(t, e, 2)
	a, b := servers[0], servers[1]
	r1 := Put(t, a, "/c/a", "1", backend.Absent)
	live := make(chan []backend.Change, 1)
	go func() { live <- collect(t, b, "/c/", 0, 4) }()
	r2 := Put(t, a, "/c/a", "2", r1)
	r3 := Put(t, a, "/c/a", "3", r2)
	collect(t, b, "/c/", r2, 1) // so that the watch above has what it needs
	if err := a.Compact(t.Context(), r3); err != nil {
		t.Fatal(err)
	}
	r4 := Put(t, b, "/c/a", "4", r3)
	same(t, "change after another's compaction", describe((<-live)[3]), fmt.Sprintf("/c/a=4@%d", r4))
	_, err := b.List(t.Context(), "/c/", "", 0, r1)
	is(t, "list of what another compacted", err, backend.ErrCompacted)
	late := open(t, e)
	var last error
	for _, err := range late.Watch(t.Context(), "/c/", r1) {
		if last = err; err != nil {
			break
		}
	}
	is(t, "watch of what another compacted", last, backend.ErrCompacted)
	same(t, "what is left", text(list(t, late, "/c/", "", 0, r3)), fmt.Sprintf("/c/a=3@%d", r3))
}

func testLifetimeOfAll(t *testing.T, e Engine) {
	servers := openAll(t, e, 3)
	const keys = 20
	for i := range keys {
		if _, err := servers[i%3].Put(t.Context(), fmt.Sprintf("/l/%02d", i), []byte("1"), backend.Absent, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	gone := make(map[string]int)
	for _, c := range collect(t, servers[0], "/l/", 0, 2*keys) { // some may end before the last is written
		if c.Value == nil {
			gone[c.Key]++
		}
	}
	same(t, "keys that ended", len(gone), keys)
	last := revisionOf(t, servers[1])
	Put(t, servers[2], "/l/more", "1", backend.Absent)
	same(t, "revision after all have ended", last, int64(2*keys))
}

func testServerReturns(t *testing.T, e Engine) {
	a := open(t, e)
	b := e.Open(t)
	seen := Put(t, b, "/a", "1", backend.Absent)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	missed := Put(t, a, "/a", "2", seen)
	b = open(t, e)
	last := Put(t, b, "/a", "3", missed)
	for name, server := range map[string]backend.Backend{"stayed": a, "was away": b} {
		changes := collect(t, server, "", seen, 2)
		same(t, name, describe(changes[0])+" "+describe(changes[1]), fmt.Sprintf("/a=2@%d /a=3@%d", missed, last))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Put(ctx, "/b", nil, backend.Absent, 0); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("put by one who has left: got %v, want success or the end of the context", err)
	}
}
