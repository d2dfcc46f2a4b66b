package backendtest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// BenchmarkPut creates keys with values of 1 KiB, by 1, 16 and 128 writers. open
// opens an empty backend.
func BenchmarkPut(b *testing.B, open func(testing.TB) backend.Backend) {
	value := make([]byte, 1024)
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			benchmark(b, open, writers, func(db backend.Backend, _ int, n int64) error {
				_, err := db.Put(b.Context(), fmt.Sprintf("/registry/pods/default/%d", n), value, backend.Absent, 0)
				return err
			})
		})
	}
}

// BenchmarkUpdate writes one key per writer again and again.
func BenchmarkUpdate(b *testing.B, open func(testing.TB) backend.Backend) {
	for _, size := range []int{1 << 10, 100 << 10} {
		for _, writers := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("size=%d/writers=%d", size, writers), func(b *testing.B) {
				value := make([]byte, size)
				at := make([]int64, writers)
				benchmark(b, open, writers, func(db backend.Backend, writer int, _ int64) (err error) {
					at[writer], err = db.Put(b.Context(), fmt.Sprintf("/registry/pods/default/%d", writer), value, at[writer], 0)
					return err
				})
			})
		}
	}
}

// benchmark lets writers write b.N times together.
func benchmark(b *testing.B, open func(testing.TB) backend.Backend, writers int,
	write func(db backend.Backend, writer int, n int64) error) {
	db := open(b)
	defer db.Close()
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := write(db, w, n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}
