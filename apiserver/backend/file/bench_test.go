package file_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
)

func BenchmarkPut(b *testing.B)    { backendtest.BenchmarkPut(b, openNew) }
func BenchmarkUpdate(b *testing.B) { backendtest.BenchmarkUpdate(b, openNew) }

// BenchmarkShrink is how long 16 writers wait for their writes, and the longest that one
// did, while nothing else is done and while the file is made smaller: live bytes of
// values of 4 KiB stay of four times as many.
func BenchmarkShrink(b *testing.B) {
	for _, live := range []int{32 << 20, 128 << 20} {
		b.Run(fmt.Sprintf("live=%dMiB", live>>20), func(b *testing.B) {
			for range b.N {
				db := openNew(b)
				at := sparse(b, db, live)
				before := waits(b, db, "/before/", func() { time.Sleep(2 * time.Second) })
				during := waits(b, db, "/during/", func() {
					start := time.Now()
					if err := db.Compact(b.Context(), at); err != nil {
						b.Error(err)
					}
					b.ReportMetric(time.Since(start).Seconds(), "s")
				})
				for name, w := range map[string][]time.Duration{"before": before, "during": during} {
					b.ReportMetric(float64(w[len(w)*99/100].Microseconds())/1000, "ms-p99-"+name)
					b.ReportMetric(float64(w[len(w)-1].Microseconds())/1000, "ms-max-"+name)
				}
				if err := db.Close(); err != nil {
					b.Error(err)
				}
			}
		})
	}
}

// sparse writes values of which a quarter is left when history is forgotten up to the
// revision that it returns.
func sparse(b *testing.B, db backend.Backend, live int) int64 {
	const size, writers = 4000, 64
	keys := live / size / writers
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			at := make([]int64, keys)
			for n := range 4 * keys {
				var err error
				if at[n%keys], err = db.Put(b.Context(), fmt.Sprintf("/k/%d/%d", w, n%keys), make([]byte, size), at[n%keys], 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	newest, err := db.Revision(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return newest
}

// waits has 16 writers write while do is done, and says how long each write took.
func waits(b *testing.B, db backend.Backend, prefix string, do func()) (all []time.Duration) {
	ctx, end := context.WithCancel(b.Context())
	var mu sync.Mutex
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() {
			at := int64(0)
			for ctx.Err() == nil {
				start := time.Now()
				var err error
				if at, err = db.Put(ctx, fmt.Sprint(prefix, w), make([]byte, 1000), at, 0); err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				all = append(all, time.Since(start))
				mu.Unlock()
			}
		})
	}
	do()
	end()
	writers.Wait()
	slices.Sort(all)
	return all
}

func openNew(t testing.TB) backend.Backend {
	b, err := file.Open(filepath.Join(t.TempDir(), "skiff.db"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
