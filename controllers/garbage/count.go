package garbage

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// counter knows how many objects of each resource there are in each namespace. The collector watches them all
// anyway; ResourceQuotas need the numbers.
type counter struct {
	mu      sync.Mutex
	numbers map[counted]int
	changed func(resource schema.GroupResource, namespace string, added bool)
}

type counted struct {
	resource  schema.GroupResource
	namespace string
}

func (c *counter) add(resource schema.GroupResource, namespace string, n int) {
	c.mu.Lock()
	key := counted{resource, namespace}
	c.numbers[key] += n
	if c.numbers[key] == 0 {
		delete(c.numbers, key)
	}
	changed := c.changed
	c.mu.Unlock()
	if changed != nil {
		changed(resource, namespace, n > 0)
	}
}

// Count returns how many objects of a resource there are in a namespace. It is not ok before all of that resource
// were seen, nor for one that is not watched.
func (c *Collector) Count(resource schema.GroupResource, namespace string) (n int, ok bool) {
	if !c.monitors.synced(resource) {
		return 0, false
	}
	c.monitors.counter.mu.Lock()
	defer c.monitors.counter.mu.Unlock()
	return c.monitors.counter.numbers[counted{resource, namespace}], true
}

// OnCount calls changed whenever a count has changed. It must be set before Run, and must not block.
func (c *Collector) OnCount(changed func(resource schema.GroupResource, namespace string, added bool)) {
	c.monitors.counter.mu.Lock()
	defer c.monitors.counter.mu.Unlock()
	c.monitors.counter.changed = changed
}
