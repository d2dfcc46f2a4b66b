// Package backendtest is the contract of backend.Backend as a test. Every
// engine runs it:
//
//	func TestContract(t *testing.T) {
//		backendtest.Run(t, backendtest.Engine{Open: …, Durable: true})
//	}
package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Engine is what Run needs to know of an engine.
type Engine struct {
	// Open opens the database that belongs to t. For a durable engine, opening
	// it again after it was closed finds what was written.
	Open    func(t testing.TB) backend.Backend
	Durable bool
	// Shared: opening the database of t again, while it is open, gives a second
	// server of it.
	Shared bool
	// Cut ends all connections to the database of t, if an engine has some.
	Cut func(t testing.TB)
	// Lifetime is how late after its lifetime a key may be deleted; 0 means ten
	// seconds.
	Lifetime time.Duration
}

// Run checks that an engine keeps the contract.
func Run(t *testing.T, e Engine) {
	if e.Lifetime == 0 {
		e.Lifetime = 10 * time.Second
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T, Engine)
	}{
		{"an empty backend", testEmpty},
		{"put get delete", testPutGetDelete},
		{"a write needs the expected revision", testExpected},
		{"revisions ascend in the order of commits", testConcurrentRevisions},
		{"one of many competing writers wins", testCompetition},
		{"list in pages at a revision", testPages},
		{"list follows prefixes exactly", testPrefixes},
		{"list is a snapshot under concurrent writes", testSnapshot},
		{"watch sees every change once and in order", testWatch},
		{"watch resumes anywhere", testWatchResumes},
		{"watch reports progress past changes it does not match", testProgress},
		{"watch ends", testWatchEnds},
		{"compaction forgets history only", testCompaction},
		{"the future is an error", testFuture},
		{"lifetimes end", testLifetime},
		{"lifetimes are told", testEnd},
		{"load fills an empty backend", testLoad},
		{"load refuses a backend that was written to", testLoadRefuses},
		{"a load that ends early is no state", testLoadEndsEarly},
		{"a closed backend says so", testClosed},
		{"large values and odd keys", testLarge},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, e) })
	}
	if e.Durable {
		t.Run("everything is there after reopening", func(t *testing.T) { testReopen(t, e) })
	}
	if e.Shared {
		runShared(t, e)
	}
}

func open(t testing.TB, e Engine) backend.Backend {
	t.Helper()
	return CloseLater(t, e.Open(t))
}

