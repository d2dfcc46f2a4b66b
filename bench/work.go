package main

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// outcome is how work went. took is in ascending order.
type outcome struct {
	elapsed time.Duration
	took    []time.Duration
}

// rate is how much was done a second.
func (o outcome) rate() float64 { return float64(len(o.took)) / o.elapsed.Seconds() }

// work does jobs 0, 1, 2 … with so many workers at once until n are done or
// limit has passed: what was begun is finished, so that the jobs done are the
// first len(took). It ends at the first error.
func work(ctx context.Context, workers, n int, limit time.Duration, do func(ctx context.Context, worker, job int) error) (outcome, error) {
	var next atomic.Int64
	took := make([][]time.Duration, workers)
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		g.Go(func() error {
			for time.Since(began) < limit {
				job := int(next.Add(1)) - 1
				if job >= n {
					return nil
				}
				start := time.Now()
				if err := do(ctx, w, job); err != nil {
					return err
				}
				took[w] = append(took[w], time.Since(start))
			}
			return nil
		})
	}
	err := g.Wait()
	o := outcome{elapsed: time.Since(began), took: slices.Concat(took...)}
	slices.Sort(o.took)
	return o, err
}
