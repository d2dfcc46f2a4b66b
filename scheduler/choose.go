package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// choice is the result of looking for a node: a node, or why there is none.
type choice struct {
	node string
	// err is why it is not known whether there is one.
	err error
	// never is a reason that holds for every node.
	never string
	// reasons are why each node cannot take the pod.
	reasons map[string]*plugin.Reason
	total   int
}

// choose finds the best node for a pod in a snapshot. start is where to begin
// looking, so that in a large cluster not always the same nodes are looked at.
func choose(pod *plugin.Pod, s *plugin.Snapshot, start int) choice {
	c := choice{total: len(s.Nodes), reasons: make(map[string]*plugin.Reason)}
	checks := plugin.Prepare(pod, s)
	if c.err = checks.Err(); c.err != nil {
		return c
	}
	if c.never = checks.Never(); c.never != "" {
		return c
	}
	// A node that was freed for this pod is taken if it still will do.
	if nominated := pod.Status.NominatedNodeName; nominated != "" {
		i := slices.IndexFunc(s.Nodes, func(n *plugin.Node) bool { return n.Name == nominated })
		if i >= 0 && checks.Filter(s.Nodes[i]) == nil {
			c.node = nominated
			return c
		}
	}
	enough := enoughNodes(len(s.Nodes))
	var fitting []*plugin.Node
	for i := range s.Nodes {
		n := s.Nodes[(start+i)%len(s.Nodes)]
		if reason := checks.Filter(n); reason != nil {
			if c.err = reason.Err; c.err != nil {
				return c
			}
			c.reasons[n.Name] = reason
			continue
		}
		if fitting = append(fitting, n); len(fitting) == enough {
			break
		}
	}
	switch len(fitting) {
	case 0:
	case 1:
		c.node = fitting[0].Name
	default:
		c.node = best(fitting, checks.Score(fitting))
	}
	return c
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
	most := slices.Max(scores)
	var ties []string
	for i, score := range scores {
		if score == most {
			ties = append(ties, nodes[i].Name)
		}
	}
	return ties[rand.IntN(len(ties))]
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