// CloseLater closes b when the test ends, and returns it.
func CloseLater(t testing.TB, b backend.Backend) backend.Backend {
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// Put writes a key and returns the revision.
func Put(t testing.TB, b backend.Backend, key, value string, expected int64) int64 {
	t.Helper()
	revision, err := b.Put(t.Context(), key, []byte(value), expected, 0)
	if err != nil {
		t.Fatalf("put %s at %d: %v", key, expected, err)
	}
	return revision
}

func del(t testing.TB, b backend.Backend, key string, expected int64) int64 {
	t.Helper()
	revision, err := b.Delete(t.Context(), key, expected)
	if err != nil {
		t.Fatalf("delete %s at %d: %v", key, expected, err)
	}
	return revision
}

func list(t testing.TB, b backend.Backend, prefix, after string, limit int, revision int64) backend.Page {
	t.Helper()
	page, err := b.List(t.Context(), prefix, after, limit, revision)
	if err != nil {
		t.Fatalf("list %s after %q at %d: %v", prefix, after, revision, err)
	}
	return page
}

func revisionOf(t testing.TB, b backend.Backend) int64 {
	t.Helper()
	revision, err := b.Revision(t.Context())
	if err != nil {
		t.Fatalf("revision: %v", err)
	}
	return revision
}

// text is a page as "key=value@revision …".
func text(p backend.Page) string {
	var parts []string
	for _, e := range p.Entries {
		parts = append(parts, fmt.Sprintf("%s=%s@%d", e.Key, e.Value, e.Revision))
	}
	return strings.Join(parts, " ")
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func is(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func testEmpty(t *testing.T, e Engine) {
	b := open(t, e)
	empty := revisionOf(t, b)
	_, revision, err := b.Get(t.Context(), "/a")
	is(t, "get", err, backend.ErrNotFound)
	same(t, "revision of get", revision, empty)
	page := list(t, b, "/", "", 0, 0)
	same(t, "list", text(page), "")
	same(t, "more", page.More, int64(0))
	same(t, "revision of list", page.Revision, empty)
	if first := Put(t, b, "/a", "1", backend.Absent); first <= empty {
		t.Errorf("the first write has revision %d, want more than %d, that of nothing", first, empty)
	}
}

func testPutGetDelete(t *testing.T, e Engine) {
	b := open(t, e)
	r1 := Put(t, b, "/a", "1", backend.Absent)
	r2 := Put(t, b, "/b", "2", backend.Absent)
	entry, newest, err := b.Get(t.Context(), "/a")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "value", string(entry.Value), "1")
	same(t, "revision", entry.Revision, r1)
	same(t, "newest", newest, r2)
	r3 := Put(t, b, "/a", "3", r1)
	r4 := del(t, b, "/a", r3)
	if !slices.IsSorted([]int64{1, r1, r2, r3, r4}) || r1 == r2 || r2 == r3 || r3 == r4 {
		t.Errorf("revisions %d %d %d %d do not ascend from 1", r1, r2, r3, r4)
	}
	_, newest, err = b.Get(t.Context(), "/a")
	is(t, "get after delete", err, backend.ErrNotFound)
	same(t, "newest after delete", newest, r4)
	r5, err := b.Put(t.Context(), "/a", nil, backend.Absent, 0)
	if err != nil {
		t.Fatal(err)
	}
	entry, _, err = b.Get(t.Context(), "/a")
	if err != nil || len(entry.Value) != 0 || entry.Revision != r5 {
		t.Errorf("empty value: got %v, %v, want it at %d", entry, err, r5)
	}
	same(t, "change to an empty value", describe(collect(t, b, "/a", r4, 1)[0]), fmt.Sprintf("/a=@%d", r5))
}

func testExpected(t *testing.T, e Engine) {
	b := open(t, e)
	r1 := Put(t, b, "/a", "1", backend.Absent)
	r2 := Put(t, b, "/a", "2", r1)
	for _, c := range []struct {
		name     string
		key      string
		expected int64
	}{
		{"exists", "/a", backend.Absent},
		{"old revision", "/a", r1},
		{"future revision", "/a", r2 + 1},
		{"missing key", "/b", r1},
	} {
		_, err := b.Put(t.Context(), c.key, []byte("x"), c.expected, 0)
		is(t, "put: "+c.name, err, backend.ErrConflict)
		_, err = b.Delete(t.Context(), c.key, c.expected)
		is(t, "delete: "+c.name, err, backend.ErrConflict)
	}
	_, err := b.Delete(t.Context(), "/b", backend.Absent)
	is(t, "delete of nothing", err, backend.ErrConflict)
	same(t, "revision after refused writes", revisionOf(t, b), r2)
	same(t, "content", text(list(t, b, "/", "", 0, 0)), fmt.Sprintf("/a=2@%d", r2))
}

func testConcurrentRevisions(t *testing.T, e Engine) {
	b := open(t, e)
	const writers, each = 8, 25
	var mu sync.Mutex
	written := make(map[int64]string)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			last := int64(0)
			for i := range each {
				key := fmt.Sprintf("/%d/%d", w, i)
				revision, err := b.Put(t.Context(), key, []byte(key), backend.Absent, 0)
				if err != nil {
					t.Errorf("put %s: %v", key, err)
					return
				}
				newest, err := b.Revision(t.Context())
				if revision <= last || err != nil || newest < revision {
					t.Errorf("put %s at %d after %d, then newest %d, %v", key, revision, last, newest, err)
				}
				last = revision
				mu.Lock()
				written[revision] = key
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	same(t, "different revisions", len(written), writers*each)
	for _, c := range collect(t, b, "/", 0, writers*each) {
		same(t, fmt.Sprintf("key at revision %d", c.Revision), c.Key, written[c.Revision])
	}
}

func testCompetition(t *testing.T, e Engine) {
	b := open(t, e)
	expected := backend.Absent
	for round := range 20 {
		wins := make(chan int64, 8)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				revision, err := b.Put(t.Context(), "/a", fmt.Appendf(nil, "%d/%d", round, w), expected, 0)
				if err == nil {
					wins <- revision
				} else if !errors.Is(err, backend.ErrConflict) {
					t.Errorf("put: %v", err)
				}
			})
		}
		wg.Wait()
		if len(wins) != 1 {
			t.Fatalf("%d writers won, want 1", len(wins))
		}
		expected = <-wins
	}
}

