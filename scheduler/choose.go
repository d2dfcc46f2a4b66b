package scheduler

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// choice is the result of looking for a node: a node, or why there is none.
type choice struct {
	node string
	// err is why it is not known whether there is one.
	err error
	// never is a reason that holds for every node.
	never string
	// reasons are why each node cannot take the pod, if none can.
	reasons map[string]*plugin.Reason
	total   int
	looked  int // at how many nodes
}

// choose finds the best node for a pod in a snapshot. start is where to begin looking, so that in a large cluster not
// always the same nodes are looked at.
func choose(pod *plugin.Pod, s *plugin.Snapshot, start int) choice {
	c := choice{total: len(s.Nodes)}
	checks := plugin.Prepare(pod, s)
	if c.err = checks.Err(); c.err != nil {
		return c
	}
	if c.never = checks.Never(); c.never != "" {
		return c
	}
	// A node that was freed for this pod is taken if it still will do.
	if n := s.Node(pod.Status.NominatedNodeName); n != nil && checks.Filter(n) == nil {
		c.node = n.Name
		return c
	}
	fitting := c.look(checks, s, start)
	switch len(fitting) {
	case 0:
	case 1:
		c.node = fitting[0].Name
	default:
		c.node = best(fitting, checks.Score(fitting))
	}
	return c
}

// look finds nodes that will do, until there are enough of them.
func (c *choice) look(checks plugin.Checks, s *plugin.Snapshot, start int) (fitting []*plugin.Node) {
	only := checks.Only()
	nodes, enough := s.Nodes, enoughNodes(len(s.Nodes))
	if only != nil {
		nodes = named(only, s)
	}
	fitting = make([]*plugin.Node, 0, min(enough, len(nodes)))
	var refused []refusal
	for i := range nodes {
		n := nodes[(start+i)%len(nodes)]
		c.looked++
		reason := checks.Filter(n)
		if reason == nil {
			if fitting = append(fitting, n); len(fitting) == enough {
				break
			}
			continue
		}
		if c.err = reason.Err; c.err != nil {
			return nil
		}
		refused = append(refused, refusal{n.Name, reason})
	}
	if len(fitting) == 0 {
		c.tell(refused, s)
	}
	return fitting
}

type refusal struct {
	node   string
	reason *plugin.Reason
}

// tell notes why no node will do. Those that were not looked at were not named.
func (c *choice) tell(refused []refusal, s *plugin.Snapshot) {
	c.reasons = make(map[string]*plugin.Reason, len(s.Nodes))
	for _, r := range refused {
		c.reasons[r.node] = r.reason
	}
	if len(refused) == len(s.Nodes) {
		return
	}
	for _, n := range s.Nodes {
		if c.reasons[n.Name] == nil {
			c.reasons[n.Name] = plugin.NotNamed
		}
	}
}

// named are the nodes with some names.
func named(names sets.Set[string], s *plugin.Snapshot) (nodes []*plugin.Node) {
	for _, name := range sets.List(names) {
		if n := s.Node(name); n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// enoughNodes is how many nodes to score: all of a small cluster, a falling
// share of a large one.
func enoughNodes(total int) int {
	const all, leastPercent = 100, 5
	if total <= all {
		return total
	}
	return max(all, total*max(leastPercent, 50-total/125)/100)
}

// best is one of the nodes with the highest score, at random.
func best(nodes []*plugin.Node, scores []int64) string {
	most, ties, found := int64(math.MinInt64), 0, 0
	for i, score := range scores {
		switch {
		case score > most:
			most, ties, found = score, 1, i
		case score == most:
			if ties++; rand.IntN(ties) == 0 {
				found = i
			}
		}
	}
	return nodes[found].Name
}

// message says why a pod stays pending, as Kubernetes' scheduler words it.
func (c choice) message() string {
	if c.total == 0 {
		return "no nodes available to schedule pods"
	}
	message := fmt.Sprintf("0/%d nodes are available:", c.total)
	if c.never != "" {
		return message + " " + c.never + "."
	}
	counts := make(map[string]int)
	for _, reason := range c.reasons {
		count(counts, reason)
	}
	return message + histogram(counts)
}

func count(counts map[string]int, reason *plugin.Reason) {
	for _, text := range reason.Texts {
		counts[text]++
	}
}

func histogram(counts map[string]int) string {
	if len(counts) == 0 {
		return ""
	}
	lines := make([]string, 0, len(counts))
	for text, n := range counts {
		lines = append(lines, fmt.Sprintf("%d %s", n, text))
	}
	slices.Sort(lines)
	return " " + strings.Join(lines, ", ") + "."
}
