// Package reconcile runs controllers. A controller is a function from the name of an object to the work that
// brings the cluster closer to what the object asks for. This package calls it when something it watches
// changes, retries it with back-off, and never runs it twice at once for the same key.
//
// What happens to a quiet key is worked on at once; a busy one rests between two syncs (rest.go).
//
// A controller never polls: between two changes, or before the time it asked to be called again, it costs
// nothing. See source.go for what wakes one and expectations.go for how one survives a cache that lags.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/skiff-k8s/skiff/guard"
)

// Key names the object to reconcile. Namespace is empty for cluster-scoped objects.
type Key = cache.ObjectName

// Bounds of the back-off after an error: it doubles from the first to the second.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 2 * time.Minute
)

// Controller describes one control loop.
type Controller struct {
	// Name appears in logs.
	Name string
	// Workers is how many keys are worked on at once; 0 means 1.
	Workers int
	// Watch lists what wakes the loop and which keys it then gets.
	Watch []Source
	// Sync works on one key. It is called again after an error, with back-off, and after the returned time if
	// that is not zero. It must treat every object it reads from a cache as immutable.
	Sync func(ctx context.Context, key Key) (again time.Duration, err error)
}

// Run works until ctx is done, and returns when the last worker has finished. The informers it watches may be
// started before or after.
func (c Controller) Run(ctx context.Context) error {
	queue := restingQueue{workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[Key](firstRetry, lastRetry),
		workqueue.TypedRateLimitingQueueConfig[Key]{Name: c.Name, Clock: restfulClock{}}), newRests()}
	defer queue.ShutDown()

	var synced []cache.DoneChecker
	for _, source := range c.Watch {
		stop, hasSynced, err := source.start(func(key Key) { queue.wake(key) })
		if err != nil {
			return fmt.Errorf("controller %s: %w", c.Name, err)
		}
		defer stop()
		if hasSynced != nil {
			synced = append(synced, hasSynced)
		}
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return nil // ctx ended first
	}

	var workers guard.Group
	for range max(c.Workers, 1) {
		workers.Go("controller "+c.Name, func() {
			for c.next(ctx, queue) {
			}
		})
	}
	<-ctx.Done()
	queue.ShutDown()
	workers.Wait()
	return nil
}

func (c Controller) next(ctx context.Context, queue restingQueue) bool {
	key, shutdown := queue.Get()
	if shutdown || ctx.Err() != nil {
		return false
	}
	defer queue.Done(key)
	if queue.putOff(key) {
		return true
	}
	start := time.Now()
	defer func() { queue.rests.begin(key, time.Since(start), time.Now()) }()

	var again time.Duration
	err := guard.Call("controller "+c.Name, func() (err error) {
		again, err = c.Sync(ctx, key)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			c.log(ctx, key, err, queue.NumRequeues(key))
		}
		queue.AddRateLimited(key)
		return true
	}
	queue.Forget(key)
	if again > 0 {
		queue.AddAfter(key, again)
	}
	return true
}

// quietRetries is how many failures in a row are everyday: a cache that lags, an owner just gone. By then the
// back-off has grown to about a second.
const quietRetries = 8

// log reports a failed sync, as a warning if it keeps failing.
func (c Controller) log(ctx context.Context, key Key, err error, before int) {
	level := slog.LevelDebug
	if before >= quietRetries {
		level = slog.LevelWarn
	}
	slog.Log(ctx, level, "sync failed, will retry", "controller", c.Name, "key", key.String(), "failures", before+1, "error", err)
}

// IgnoreNotFound is err unless it says that an object is gone: there is nothing left to do then.
func IgnoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