func testPages(t *testing.T, e Engine) {
	b := open(t, e)
	var want []string
	for i := range 10 {
		key := fmt.Sprintf("/p/%02d", i)
		want = append(want, fmt.Sprintf("%s=1@%d", key, Put(t, b, key, "1", backend.Absent)))
	}
	at := revisionOf(t, b)
	// What happens now must not show on the pages of the old revision.
	first, _, _ := b.Get(t.Context(), "/p/00")
	Put(t, b, "/p/00", "2", first.Revision)
	del(t, b, "/p/05", list(t, b, "/p/05", "", 0, 0).Entries[0].Revision)
	Put(t, b, "/p/05x", "1", backend.Absent)
	Put(t, b, "/q", "1", backend.Absent)
	var got []string
	after := ""
	for _, more := range []int64{7, 4, 1, 0} {
		page := list(t, b, "/p/", after, 3, at)
		same(t, "revision of page", page.Revision, at)
		same(t, "more", page.More, more)
		got = append(got, text(page))
		after = page.Entries[len(page.Entries)-1].Key
	}
	same(t, "all pages", strings.Join(got, " "), strings.Join(want, " "))
	now := list(t, b, "/p/", "", 1, 0)
	same(t, "newest revision", now.Revision, revisionOf(t, b))
	same(t, "more at newest", now.More, int64(9))
	same(t, "before the first", text(list(t, b, "/p/", "", 0, first.Revision)), want[0])
}

func testPrefixes(t *testing.T, e Engine) {
	b := open(t, e)
	for _, key := range []string{"/a", "/a/", "/a/b", "/a-b/c", "/ab", "/a/b/c", "/A/b", "/a/%_", "/a/ü"} {
		Put(t, b, key, "", backend.Absent)
	}
	for _, c := range []struct{ prefix, after, want string }{
		{"/a/", "", "/a/ /a/%_ /a/b /a/b/c /a/ü"},
		{"/a/", "/a/b", "/a/b/c /a/ü"},
		{"/a/b", "", "/a/b /a/b/c"},
		{"/a/%", "", "/a/%_"},
		{"/a/", "/a/a\x00", "/a/b /a/b/c /a/ü"},
		{"/a-", "", "/a-b/c"},
		{"", "/a/ü", "/ab"},
		{"/a/", "/b", ""},
		{"/c", "", ""},
	} {
		var keys []string
		for _, entry := range list(t, b, c.prefix, c.after, 0, 0).Entries {
			keys = append(keys, entry.Key)
		}
		same(t, fmt.Sprintf("keys below %q after %q", c.prefix, c.after), strings.Join(keys, " "), c.want)
	}
}

// Two keys are always written one after the other, so no list may show the
// second one newer than the first.
func testSnapshot(t *testing.T, e Engine) {
	b := open(t, e)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var first, second int64
		for i := range 50 {
			value := fmt.Sprintf("%03d", i)
			first = Put(t, b, "/s/1", value, first)
			second = Put(t, b, "/s/2", value, second)
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		page := list(t, b, "/s/", "", 0, 0)
		if len(page.Entries) < 2 {
			continue
		}
		one, two := page.Entries[0], page.Entries[1]
		if string(two.Value) > string(one.Value) || one.Revision > page.Revision || two.Revision > page.Revision {
			t.Fatalf("torn list at %d: %s", page.Revision, text(page))
		}
		again := list(t, b, "/s/", "", 0, page.Revision)
		same(t, "the same revision again", text(again), text(page))
	}
}

