package nodes

import (
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// disruption says how bad it is in a zone.
type disruption int

const (
	single  disruption = iota // some nodes are unwell
	partial                   // most nodes of the zone are
	total                     // all nodes of the cluster are
)

// smallCluster is the number of nodes up to which nothing is evicted while most nodes of a zone are unwell.
const smallCluster = 50

// census counts the nodes of each zone, and those of them that are well. It is kept as nodes come, turn and go, so
// that judging one node needs no look at all the others, and so that others hear of it only when a whole zone is
// better or worse off than before. Safe for concurrent use.
type census struct {
	mu    sync.Mutex
	nodes map[string]entry
	zones map[string]*zone
	ready int
}

// entry is what is counted of a node.
type entry struct {
	zone  string
	ready bool
	// ill nodes have said, or are known, not to be ready: they should have a taint that evicts.
	ill bool
}

type zone struct {
	size, unwell int
	ill          map[string]bool
}

func newCensus() *census {
	return &census{nodes: map[string]entry{}, zones: map[string]*zone{}}
}

// put counts a node as it is now. It names the ill nodes that are to be judged anew because of it.
func (c *census) put(node *corev1.Node) (concerned []string) {
	ready := condition(node, corev1.NodeReady)
	e := entry{zone: zoneOf(node), ready: readiness(node) == corev1.ConditionTrue}
	e.ill = ready != nil && !e.ready
	return c.change(node.Name, &e)
}

// remove counts a node no more. It names the nodes that put does.
func (c *census) remove(name string) (concerned []string) {
	return c.change(name, nil)
}

// disruption tells how bad it is in a zone, and how many nodes the cluster has.
func (c *census) disruption(zone string) (d disruption, nodes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.disruptionOf(zone), len(c.nodes)
}

func (c *census) change(name string, now *entry) (concerned []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.nodes[name]
	if now != nil && *now == before {
		return nil
	}
	zones := []string{before.zone}
	if now != nil && now.zone != before.zone {
		zones = append(zones, now.zone)
	}
	wasTotal, wasSmall := c.ready == 0, len(c.nodes) <= smallCluster
	were := c.disruptionsOf(zones)
	c.leave(name)
	if now != nil {
		c.join(name, *now)
	}

	isTotal, isSmall := c.ready == 0, len(c.nodes) <= smallCluster
	switch are := c.disruptionsOf(zones); {
	case wasTotal != isTotal || wasSmall != isSmall:
		zones = slices.Collect(maps.Keys(c.zones))
	case !isSmall || slices.Equal(were, are):
		return nil // in a large cluster, how bad it is in a zone only changes the pace
	}
	for _, name := range zones {
		if z := c.zones[name]; z != nil {
			concerned = slices.AppendSeq(concerned, maps.Keys(z.ill))
		}
	}
	return concerned
}

func (c *census) join(name string, e entry) {
	z := c.zones[e.zone]
	if z == nil {
		z = &zone{ill: map[string]bool{}}
		c.zones[e.zone] = z
	}
	c.nodes[name] = e
	z.size++
	if e.ready {
		c.ready++
	} else {
		z.unwell++
	}
	if e.ill {
		z.ill[name] = true
	}
}

func (c *census) leave(name string) {
	e, ok := c.nodes[name]
	if !ok {
		return
	}
	delete(c.nodes, name)
	z := c.zones[e.zone]
	z.size--
	if e.ready {
		c.ready--
	} else {
		z.unwell--
	}
	delete(z.ill, name)
	if z.size == 0 {
		delete(c.zones, e.zone)
	}
}

func (c *census) disruptionsOf(zones []string) []disruption {
	all := make([]disruption, 0, len(zones))
	for _, zone := range zones {
		all = append(all, c.disruptionOf(zone))
	}
	return all
}

func (c *census) disruptionOf(zone string) disruption {
	z := c.zones[zone]
	switch {
	case c.ready == 0:
		return total
	case z != nil && z.unwell > 2 && z.unwell < z.size && float64(z.unwell)/float64(z.size) >= 0.55:
		return partial
	}
	return single
}
