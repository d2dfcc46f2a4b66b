package snapshot_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/backend/snapshot"
)

func untold(int, int) {}

// simple engines open an empty backend, and one that was open before if it was at a
// folder.
var simple = map[string]func(t *testing.T, folder string) backend.Backend{
	"memory": func(t *testing.T, _ string) backend.Backend { return memory.New() },
	"file": func(t *testing.T, folder string) backend.Backend {
		b, err := file.Open(filepath.Join(folder, "skiff.db"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	},
}

func put(t testing.TB, b backend.Backend, key, value string, life time.Duration) int64 {
	t.Helper()
	entry, _, err := b.Get(t.Context(), key)
	if err != nil && !errors.Is(err, backend.ErrNotFound) {
		t.Fatal(err)
	}
	revision, err := b.Put(t.Context(), key, []byte(value), entry.Revision, life)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func del(t testing.TB, b backend.Backend, key string) int64 {
	t.Helper()
	entry, _, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	revision, err := b.Delete(t.Context(), key, entry.Revision)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// fill writes things that are old, changed, gone, limited and empty, and returns
// the revision it compacted to.
func fill(t testing.TB, b backend.Backend) (compacted int64) {
	t.Helper()
	for i := range 450 { // more than two pages
		put(t, b, fmt.Sprintf("/registry/pods/%03d", i), "first", 0)
	}
	put(t, b, "/empty", "", 0)
	del(t, b, "/registry/pods/100")
	if compacted = put(t, b, "/registry/pods/101", "second", 0); b.Compact(t.Context(), compacted) != nil {
		t.Fatal("cannot compact")
	}
	put(t, b, "/registry/pods/101", "third", 0)
	put(t, b, "/registry/events/a", "limited", time.Hour)
	put(t, b, "/registry/events/a", "limited again", 2*time.Hour)
	del(t, b, "/registry/pods/102")
	put(t, b, "/registry/pods/100", "back", 0)
	return compacted
}

// everything is what a backend holds, with ends of lifetimes by the minute.
func everything(t testing.TB, b backend.Backend) (entries []string, newest int64) {
	t.Helper()
	page, err := b.List(t.Context(), "", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Entries {
		entries = append(entries, fmt.Sprintf("%s=%s@%d until %s", e.Key, e.Value, e.Revision, e.End.UTC().Round(time.Minute)))
	}
	return entries, page.Revision
}

func changes(t testing.TB, b backend.Backend, after, until int64) (all []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for c, err := range b.Watch(ctx, "", after) {
		if err != nil {
			t.Fatalf("watch after %d: %v", after, err)
		}
		if c.Key != "" {
			all = append(all, fmt.Sprintf("%s=%q@%d, gone: %t", c.Key, c.Value, c.Revision, c.Value == nil))
		}
		if c.Revision >= until {
			return all
		}
	}
	return all
}

func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A copy is the same in all that clients can see, its history included.
func TestCopy(t *testing.T) {
	for name, open := range simple {
		for into, openTo := range simple {
			t.Run(name+" to "+into, func(t *testing.T) {
				from, to := open(t, t.TempDir()), openTo(t, t.TempDir())
				defer from.Close()
				defer to.Close()
				compacted := fill(t, from)
				want, newest := everything(t, from)
				told := 0
				copied, err := snapshot.Copy(t.Context(), from, to, func(done, total int) { told = total - done })
				if err != nil {
					t.Fatal(err)
				}
				if (copied != snapshot.Copied{Entries: len(want), Oldest: compacted, Newest: newest}) || told != 0 {
					t.Errorf("copied %+v with %d to go, want %d from %d to %d", copied, told, len(want), compacted, newest)
				}
				got, at := everything(t, to)
				equal(t, "entries", got, want)
				if at != newest {
					t.Errorf("newest revision is %d, want %d", at, newest)
				}
				equal(t, "history", changes(t, to, compacted, newest), changes(t, from, compacted, newest))
				if next := put(t, to, "/next", "1", 0); next != newest+1 {
					t.Errorf("the next revision is %d after %d", next, newest)
				}
				if _, err := snapshot.Copy(t.Context(), from, to, untold); !errors.Is(err, backend.ErrNotEmpty) {
					t.Errorf("copy to what is not empty: %v", err)
				}
				if _, err := snapshot.Copy(t.Context(), memory.New(), to, untold); !errors.Is(err, backend.ErrNotEmpty) {
					t.Errorf("copy of nothing to what is not empty: %v", err)
				}
			})
		}
	}
}

// A copy that is interrupted leaves what is empty, or what nobody takes for whole.
func TestInterruptedCopy(t *testing.T) {
	from, dir := memory.New(), t.TempDir()
	defer from.Close()
	fill(t, from)
	to := simple["file"](t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := snapshot.Copy(ctx, from, to, func(done, total int) {
		if done == total/2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("copy: %v", err)
	}
	if err := to.Close(); err != nil {
		t.Error(err)
	}
	if _, err := file.Open(filepath.Join(dir, "skiff.db")); !errors.Is(err, backend.ErrPartial) {
		t.Errorf("open: %v, want %v", err, backend.ErrPartial)
	}
}

// Of what was never compacted, a copy has all history.
func TestCopyFromTheFirst(t *testing.T) {
	from, to := memory.New(), memory.New()
	defer from.Close()
	defer to.Close()
	put(t, from, "/a", "1", 0)
	put(t, from, "/a", "2", 0)
	copied, err := snapshot.Copy(t.Context(), from, to, untold)
	if (err != nil || copied != snapshot.Copied{Entries: 1, Oldest: 0, Newest: 2}) {
		t.Errorf("copied %+v, %v", copied, err)
	}
	equal(t, "history", changes(t, to, 0, 2), changes(t, from, 0, 2))
}

func TestCopyNothing(t *testing.T) {
	to := memory.New()
	defer to.Close()
	if _, err := snapshot.Copy(t.Context(), memory.New(), to, untold); !errors.Is(err, snapshot.ErrNothing) {
		t.Errorf("got %v", err)
	}
	put(t, to, "/a", "1", 0) // nothing has happened to it
}

// gaps is a backend whose revisions have gaps, as databases may have whose
// numbers are taken by more than writes.
type gaps struct{ *memory.Backend }

func (g gaps) Revision(ctx context.Context) (int64, error) {
	revision, err := g.Backend.Revision(ctx)
	return 10 * revision, err
}

func (g gaps) List(ctx context.Context, prefix, after string, limit int, revision int64) (backend.Page, error) {
	page, err := g.Backend.List(ctx, prefix, after, limit, revision/10)
	page.Revision *= 10
	for i := range page.Entries {
		page.Entries[i].Revision *= 10
	}
	return page, err
}

func (g gaps) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for c, err := range g.Backend.Watch(ctx, prefix, after/10) {
			c.Revision *= 10
			if !yield(c, err) {
				return
			}
		}
	}
}

// A copy keeps the history after the last gap.
func TestCopyGaps(t *testing.T) {
	from, to := gaps{memory.New()}, memory.New()
	defer from.Close()
	defer to.Close()
	put(t, from.Backend, "/a", "1", 0)
	put(t, from.Backend, "/a", "2", 0)
	put(t, from.Backend, "/b", "3", 0)
	put(t, from.Backend, "/a", "4", 0)
	copied, err := snapshot.Copy(t.Context(), from, to, untold)
	if err != nil {
		t.Fatal(err)
	}
	if copied.Oldest != 39 || copied.Newest != 40 {
		t.Errorf("copied %+v, want 39 to 40", copied)
	}
	got, newest := everything(t, to)
	want, _ := everything(t, from)
	if equal(t, "entries", got, want); newest != 40 {
		t.Errorf("newest revision is %d, want 40", newest)
	}
}

// Of a backend that is written to, a backup is its state at one revision.
func TestBackupUnderLoad(t *testing.T) {
	for name, open := range simple {
		t.Run(name, func(t *testing.T) {
			from, to := open(t, t.TempDir()), memory.New()
			defer from.Close()
			defer to.Close()
			fill(t, from)
			var mu sync.Mutex
			log := map[int64]string{} // what was written at a revision
			ctx, cancel := context.WithCancel(t.Context())
			var writers sync.WaitGroup
			for w := range 4 {
				key := fmt.Sprintf("/load/%d", w)
				writers.Go(func() {
					revision := backend.Absent
					for n := 0; ctx.Err() == nil; n++ {
						value := fmt.Sprint(n)
						next, err := from.Put(context.Background(), key, []byte(value), revision, 0)
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						log[next] = key + "=" + value
						mu.Unlock()
						revision = next
					}
				})
			}
			var backup bytes.Buffer
			pages := 0
			// It goes on when something was written since the last page.
			err := snapshot.Write(t.Context(), &backup, from, func(int, int) {
				pages++
				mu.Lock()
				before := len(log)
				mu.Unlock()
				for now := before; now == before; {
					mu.Lock()
					now = len(log)
					mu.Unlock()
				}
			})
			cancel()
			writers.Wait()
			if err != nil || pages < 3 {
				t.Fatalf("backup of %d pages: %v", pages, err)
			}
			restored, err := snapshot.Restore(t.Context(), bytes.NewReader(backup.Bytes()), to, 0, untold)
			if err != nil {
				t.Fatal(err)
			}
			// What is restored is the last write to each key up to the revision.
			want := map[string]int64{}
			for revision, write := range log {
				key, _, _ := strings.Cut(write, "=")
				if revision <= restored.Revision {
					want[key] = max(want[key], revision)
				}
			}
			page, err := to.List(t.Context(), "/load/", "", 0, 0)
			if err != nil || len(page.Entries) != len(want) {
				t.Fatalf("%d keys of writers, %v, want %d", len(page.Entries), err, len(want))
			}
			for _, e := range page.Entries {
				if e.Revision != want[e.Key] || log[e.Revision] != e.Key+"="+string(e.Value) {
					t.Errorf("%s=%s@%d, want it at %d, where %s was written", e.Key, e.Value, e.Revision, want[e.Key], log[e.Revision])
				}
			}
		})
	}
}

// What is restored is what was backed up, and no revision is used again.
func TestRestore(t *testing.T) {
	from := memory.New()
	defer from.Close()
	fill(t, from)
	want, newest := everything(t, from)
	backup := write(t, from)
	for name, open := range simple {
		t.Run(name, func(t *testing.T) {
			to := open(t, t.TempDir())
			defer to.Close()
			restored, err := snapshot.Restore(t.Context(), bytes.NewReader(backup), to, 1000, untold)
			if err != nil {
				t.Fatal(err)
			}
			if restored.Entries != len(want) || restored.Revision != newest+1000 || time.Since(restored.Time) > time.Hour {
				t.Errorf("restored %+v, want %d at %d", restored, len(want), newest+1000)
			}
			got, at := everything(t, to)
			equal(t, "entries", got, want)
			if at != newest+1000 {
				t.Errorf("newest revision is %d, want %d", at, newest+1000)
			}
			for _, err := range to.Watch(t.Context(), "", newest+999) {
				if !errors.Is(err, backend.ErrCompacted) {
					t.Errorf("an old watch goes on: %v", err)
				}
				break
			}
			if next := put(t, to, "/next", "1", 0); next != newest+1001 {
				t.Errorf("the next revision is %d", next)
			}
			if _, err := snapshot.Restore(t.Context(), bytes.NewReader(backup), to, 1000, untold); !errors.Is(err, backend.ErrNotEmpty) {
				t.Errorf("restore into what is not empty: %v", err)
			}
		})
	}
}

func write(t testing.TB, b backend.Backend) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := snapshot.Write(t.Context(), &out, b, untold); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// readAll reads a backup to its end.
func readAll(r io.Reader) (entries []backend.Entry, err error) {
	reader, err := snapshot.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	for e, err := range reader.Entries() {
		if err != nil {
			return entries, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// small is a backend with what makes a short backup.
func small(t testing.TB) backend.Backend {
	b := memory.New()
	t.Cleanup(func() { b.Close() })
	put(t, b, "/a", "1", 0)
	put(t, b, "/b", "", time.Hour)
	put(t, b, "/c", strings.Repeat("3", 300), 0)
	return b
}

// However a backup is cut short or changed, it is refused, and nothing of it is
// restored.
func TestDamagedBackup(t *testing.T) {
	sound := write(t, small(t))
	refused := func(t *testing.T, what string, data []byte, want ...error) {
		t.Helper()
		to := memory.New()
		defer to.Close()
		_, err := snapshot.Restore(t.Context(), bytes.NewReader(data), to, 0, untold)
		if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) && (err == nil || len(want) > 0) {
			t.Errorf("%s: got %v, want one of %v", what, err, want)
		}
		if newest, _ := to.Revision(t.Context()); newest != 0 {
			t.Errorf("%s: something was restored", what)
		}
	}
	for n := range sound {
		refused(t, fmt.Sprintf("the first %d bytes", n), sound[:n], snapshot.ErrTruncated)
	}
	for i := range sound {
		for bit := range 8 {
			data := bytes.Clone(sound)
			data[i] ^= 1 << bit
			refused(t, fmt.Sprintf("byte %d as %d", i, data[i]), data) // any error
		}
	}
	refused(t, "a byte more", append(bytes.Clone(sound), 0), snapshot.ErrChanged, snapshot.ErrTruncated)
	refused(t, "twice", append(bytes.Clone(sound), sound...), snapshot.ErrChanged)
	refused(t, "another file", []byte("kind: List\n"), snapshot.ErrNoBackup)
}

// A backup that could not be completed says why, to who made it and to who reads
// it.
func TestFailedBackup(t *testing.T) {
	b := memory.New()
	defer b.Close()
	fill(t, b)
	var out bytes.Buffer
	err := snapshot.Write(t.Context(), &out, b, func(int, int) {
		if err := b.Compact(t.Context(), put(t, b, "/more", "1", 0)); err != nil {
			t.Error(err)
		}
	})
	if !errors.Is(err, backend.ErrCompacted) {
		t.Errorf("write: %v", err)
	}
	entries, err := readAll(&out)
	if !errors.Is(err, snapshot.ErrIncomplete) || !strings.Contains(err.Error(), backend.ErrCompacted.Error()) || len(entries) == 0 {
		t.Errorf("read: %d entries, %v", len(entries), err)
	}
}

// A disk that cannot be read is not taken for a backup that was changed.
func TestUnreadableBackup(t *testing.T) {
	sound := write(t, small(t))
	broken := errors.New("input/output error")
	for n := range sound {
		_, err := readAll(io.MultiReader(bytes.NewReader(sound[:n]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Fatalf("after %d bytes: got %v, want %v", n, err, broken)
		}
	}
	entries, err := readAll(iotest.OneByteReader(bytes.NewReader(sound)))
	if err != nil || len(entries) != 3 {
		t.Errorf("byte by byte: %d entries, %v", len(entries), err)
	}
}

// Whatever a file holds, reading it ends, and what is read without an error is in
// order.
func FuzzReader(f *testing.F) {
	sound := write(f, small(f))
	f.Add(sound)
	f.Add(sound[:len(sound)/2])
	f.Add([]byte("skiff backup 2\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := readAll(bytes.NewReader(data))
		if err == nil && !slices.IsSortedFunc(entries, func(a, b backend.Entry) int { return cmp.Compare(a.Key, b.Key) }) {
			t.Errorf("entries out of order: %v", entries)
		}
	})
}