// collect watches until it has seen n changes.
func collect(t testing.TB, b backend.Backend, prefix string, after int64, n int) []backend.Change {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var changes []backend.Change
	last := after
	for c, err := range b.Watch(ctx, prefix, after) {
		if err != nil {
			t.Fatalf("watch %s after %d, having seen %d of %d changes: %v", prefix, after, len(changes), n, err)
		}
		if c.Key == "" {
			if c.Revision < last {
				t.Errorf("progress went back from %d to %d", last, c.Revision)
			}
			continue
		}
		if c.Revision <= last {
			t.Errorf("change of %s at %d came after %d", c.Key, c.Revision, last)
		}
		last = c.Revision
		if changes = append(changes, c); len(changes) == n {
			return changes
		}
	}
	t.Fatalf("watch %s after %d ended with %d of %d changes", prefix, after, len(changes), n)
	return nil
}

// describe is a change as "key=value@revision", or "key gone@revision".
func describe(c backend.Change) string {
	if c.Value == nil {
		return fmt.Sprintf("%s gone@%d", c.Key, c.Revision)
	}
	return fmt.Sprintf("%s=%s@%d", c.Key, c.Value, c.Revision)
}

func testWatch(t *testing.T, e Engine) {
	b := open(t, e)
	start := Put(t, b, "/w/0", "0", backend.Absent)
	// One watch is open while the changes are made, one comes later.
	live := make(chan []backend.Change, 1)
	go func() { live <- collect(t, b, "/w/", start, 4) }()
	r1 := Put(t, b, "/w/a", "1", backend.Absent)
	Put(t, b, "/x/a", "1", backend.Absent)
	r2 := Put(t, b, "/w/a", "2", r1)
	r3 := del(t, b, "/w/a", r2)
	r4 := Put(t, b, "/w/a", "4", backend.Absent)
	want := []string{
		fmt.Sprintf("/w/a=1@%d", r1),
		fmt.Sprintf("/w/a=2@%d", r2),
		fmt.Sprintf("/w/a gone@%d", r3),
		fmt.Sprintf("/w/a=4@%d", r4),
	}
	for name, changes := range map[string][]backend.Change{"live": <-live, "late": collect(t, b, "/w/", start, 4)} {
		for i, c := range changes {
			same(t, name+" change", describe(c), want[i])
		}
	}
}

func testWatchResumes(t *testing.T, e Engine) {
	b := open(t, e)
	var all []string
	var revisions []int64
	for i := range 12 {
		key := fmt.Sprintf("/r/%d", i%3)
		current, _, err := b.Get(t.Context(), key)
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			t.Fatal(err)
		}
		r := Put(t, b, key, fmt.Sprint(i), current.Revision)
		revisions = append(revisions, r)
		all = append(all, fmt.Sprintf("%d@%d", i, r))
	}
	for from, after := range append([]int64{0}, revisions[:len(revisions)-1]...) {
		var got []string
		for _, c := range collect(t, b, "/r/", after, len(all)-from) {
			got = append(got, fmt.Sprintf("%s@%d", c.Value, c.Revision))
		}
		same(t, fmt.Sprintf("changes after %d", after), strings.Join(got, " "), strings.Join(all[from:], " "))
	}
}

func testProgress(t *testing.T, e Engine) {
	b := open(t, e)
	Put(t, b, "/mine", "1", backend.Absent)
	other := Put(t, b, "/other", "1", backend.Absent)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := false
	for c, err := range b.Watch(ctx, "/mine", 0) {
		if err != nil {
			t.Fatalf("no progress to %d: %v", other, err)
		}
		seen = seen || c.Key == "/mine"
		if c.Key == "" && c.Revision >= other {
			break
		}
	}
	same(t, "change seen before the progress past it", seen, true)
}

