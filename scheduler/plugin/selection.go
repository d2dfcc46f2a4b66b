package plugin

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// selection is the nodes that pods with one node selector and required node affinity select. Both look at nothing but
// names and labels, which do not change in the life of a Cluster.
type selection struct {
	key  string
	in   []bool // by place of the node
	used int64
}

func (s *selection) has(n *Node) bool { return s.in[n.place] }

// selected is the nodes that pod selects; nil: all.
func (c *Cluster) selected(pod *Pod) *selection {
	if pod.where == "" {
		return nil
	}
	c.used++
	found := c.selections[pod.where]
	if found == nil {
		found = &selection{key: pod.where, in: make([]bool, len(c.Nodes))}
		required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
		for i, n := range c.Nodes {
			found.in[i] = matches(required, n)
		}
		c.selections[pod.where] = found
	}
	found.used = c.used
	dropOldest(c.selections, len(c.Nodes), func(s *selection) int64 { return s.used })
	return found
}

func matches(required nodeaffinity.RequiredNodeAffinity, n *Node) bool {
	ok, err := required.Match(n.Node)
	return err == nil && ok
}

// where is which nodes a pod selects, as a text that is the same for pods that select the same; empty: all.
func where(pod *corev1.Pod) string {
	var required *corev1.NodeSelector
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		required = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	if len(pod.Spec.NodeSelector) == 0 && required == nil {
		return ""
	}
	text, err := json.Marshal([]any{pod.Spec.NodeSelector, required})
	if err != nil {
		panic(err) // texts and numbers only
	}
	return string(text)
}
