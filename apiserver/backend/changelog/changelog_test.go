package changelog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/changelog"
)

func change(revision int64) backend.Change {
	return backend.Change{Key: fmt.Sprintf("/%d", revision%2), Value: make([]byte, 1000), Revision: revision}
}

// Changes the log has dropped are asked for, and joined without a gap to those
// it has.
func TestGone(t *testing.T) {
	l := changelog.New(10, 10_000) // keeps fewer than ten
	for r := range int64(20) {
		l.Append(change(11 + r))
	}
	l.Forget(13)
	asked := 0
	older := func(after int64) ([]backend.Change, error) {
		asked++
		if after < 12 {
			return nil, backend.ErrCompacted
		}
		return []backend.Change{change(after + 1), change(after + 2)}, nil
	}
	var got []int64
	for c, err := range l.Watch(t.Context(), "/", 12, older) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, c.Revision); c.Revision == 30 {
			break
		}
	}
	if want := []int64{13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30}; !slices.Equal(got, want) || asked == 0 {
		t.Errorf("got %v, asking %d times, want %v and some asking", got, asked, want)
	}
	for _, err := range l.Watch(t.Context(), "/", 11, older) {
		if !errors.Is(err, backend.ErrCompacted) {
			t.Errorf("got %v, want the error of the engine", err)
		}
	}
}

// However large changes are, the log holds no more bytes than it may: also not
// the newest, which the engine has.
func TestLimit(t *testing.T) {
	const limit = 10_000
	for _, size := range []int{1000, limit - 100, limit + 1} {
		l := changelog.New(0, limit)
		for r := range int64(300) {
			l.Append(backend.Change{Key: "/a", Value: make([]byte, size), Revision: r + 1})
		}
		held := 0
		for from := int64(299); from >= 0; from-- {
			known := true
			for range l.Watch(t.Context(), "/", from, func(int64) ([]backend.Change, error) { known = false; return nil, backend.ErrCompacted }) {
				break
			}
			if !known {
				break
			}
			held += size
		}
		if held > limit || size < limit && held < limit/2 {
			t.Errorf("with changes of %d bytes the log holds %d bytes, want up to %d", size, held, limit)
		}
	}
}

// Watchers sleep until there is something new, then have it.
func TestWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := changelog.New(0, 0)
		ctx, cancel := context.WithCancel(t.Context())
		seen := make([][]int64, 3)
		for i, prefix := range []string{"/", "/0", "/1"} {
			go func() {
				for c := range l.Watch(ctx, prefix, 0, nil) {
					seen[i] = append(seen[i], c.Revision)
				}
			}()
		}
		for r := range int64(4) {
			synctest.Wait()
			l.Append(change(r + 1))
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		for i, got := range seen {
			// Those with a narrower prefix learn of the others' revisions too.
			if want := []int64{1, 2, 3, 4}; len(got) < 4 || !slices.Equal(got[:4], want) {
				t.Errorf("watcher %d saw %v, want %v", i, got, want)
			}
		}
	})
}
