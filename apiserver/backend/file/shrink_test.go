package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// grown is a file of about 40 MiB that needs a tenth of that as soon as it is
// compacted up to the revision that is returned.
func grown(t *testing.T, path string) (*Backend, int64) {
	t.Helper()
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	value := make([]byte, 100_000)
	at := make([]int64, 40)
	for i := range 400 {
		n := i % len(at)
		if at[n], err = b.Put(t.Context(), fmt.Sprintf("/k/%02d", n), value, at[n], 0); err != nil {
			t.Fatal(err)
		}
	}
	return b, slices.Max(at)
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// everything is what a backend says of its keys and its history.
func everything(t *testing.T, b *Backend) string {
	t.Helper()
	var text strings.Builder
	page, err := b.List(t.Context(), "", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&text, page.Revision, page.More)
	for _, e := range page.Entries {
		fmt.Fprintln(&text, e.Key, len(e.Value), e.Revision, e.End.UnixMilli())
	}
	_, err = b.List(t.Context(), "", "", 0, b.compacted-1)
	fmt.Fprintln(&text, b.compacted, err)
	for c, err := range b.Watch(t.Context(), "", b.compacted) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&text, c.Key, c.Value == nil, len(c.Value), c.Revision)
		if c.Revision == page.Revision {
			break
		}
	}
	return text.String()
}

