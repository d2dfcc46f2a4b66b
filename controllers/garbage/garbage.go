// Package garbage deletes what nobody owns any more: objects whose owners are all gone, in the background; the
// dependents of an owner that waits for them, in the foreground; or it cuts them loose from an owner that orphans
// them.
//
// monitors.go watches the metadata of every object that can be deleted, graph.go remembers who owns whom and says
// which objects a change concerns, and collect.go works on one such object at a time. The graph only says where
// to look: nothing is deleted before its owners were found absent by asking the server.
package garbage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/guard"
)

// Config says what a Collector works with.
type Config struct {
	Discovery discovery.DiscoveryInterface
	Metadata  metadata.Interface
	// Informers and Shared name the resources that other controllers hold in full anyway: their informers are
	// used, rather than a second watch on the same objects.
	Informers informers.SharedInformerFactory
	Shared    []schema.GroupVersionResource
	Events    record.EventRecorder
	Workers   int
	// RereadEvery is how often discovery is read although nothing was heard of CRDs and APIServices.
	RereadEvery time.Duration
}

// Collector is the garbage collector.
type Collector struct {
	config   Config
	graph    *graph
	queue    reconcile.Feed // of UIDs, as names
	monitors *monitors
}

// New returns a collector. It registers the shared informers it needs.
func New(config Config) (*Collector, error) {
	c := &Collector{config: config}
	c.graph = newGraph(c.enqueue, c.reportNamespace)
	c.monitors = newMonitors(config, c.graph)
	return c, c.monitors.registerShared()
}

// Run works until ctx is done. Work begins when the monitors of the first discovery have seen what there is. Owners
// that wait for their dependents, or orphan them, wait for monitors that were added later too, because a dependent
// that was not seen yet could not hold its owner back.
func (c *Collector) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	monitors := guard.Group{Failed: stop} // without monitors nothing would be collected, and nobody would know
	monitors.Go("garbage collector's monitors", func() { c.monitors.run(ctx) })

	loop := reconcile.Controller{
		Name:    "GarbageCollector",
		Workers: c.config.Workers,
		Watch:   []reconcile.Source{c.queue.Source()},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			if err := c.monitors.waitFirst(ctx); err != nil {
				return 0, err
			}
			again, err := c.collect(ctx, uid(key.Name))
			if errors.Is(err, errNotOurs) {
				return 0, nil
			}
			if err != nil {
				return 0, fmt.Errorf("collect: %w", err)
			}
			return again, nil
		},
	}
	err := loop.Run(ctx)
	stop(nil)
	monitors.Wait()
	if failed := (*guard.Panic)(nil); errors.As(context.Cause(ctx), &failed) {
		return failed
	}
	return err
}

func (c *Collector) enqueue(id uid) { c.queue.Add(reconcile.Key{Name: string(id)}) }
