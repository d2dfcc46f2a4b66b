package plugin

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
)

// term is one pod affinity or anti-affinity term, parsed.
type term struct {
	pods              labels.Selector
	namespaces        sets.Set[string]
	namespaceSelector labels.Selector
	topologyKey       string
	weight            int64
}

func terms(owner *corev1.Pod, list []corev1.PodAffinityTerm) []term {
	parsed := make([]term, 0, len(list))
	for i := range list {
		parsed = append(parsed, newTerm(owner, &list[i], 0))
	}
	return parsed
}

func weightedTerms(owner *corev1.Pod, list []corev1.WeightedPodAffinityTerm) []term {
	parsed := make([]term, 0, len(list))
	for i := range list {
		parsed = append(parsed, newTerm(owner, &list[i].PodAffinityTerm, int64(list[i].Weight)))
	}
	return parsed
}

// newTerm parses a term of owner. Without namespaces and a namespace selector
// it speaks of owner's namespace. matchLabelKeys need no care here: the API
// server has merged them into the selector.
func newTerm(owner *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) term {
	namespaces := sets.New(t.Namespaces...)
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		namespaces.Insert(owner.Namespace)
	}
	parsed := term{pods: selector(t.LabelSelector), namespaces: namespaces, namespaceSelector: labels.Nothing(), topologyKey: t.TopologyKey, weight: weight}
	if t.NamespaceSelector != nil {
		parsed.namespaceSelector = selector(t.NamespaceSelector)
	}
	return parsed
}

func (t *term) selects(pod *corev1.Pod, s *Snapshot) bool {
	if !t.pods.Matches(labels.Set(pod.Labels)) {
		return false
	}
	if t.namespaces.Has(pod.Namespace) {
		return true
	}
	return t.namespaceSelector.Matches(s.NamespaceLabels(pod.Namespace))
}

// domain is a group of nodes: those with one value of a label.
type domain struct{ key, value string }

// domainOf is the group that n belongs to by a label; ok is false for nodes
// without the label.
func domainOf(n *Node, key string) (d domain, ok bool) {
	value, ok := n.Labels[key]
	return domain{key, value}, ok
}

// interPodAffinity brings pods together and keeps them apart, by the terms of
// the pod and by the anti-affinity of the pods that are there already.
func interPodAffinity(pod *Pod, s *Snapshot) Check {
	repelled := make(map[domain]bool) // by required anti-affinity of pods there
	attracted := make(map[domain]int) // how many pods each affinity term wants to be with
	unwanted := make(map[domain]int)  // how many pods each anti-affinity term wants to avoid
	preference := make(map[domain]int64)
	for _, n := range s.Nodes {
		for _, other := range n.Pods {
			countPair(pod, other, n, s, repelled, attracted, unwanted)
			prefer(pod, other, n, s, preference)
		}
	}
	var check Check
	if len(repelled) > 0 || len(pod.affinity) > 0 || len(unwanted) > 0 {
		check.Filter = func(n *Node) *Reason { return meets(pod, n, s, repelled, attracted, unwanted) }
	}
	if len(preference) > 0 {
		check.Score = func(n *Node) (sum int64) {
			for d, weight := range preference {
				if n.Labels[d.key] == d.value {
					if _, ok := n.Labels[d.key]; ok {
						sum += weight
					}
				}
			}
			return sum
		}
		check.Normalize = stretch
	}
	return check
}

// countPair notes what the required terms of pod and of other, which runs on
// n, mean for n's domains. A pod counts for affinity only if it meets all terms.
func countPair(pod, other *Pod, n *Node, s *Snapshot, repelled map[domain]bool, attracted, unwanted map[domain]int) {
	for i := range other.antiAffinity {
		t := &other.antiAffinity[i]
		if d, ok := domainOf(n, t.topologyKey); ok && t.selects(pod.Pod, s) {
			repelled[d] = true
		}
	}
	if selectedByAll(pod.affinity, other.Pod, s) {
		for _, t := range pod.affinity {
			if d, ok := domainOf(n, t.topologyKey); ok {
				attracted[d]++
			}
		}
	}
	for i := range pod.antiAffinity {
		t := &pod.antiAffinity[i]
		if d, ok := domainOf(n, t.topologyKey); ok && t.selects(other.Pod, s) {
			unwanted[d]++
		}
	}
}

func selectedByAll(list []term, pod *corev1.Pod, s *Snapshot) bool {
	for i := range list {
		if !list[i].selects(pod, s) {
			return false
		}
	}
	return len(list) > 0
}

func meets(pod *Pod, n *Node, s *Snapshot, repelled map[domain]bool, attracted, unwanted map[domain]int) *Reason {
	for _, t := range pod.affinity {
		d, ok := domainOf(n, t.topologyKey)
		if !ok {
			return finallyBecause("node(s) didn't match pod affinity rules")
		}
		if attracted[d] > 0 {
			continue
		}
		// The first of a group of pods that want to be together may start it.
		if len(attracted) == 0 && selectedByAll(pod.affinity, pod.Pod, s) {
			continue
		}
		return finallyBecause("node(s) didn't match pod affinity rules")
	}
	for _, t := range pod.antiAffinity {
		if d, ok := domainOf(n, t.topologyKey); ok && unwanted[d] > 0 {
			return because("node(s) didn't match pod anti-affinity rules")
		}
	}
	for d := range repelled {
		if value, ok := n.Labels[d.key]; ok && value == d.value {
			return because("node(s) didn't satisfy existing pods anti-affinity rules")
		}
	}
	return nil
}

// prefer adds up what the preferred terms of both pods say of n's domains. The
// required affinity of a running pod counts a little too, so that its friends
// come to it.
func prefer(pod, other *Pod, n *Node, s *Snapshot, preference map[domain]int64) {
	const hardWeight = 1
	add := func(list []term, of *corev1.Pod, sign, fixed int64) {
		for i := range list {
			t := &list[i]
			weight := t.weight
			if fixed > 0 {
				weight = fixed
			}
			if d, ok := domainOf(n, t.topologyKey); ok && t.selects(of, s) {
				preference[d] += sign * weight
			}
		}
	}
	add(pod.preferredAffinity, other.Pod, 1, 0)
	add(pod.preferredAntiAffinity, other.Pod, -1, 0)
	add(other.preferredAffinity, pod.Pod, 1, 0)
	add(other.preferredAntiAffinity, pod.Pod, -1, 0)
	add(other.affinity, pod.Pod, 1, hardWeight)
}