// What a compaction frees goes back to the file system, while the file is open,
// and everything is as it was: objects, ends of lifetimes, history, mode, links to it.
func TestShrink(t *testing.T) {
	folder := t.TempDir()
	path, link := filepath.Join(folder, "data", "skiff.db"), filepath.Join(folder, "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	b, compacted := grown(t, link)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	large := sizeOf(t, path)
	for i := range 50 {
		r, err := b.Put(t.Context(), fmt.Sprintf("/later/%d", i), []byte("value"), backend.Absent, lifetimeOf(i))
		if err == nil && i%2 == 1 {
			_, err = b.Delete(t.Context(), fmt.Sprintf("/later/%d", i), r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Compact(t.Context(), compacted); err != nil {
		t.Fatal(err)
	}
	if small := sizeOf(t, path); small > large/3 {
		t.Errorf("the file has %d bytes, and had %d before nine tenths of it were compacted", small, large)
	}
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link to the file is now %v, %v", info, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode of the file is now %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("in the folder are %v, %v, want the file alone", left, err)
	}
	if db, err := lock(path, os.OpenFile); err == nil {
		db.Close()
		t.Error("the smaller file is not locked")
	}
	if _, err := b.Put(t.Context(), "/more", []byte("1"), backend.Absent, 0); err != nil {
		t.Error(err)
	}
	before := everything(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err = Open(link); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if after := everything(t, b); after != before {
		t.Errorf("after opening anew there is\n%s\nand was\n%s", after, before)
	}
}

func lifetimeOf(i int) time.Duration { return time.Duration(i%3) * time.Hour }

// Writes go on while the file is made smaller: each of them is there afterwards,
// once, and watches that began before see each.
func TestShrinkWhileWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, compacted := grown(t, path)
	large := sizeOf(t, path)
	var writers sync.WaitGroup
	var stop atomic.Bool
	written := make([]int64, 8)
	for w := range written {
		writers.Go(func() {
			at := int64(0)
			for n := 1; !stop.Load(); n++ {
				var err error
				if at, err = b.Put(context.Background(), fmt.Sprintf("/w/%d", w), fmt.Append(nil, n), at, 0); err != nil {
					t.Error(err)
					return
				}
				written[w] = int64(n)
			}
		})
	}
	seen := make(map[string]int64)
	watched := make(chan error)
	go func() {
		watched <- func() error {
			for c, err := range b.Watch(t.Context(), "/w/", compacted) {
				var n int64
				if _, scan := fmt.Sscan(string(c.Value), &n); err != nil || scan != nil {
					return errors.Join(err, scan)
				}
				if n < 0 {
					return nil
				}
				if seen[c.Key]++; seen[c.Key] != n {
					return fmt.Errorf("%s: write %d is seen as number %d", c.Key, n, seen[c.Key])
				}
			}
			return nil
		}()
	}()
	if err := b.Compact(t.Context(), compacted); err != nil {
		t.Error(err)
	}
	stop.Store(true)
	writers.Wait()
	if small := sizeOf(t, path); small > large/2 {
		t.Errorf("the file has %d bytes, and had %d", small, large)
	}
	if _, err := b.Put(t.Context(), "/w/end", []byte("-1"), backend.Absent, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for w, want := range written {
		key := fmt.Sprintf("/w/%d", w)
		entry, _, err := b.Get(t.Context(), key)
		if got := string(entry.Value); err != nil || got != fmt.Sprint(want) || seen[key] != want {
			t.Errorf("%s holds %q, %v, and %d writes were seen; %d were acknowledged", key, got, err, seen[key], want)
		}
	}
}

// Who opens the file before a smaller one takes its place, and locks it after,
// has a lock on what nobody reads any more, and is told so.
func TestLockOfReplacedFile(t *testing.T) {
	folder := t.TempDir()
	path, other := filepath.Join(folder, "skiff.db"), filepath.Join(folder, "other.db")
	for _, p := range []string{path, other} {
		if err := create(p); err != nil {
			t.Fatal(err)
		}
	}
	replaced := func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		return f, errors.Join(err, os.Rename(other, path))
	}
	if db, err := lock(path, replaced); !errors.Is(err, backend.ErrInUse) {
		t.Errorf("lock of a file that was replaced: %v, want %v", err, backend.ErrInUse)
		if err == nil {
			db.Close()
		}
	}
	db, err := lock(path, os.OpenFile)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
}

// A copy that is interrupted, by the end of the context or of the backend, leaves all as
// it was, and nothing beside it.
func TestShrinkInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, compacted := grown(t, path)
	large := sizeOf(t, path)
	gone := func(when string) {
		t.Helper()
		if size := sizeOf(t, path); size != large {
			t.Errorf("%s: the file has %d bytes, and had %d", when, size, large)
		}
		if _, err := os.Lstat(smallerPath(path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the copy is still there (%v)", when, err)
		}
	}
	if err := errors.Join(b.byWriter(func() error { return b.forget(compacted) }), b.drop(b.byWriter)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	size, used := b.size()
	if err := b.rewrite(ctx, size, used); !errors.Is(err, context.Canceled) {
		t.Errorf("rewrite: %v, want %v", err, context.Canceled)
	}
	gone("context ended")
	if err := b.rewrite(t.Context(), 0, used); !errors.Is(err, errNotCaught) {
		t.Errorf("rewrite: %v, want %v", err, errNotCaught)
	}
	gone("never caught up")
	setClosed := func(closed bool) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.closed = closed
	}
	setClosed(true) // as Close does first
	if err := b.rewrite(t.Context(), size, used); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("rewrite: %v, want %v", err, backend.ErrClosed)
	}
	gone("closed")
	setClosed(false)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(smallerPath(path), []byte("part of a copy"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	gone("opened again")
}

// On a disk without room for a copy the file stays as it is, writes go on, and it
// is made smaller when there is room.
func TestShrinkWithoutRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a file system")
	}
	folder := t.TempDir()
	if err := syscall.Mount("none", folder, "tmpfs", 0, "size=110m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(folder, 0); err != nil {
			t.Error(err)
		}
	}()
	path, ballast := filepath.Join(folder, "skiff.db"), filepath.Join(folder, "ballast")
	b, compacted := grown(t, path)
	defer b.Close()
	large := sizeOf(t, path)
	var free syscall.Statfs_t
	if err := syscall.Statfs(folder, &free); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, int64(free.Bavail)*free.Bsize-shrinkRoom), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Compact(t.Context(), compacted); err != nil {
		t.Fatal(err)
	}
	if size := sizeOf(t, path); size != large {
		t.Errorf("without room the file went from %d to %d bytes", large, size)
	}
	at, err := b.Put(t.Context(), "/more", []byte("1"), backend.Absent, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	b.shrinkAfter = time.Time{} // the pause is over
	if err := b.Compact(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if size := sizeOf(t, path); size > large/3 {
		t.Errorf("with room the file has %d bytes, and had %d", size, large)
	}
}

// Writes get in between while a compaction removes what is forgotten.
func TestCompactionLetsWritesIn(t *testing.T) {
	b := openTest(t)
	at := int64(0)
	for range 5 * dropBatch {
		var err error
		if at, err = b.Put(t.Context(), "/k", []byte("value"), at, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.byWriter(func() error { return b.forget(at) }); err != nil {
		t.Fatal(err)
	}
	turns := 0
	err := b.drop(func(work func() error) error {
		turns++
		if _, err := b.Put(t.Context(), fmt.Sprint("/between/", turns), nil, backend.Absent, 0); err != nil {
			return err
		}
		return b.byWriter(work)
	})
	if err != nil || turns < 5 {
		t.Errorf("%d writes got in between, %v", turns, err)
	}
}

// What a compaction could not remove, because the disk was full or worse, is removed by the next one.
func TestCompactionGoesOn(t *testing.T) {
	b := openTest(t)
	at := int64(0)
	for range 100 {
		var err error
		if at, err = b.Put(t.Context(), "/k", []byte("value"), at, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.byWriter(func() error { return b.forget(at) }); err != nil {
		t.Fatal(err)
	}
	tries := 0
	err := b.drop(func(func() error) error {
		tries++
		return fmt.Errorf("compact storage: %w", syscall.ENOSPC)
	})
	if !errors.Is(err, syscall.ENOSPC) || tries < 3 {
		t.Errorf("on a full disk drop gave up after %d tries: %v", tries, err)
	}
	if err := b.Compact(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	tx, err := b.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if n := tx.Bucket(logBucket).Stats().KeyN; n != 1 {
		t.Errorf("%d records are left, want 1", n)
	}
}
