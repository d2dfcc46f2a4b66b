package plugin

import (
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// mostTallied bounds what Tallies keeps, in nodes counted.
const mostTallied = 1 << 20

// Tallies counts pods on nodes and keeps the counts, since from one cycle to the next few nodes change. What a node
// held is known by its *Node, which never changes. It is not safe for concurrent use: one cycle runs at a time.
type Tallies struct {
	tallies map[tallied]*tally
	used    int64 // rises with each use, so that what was not used for long goes
}

// tallied is which pods are counted.
type tallied struct {
	namespace, selector string
	leaving             bool // those that are being deleted too
}

// NewTallies returns tallies that have counted nothing.
func NewTallies() *Tallies { return &Tallies{tallies: make(map[tallied]*tally)} }

// of is the tally of the pods of a namespace that a selector selects, on nodes.
func (t *Tallies) of(which tallied, pods labels.Selector, nodes []*Node) *tally {
	if t == nil {
		return newTally(which, pods, nodes)
	}
	t.used++
	which.selector = pods.String()
	found := t.tallies[which]
	if found == nil || len(found.nodes) != len(nodes) {
		found = newTally(which, pods, nodes)
		t.tallies[which] = found
		t.shrink(len(nodes))
	} else {
		found.update(nodes)
	}
	found.used = t.used
	return found
}

// shrink drops what was used least recently.
func (t *Tallies) shrink(nodes int) {
	for len(t.tallies) > 1 && len(t.tallies)*nodes > mostTallied {
		var oldest tallied
		least := t.used + 1
		for key, tally := range t.tallies {
			if tally.used != 0 && tally.used < least {
				oldest, least = key, tally.used
			}
		}
		delete(t.tallies, oldest)
	}
}

// tally is how many pods there are on each node.
type tally struct {
	tallied
	selects labels.Selector

	nodes []*Node
	pods  []int32
	used  int64
	sums  map[summed]map[string]int64
}

// summed is how a tally is summed up: by the values of a label, over the nodes that have others too.
type summed struct{ key, within string }

func newTally(which tallied, pods labels.Selector, nodes []*Node) *tally {
	t := &tally{tallied: which, selects: pods, nodes: nodes, pods: make([]int32, len(nodes)), sums: make(map[summed]map[string]int64)}
	for i, n := range nodes {
		t.pods[i] = t.countOn(n)
	}
	return t
}

func (t *tally) countOn(n *Node) (count int32) {
	for _, pod := range n.Pods {
		if pod.Namespace == t.namespace && (t.leaving || pod.DeletionTimestamp == nil) && t.selects.Matches(labels.Set(pod.Labels)) {
			count++
		}
	}
	return count
}

// update counts anew on the nodes that have changed.
func (t *tally) update(nodes []*Node) {
	for i, n := range nodes {
		old := t.nodes[i]
		if n == old {
			continue
		}
		count := t.countOn(n)
		if n.Node != old.Node { // it may be in other domains now
			clear(t.sums)
		}
		for by, sum := range t.sums {
			if value, ok := n.Labels[by.key]; ok && hasAll(n, by.keys()) {
				sum[value] += int64(count - t.pods[i])
			}
		}
		t.pods[i] = count
	}
	t.nodes = nodes
}

func (s summed) keys() []string {
	if s.within == "" {
		return nil
	}
	return strings.Split(s.within, ",")
}

// domains is how many pods each value of a label has, of the nodes that have all of keys. It must not be changed, and
// is good until the next snapshot is counted.
func (t *tally) domains(key string, keys []string) map[string]int64 {
	by := summed{key, strings.Join(keys, ",")}
	sum, ok := t.sums[by]
	if !ok {
		sum = t.sum(key, func(n *Node) bool { return hasAll(n, keys) })
		t.sums[by] = sum
	}
	return sum
}

// sum is how many pods each value of a label has, of some nodes.
func (t *tally) sum(key string, counts func(n *Node) bool) map[string]int64 {
	sum := make(map[string]int64)
	for i, n := range t.nodes {
		if value, ok := n.Labels[key]; ok && counts(n) {
			sum[value] += int64(t.pods[i])
		}
	}
	return sum
}
