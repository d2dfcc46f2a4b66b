package lifetime_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/lifetime"
)

// Keys are deleted when they are due, in whatever order they were added. A
// deletion that fails is tried again, unless the key has been written since.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []string
		failures := map[string][]error{
			"full":    {errors.New("disk full"), errors.New("disk full")},
			"renewed": {fmt.Errorf("delete: %w", backend.ErrConflict)},
		}
		q := lifetime.Start(func(_ context.Context, key string, revision int64) (int64, error) {
			got = append(got, fmt.Sprintf("%s@%d after %v", key, revision, time.Since(start)))
			if errs := failures[key]; len(errs) > 0 {
				failures[key] = errs[1:]
				return 0, errs[0]
			}
			return 100, nil
		})
		for i, e := range []struct {
			key   string
			after time.Duration
		}{{"late", time.Hour}, {"soon", 2 * time.Second}, {"first", time.Second}, {"full", 3 * time.Second}, {"renewed", 4 * time.Second}, {"past", -time.Second}} {
			q.Add(e.key, int64(i), start.Add(e.after))
		}
		time.Sleep(2 * time.Hour)
		q.Stop()
		want := []string{"past@5 after 0s", "first@2 after 1s", "soon@1 after 2s", "full@3 after 3s", "renewed@4 after 4s",
			"full@3 after 13s", "full@3 after 23s", "late@0 after 1h0m0s"}
		if got, want := strings.Join(got, "\n"), strings.Join(want, "\n"); got != want {
			t.Errorf("deleted\n%s\nwant\n%s", got, want)
		}
	})
}
