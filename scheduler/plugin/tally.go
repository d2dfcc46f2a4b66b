package plugin

import (
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// mostKept bounds what is kept of tallies, and of selections, in nodes looked at.
const mostKept = 1 << 20

// mostSums is in how many ways a tally is summed up at once. Pods that are counted together are mostly of one template.
const mostSums = 64

// tallied is which pods are counted.
type tallied struct {
	namespace, selector string
	leaving             bool // those that are being deleted too
}

// tally is how many pods there are on each node, and in domains of nodes.
type tally struct {
	tallied
	selects labels.Selector

	pods []int32 // by place of the node
	sums map[summed]*census
	seen int64 // how many changes of the cluster are counted
	used int64
}

// summed is how a tally is summed up: by the values of a label, over the nodes that have others too and that a pod's
// node selector selects.
type summed struct{ key, within, selected string }

// census is how many pods there are in each domain of the nodes that count.
type census struct {
	counted
	counts func(n *Node) bool
	nodes  []int32 // of each domain, how many count
	filled int     // domains with nodes that count
}

// smallest is how many pods the domain with the fewest has; 0 if there is none.
func (c *census) smallest() int64 {
	least := int64(-1)
	for domain, nodes := range c.nodes {
		if nodes > 0 && (least < 0 || c.amounts[domain] < least) {
			least = c.amounts[domain]
		}
	}
	return max(least, 0)
}

// tally counts the pods of a namespace that a selector selects, now. What it was at earlier times is kept.
func (c *Cluster) tally(which tallied, pods labels.Selector) *tally {
	c.used++
	which.selector = pods.String()
	t := c.tallies[which]
	if t == nil {
		t = &tally{tallied: which, selects: pods}
		c.tallies[which] = t
	}
	t.used = c.used
	if places, ok := c.changes.since(t.seen); ok && t.pods != nil {
		t.update(c, places)
	} else {
		t.countAll(c)
	}
	t.seen = c.changes.total
	dropOldest(c.tallies, len(c.Nodes), func(t *tally) int64 { return t.used })
	return t
}

// dropOldest drops what was used least recently, if too much is kept.
func dropOldest[K comparable, V any](kept map[K]V, nodes int, used func(V) int64) {
	for len(kept) > 1 && len(kept)*nodes > mostKept {
		var oldest K
		least := int64(-1)
		for key, value := range kept {
			if u := used(value); least < 0 || u < least {
				oldest, least = key, u
			}
		}
		delete(kept, oldest)
	}
}

func (t *tally) countAll(c *Cluster) {
	t.pods, t.sums = make([]int32, len(c.Nodes)), make(map[summed]*census)
	for i, n := range c.Nodes {
		t.pods[i] = t.countOn(n)
	}
}

func (t *tally) countOn(n *Node) (count int32) {
	for _, pod := range n.Pods {
		if pod.Namespace == t.namespace && (t.leaving || pod.DeletionTimestamp == nil) && t.selects.Matches(labels.Set(pod.Labels)) {
			count++
		}
	}
	return count
}

// update counts anew on the nodes at some places.
func (t *tally) update(c *Cluster, places []int) {
	for _, i := range places {
		n := c.Nodes[i]
		count := t.countOn(n)
		if count == t.pods[i] {
			continue
		}
		for _, sum := range t.sums {
			if sum.counts(n) {
				sum.add(i, int64(count-t.pods[i]))
			}
		}
		t.pods[i] = count
	}
}

// domains is how many pods the domains of a label have, of the nodes that have all of keys and that selected has; nil:
// all. It must not be changed, and is good until the cluster changes.
func (t *tally) domains(c *Cluster, key string, keys []string, selected *selection) *census {
	by := summed{key: key, within: strings.Join(keys, ",")}
	counts := func(n *Node) bool { return hasAll(n, keys) }
	if selected != nil {
		by.selected = selected.key
		counts = func(n *Node) bool { return hasAll(n, keys) && selected.has(n) }
	}
	sum, ok := t.sums[by]
	if !ok {
		if len(t.sums) >= mostSums {
			clear(t.sums)
		}
		sum = t.sum(c, key, counts)
		t.sums[by] = sum
	}
	return sum
}

// sum is how many pods the domains of a label have, of some nodes.
func (t *tally) sum(c *Cluster, key string, counts func(n *Node) bool) *census {
	sum := &census{counted: c.newCounted(key), counts: counts}
	sum.nodes = make([]int32, sum.topology.domains)
	for i, n := range c.Nodes {
		domain := sum.of[i]
		if domain < 0 || !counts(n) {
			continue
		}
		if sum.nodes[domain]++; sum.nodes[domain] == 1 {
			sum.filled++
		}
		sum.add(i, int64(t.pods[i]))
	}
	return sum
}