func testWatchEnds(t *testing.T, e Engine) {
	b := open(t, e)
	Put(t, b, "/a", "1", backend.Absent)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for c, err := range b.Watch(ctx, "/", 0) {
		if last = err; c.Key == "/a" {
			cancel()
		}
	}
	if last != nil && !errors.Is(last, context.Canceled) {
		t.Errorf("watch ended with %v, want the end of its context", last)
	}
	for range b.Watch(t.Context(), "/", 0) {
		break // the caller may stop at any time
	}
	ended := make(chan error, 1)
	go func() {
		var last error
		for _, err := range b.Watch(context.Background(), "/", 0) {
			last = err
		}
		ended <- last
	}()
	time.Sleep(10 * time.Millisecond) // either way round is right
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	is(t, "watch of a backend that was closed", <-ended, backend.ErrClosed)
}

func testCompaction(t *testing.T, e Engine) {
	b := open(t, e)
	r1 := Put(t, b, "/c/a", "1", backend.Absent)
	kept := Put(t, b, "/c/b", "1", backend.Absent)
	r2 := Put(t, b, "/c/a", "2", r1)
	gone := Put(t, b, "/c/c", "1", backend.Absent)
	del(t, b, "/c/c", gone)
	r3 := Put(t, b, "/c/a", "3", r2)
	if err := b.Compact(t.Context(), r2); err != nil {
		t.Fatal(err)
	}
	_, err := b.List(t.Context(), "/c/", "", 0, r2-1)
	is(t, "list before the compaction", err, backend.ErrCompacted)
	same(t, "list at the compaction", text(list(t, b, "/c/", "", 0, r2)), fmt.Sprintf("/c/a=2@%d /c/b=1@%d", r2, kept))
	same(t, "list after it", text(list(t, b, "/c/", "", 0, 0)), fmt.Sprintf("/c/a=3@%d /c/b=1@%d", r3, kept))
	var last error
	for _, err := range b.Watch(t.Context(), "/c/", r1) {
		if last = err; err != nil {
			break
		}
	}
	is(t, "watch from before the compaction", last, backend.ErrCompacted)
	changes := collect(t, b, "/c/", r2, 3)
	same(t, "last change after the compaction", describe(changes[2]), fmt.Sprintf("/c/a=3@%d", r3))
	if err := b.Compact(t.Context(), r1); err != nil {
		t.Errorf("compacting less than before: %v", err)
	}
	if err := b.Compact(t.Context(), r3); err != nil {
		t.Errorf("compacting everything: %v", err)
	}
	same(t, "current values", text(list(t, b, "/c/", "", 0, 0)), fmt.Sprintf("/c/a=3@%d /c/b=1@%d", r3, kept))
	if got := revisionOf(t, b); got < r3 {
		t.Errorf("compacting took the revision back to %d from %d", got, r3)
	}
	Put(t, b, "/c/c", "again", backend.Absent)
	Put(t, b, "/c/a", "4", r3)
}

func testFuture(t *testing.T, e Engine) {
	b := open(t, e)
	r := Put(t, b, "/a", "1", backend.Absent)
	_, err := b.List(t.Context(), "/", "", 0, r+1)
	is(t, "list", err, backend.ErrFuture)
	is(t, "compact", b.Compact(t.Context(), r+1), backend.ErrFuture)
}

