package etcd_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// BenchmarkPut creates keys with values of 1 KiB through the engine, and with a client that knows nothing but to put.
func BenchmarkPut(b *testing.B) {
	value := make([]byte, 1024)
	for _, writers := range []int{1, 16, 128} {
		for _, how := range []string{"engine", "raw"} {
			b.Run(fmt.Sprintf("%s/writers=%d", how, writers), func(b *testing.B) {
				m := cluster(b, 1)[0]
				engine, client := open(b, m), raw(b, m)
				defer engine.Close()
				defer client.Close()
				put := func(key string) error {
					_, err := engine.Put(b.Context(), key, value, backend.Absent, 0)
					return err
				}
				if how == "raw" {
					put = func(key string) error {
						_, err := client.Put(b.Context(), key, string(value))
						return err
					}
				}
				var next atomic.Int64
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for range writers {
					wg.Go(func() {
						for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
							if err := put(fmt.Sprintf("/registry/pods/default/%d", n)); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			})
		}
	}
}
