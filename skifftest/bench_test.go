package skifftest_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/skifftest"
)

// BenchmarkStart is a start after the first: what is measured ends when pods can be made. Ending is not measured.
func BenchmarkStart(b *testing.B) {
	skifftest.Start(b)
	for b.Loop() {
		run(b, func(t testing.TB) *skifftest.Cluster { return skifftest.Start(t) })
	}
}

// alone are the options of what envtest has: an API server with nothing besides.
func alone() []skifftest.Option {
	return []skifftest.Option{skifftest.WithoutControllers(), skifftest.WithoutScheduler(), skifftest.Nodes(0)}
}

// BenchmarkStartAlone is BenchmarkStart of an API server with nothing besides.
func BenchmarkStartAlone(b *testing.B) {
	skifftest.Start(b, alone()...)
	for b.Loop() {
		run(b, func(t testing.TB) *skifftest.Cluster { return skifftest.Start(t, alone()...) })
	}
}

// BenchmarkFork forks a cluster that has run a Deployment.
func BenchmarkFork(b *testing.B) {
	c := skifftest.Start(b)
	makeMap(b, c.Client(), "shared")
	for b.Loop() {
		run(b, c.Fork)
	}
}

// run starts a cluster, and stops it while no time is measured.
func run(b *testing.B, start func(testing.TB) *skifftest.Cluster) {
	(&strict{TB: b}).run(func(t testing.TB) {
		start(t)
		b.StopTimer()
	})
	b.StartTimer()
}

func BenchmarkSnapshot(b *testing.B) {
	c := skifftest.Start(b)
	for b.Loop() {
		c.Snapshot()
	}
}

func BenchmarkRestore(b *testing.B) {
	c := skifftest.Start(b)
	s := c.Snapshot()
	for b.Loop() {
		c.Restore(s)
	}
}

// BenchmarkParallel has a hundred clusters at once, each with all controllers, and tells what one holds of memory.
func BenchmarkParallel(b *testing.B) { together(b, 100) }

// BenchmarkParallelTen has ten, each an API server with nothing besides.
func BenchmarkParallelTen(b *testing.B) { together(b, 10, alone()...) }

// together has as many clusters as count at once.
func together(b *testing.B, count int, options ...skifftest.Option) {
	skifftest.Start(b, options...)
	for b.Loop() {
		before := held()
		begun := time.Now()
		var all sync.WaitGroup
		release := make(chan struct{})
		var up sync.WaitGroup
		up.Add(count)
		for range count {
			all.Go(func() {
				(&strict{TB: b}).run(func(t testing.TB) {
					c := skifftest.Start(t, options...)
					makeMap(t, c.Client(), "own")
					up.Done()
					<-release
				})
			})
		}
		up.Wait()
		b.ReportMetric(time.Since(begun).Seconds(), "s/all-starts")
		b.ReportMetric(float64(held()-before)/float64(count)/1e6, "MB/cluster")
		b.ReportMetric(float64(runtime.NumGoroutine())/float64(count), "goroutines/cluster")
		close(release)
		all.Wait()
	}
}

// held is the memory that is in use: heap and stacks.
func held() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// TestFirstStart says how long the first start of a process takes, if it is run alone.
func TestFirstStart(t *testing.T) {
	begun := time.Now()
	skifftest.Start(t)
	t.Logf("started after %v", time.Since(begun))
}