func testLifetime(t *testing.T, e Engine) {
	b := open(t, e)
	if _, err := b.Put(t.Context(), "/l/short", []byte("1"), backend.Absent, time.Second); err != nil {
		t.Fatal(err)
	}
	renewed, err := b.Put(t.Context(), "/l/renewed", []byte("1"), backend.Absent, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err = b.Put(t.Context(), "/l/renewed", []byte("2"), renewed, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	forever := Put(t, b, "/l/unlimited", "1", backend.Absent)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second+e.Lifetime)
	defer cancel()
	for c, err := range b.Watch(ctx, "/l/", forever) {
		if err != nil {
			t.Fatalf("waiting for the end of a lifetime: %v", err)
		}
		if c.Key == "" {
			continue
		}
		same(t, "change", describe(c), fmt.Sprintf("/l/short gone@%d", c.Revision))
		break
	}
	same(t, "what stays", text(list(t, b, "/l/", "", 0, 0)), fmt.Sprintf("/l/renewed=2@%d /l/unlimited=1@%d", renewed, forever))
}

func testClosed(t *testing.T, e Engine) {
	b := e.Open(t)
	Put(t, b, "/a", "1", backend.Absent)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, err := b.Put(ctx, "/b", nil, backend.Absent, 0)
	is(t, "put", err, backend.ErrClosed)
	_, _, err = b.Get(ctx, "/a")
	is(t, "get", err, backend.ErrClosed)
	_, err = b.List(ctx, "/", "", 0, 0)
	is(t, "list", err, backend.ErrClosed)
	_, err = b.Revision(ctx)
	is(t, "revision", err, backend.ErrClosed)
	is(t, "compact", b.Compact(ctx, 1), backend.ErrClosed)
	if err := b.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func testLarge(t *testing.T, e Engine) {
	b := open(t, e)
	large := strings.Repeat("0123456789abcdef", backend.MaxValue/16)[3*len("/large")+64:]
	binary := "\x00\xff\n'\"\\\x80"
	r1 := Put(t, b, "/large", large, backend.Absent)
	Put(t, b, "/binary", binary, backend.Absent)
	Put(t, b, "/"+strings.Repeat("n", 253)+"/"+strings.Repeat("m", 253), "1", backend.Absent)
	r2 := Put(t, b, "/large", "small", r1)
	changes := collect(t, b, "/large", 0, 2)
	same(t, "large value in a change", string(changes[0].Value) == large, true)
	same(t, "the change after it", describe(changes[1]), fmt.Sprintf("/large=small@%d", r2))
	entry, _, err := b.Get(t.Context(), "/binary")
	if err != nil || string(entry.Value) != binary {
		t.Errorf("binary value: got %q, %v, want %q", entry.Value, err, binary)
	}
	same(t, "long key", len(list(t, b, "/nn", "", 0, 0).Entries), 1)
}

func testReopen(t *testing.T, e Engine) {
	b := e.Open(t)
	r1 := Put(t, b, "/a", "1", backend.Absent)
	r2 := Put(t, b, "/a", "2", r1)
	r3 := Put(t, b, "/b", "3", backend.Absent)
	if _, err := b.Put(t.Context(), "/short", []byte("1"), backend.Absent, time.Second); err != nil {
		t.Fatal(err)
	}
	gone := Put(t, b, "/gone", "5", backend.Absent)
	last := del(t, b, "/gone", gone)
	if err := b.Compact(t.Context(), r2); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	b = e.Open(t)
	if got := revisionOf(t, b); got < last {
		t.Errorf("revision went back from %d to %d", last, got)
	}
	same(t, "a", text(list(t, b, "/a", "", 0, 0)), fmt.Sprintf("/a=2@%d", r2))
	same(t, "b", text(list(t, b, "/b", "", 0, 0)), fmt.Sprintf("/b=3@%d", r3))
	same(t, "an old revision", text(list(t, b, "/g", "", 0, gone)), fmt.Sprintf("/gone=5@%d", gone))
	_, err := b.List(t.Context(), "/", "", 0, r1)
	is(t, "a compacted revision", err, backend.ErrCompacted)
	changes := collect(t, b, "/gone", r2, 2)
	same(t, "history", describe(changes[1]), fmt.Sprintf("/gone gone@%d", last))
	collect(t, b, "/short", last, 1) // the end of its lifetime
	if err := b.Compact(t.Context(), revisionOf(t, b)); err != nil {
		t.Fatal(err)
	}
	newest := revisionOf(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	// The newest revision was that of a delete, and has been compacted.
	b = open(t, e)
	same(t, "revision", revisionOf(t, b), newest)
	if next := Put(t, b, "/c", "6", backend.Absent); next <= newest {
		t.Errorf("a write after reopening has revision %d, want more than %d", next, newest)
	}
	same(t, "all", text(list(t, b, "/", "", 2, 0)), fmt.Sprintf("/a=2@%d /b=3@%d", r2, r3))
}
