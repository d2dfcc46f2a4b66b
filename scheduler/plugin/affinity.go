package plugin

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
)

// term is one pod affinity or anti-affinity term, parsed.
type term struct {
	pods              labels.Selector
	namespaces        sets.Set[string]
	namespaceSelector labels.Selector // nil: the namespaces are those that are named
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
	parsed := term{pods: selector(t.LabelSelector), namespaces: namespaces, topologyKey: t.TopologyKey, weight: weight}
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
	return t.namespaceSelector != nil && t.namespaceSelector.Matches(s.NamespaceLabels(pod.Namespace))
}

// counts is how many pods the term selects in each of its domains, by the value of its label; it may have domains
// with none.
func (t *term) counts(s *Snapshot) map[string]int64 {
	if t.namespaceSelector != nil {
		return countPods(s, t.topologyKey, func(pod *Pod) bool { return t.selects(pod.Pod, s) })
	}
	var sum map[string]int64
	for namespace := range t.namespaces {
		counts := s.Tallies.of(tallied{namespace: namespace, leaving: true}, t.pods, s.Nodes).domains(t.topologyKey, nil)
		if len(t.namespaces) == 1 {
			return counts
		}
		if sum == nil {
			sum = make(map[string]int64, len(counts))
		}
		for value, count := range counts {
			sum[value] += count
		}
	}
	return sum
}

// countPods counts pods by the values of a label of their nodes.
func countPods(s *Snapshot, key string, counts func(*Pod) bool) map[string]int64 {
	sum := make(map[string]int64)
	for _, n := range s.Nodes {
		value, ok := n.Labels[key]
		if !ok {
			continue
		}
		for _, pod := range n.Pods {
			if counts(pod) {
				sum[value]++
			}
		}
	}
	return sum
}

// domains are numbers of groups of nodes: of those with one value of a label, by label and value.
type domains map[string]map[string]int64

func (d domains) add(n *Node, key string, number int64) {
	value, ok := n.Labels[key]
	if !ok {
		return
	}
	if d[key] == nil {
		d[key] = make(map[string]int64)
	}
	d[key][value] += number
}

// at is the sum of the numbers of the groups that n is in.
func (d domains) at(n *Node) (sum int64) {
	for key, values := range d {
		if value, ok := n.Labels[key]; ok {
			sum += values[value]
		}
	}
	return sum
}

// interPodAffinity brings pods together and keeps them apart, by the terms of
// the pod and by those of the pods that are there already.
func interPodAffinity(pod *Pod, s *Snapshot) Check {
	own := wanted{pod: pod, attracted: attracted(pod, s)}
	for i := range pod.antiAffinity {
		own.unwanted = append(own.unwanted, pod.antiAffinity[i].counts(s))
	}
	own.startsGroup = own.attracted != nil && !slices.ContainsFunc(own.attracted, occupied) && selectedByAll(pod.affinity, pod.Pod, s)
	repelled, preference := make(domains), make(domains)
	for _, n := range s.Nodes {
		for _, other := range n.choosy {
			repel(pod, other, n, s, repelled)
			preferred(pod, other, n, s, preference)
		}
	}
	var check Check
	if len(repelled)+len(own.attracted)+len(own.unwanted) > 0 {
		check.Filter = func(n *Node) *Reason {
			if reason := own.meets(n); reason != nil {
				return reason
			}
			if repelled.at(n) > 0 {
				return because("node(s) didn't satisfy existing pods anti-affinity rules")
			}
			return nil
		}
	}
	preferences := ownPreferences(pod, s)
	if len(preference)+len(preferences) > 0 {
		check.Score = func(n *Node) int64 {
			sum := preference.at(n)
			for _, p := range preferences {
				sum += p.at(n)
			}
			return sum
		}
		check.Normalize = stretch
	}
	return check
}

// attracted is, for each term of the pod's required affinity, how many pods there are in each domain that meet all of
// the terms.
func attracted(pod *Pod, s *Snapshot) []map[string]int64 {
	if len(pod.affinity) == 1 {
		return []map[string]int64{pod.affinity[0].counts(s)}
	}
	var list []map[string]int64
	for _, t := range pod.affinity {
		list = append(list, countPods(s, t.topologyKey, func(other *Pod) bool { return selectedByAll(pod.affinity, other.Pod, s) }))
	}
	return list
}

func occupied(counts map[string]int64) bool {
	for _, count := range counts {
		if count > 0 {
			return true
		}
	}
	return false
}

func selectedByAll(list []term, pod *corev1.Pod, s *Snapshot) bool {
	for i := range list {
		if !list[i].selects(pod, s) {
			return false
		}
	}
	return len(list) > 0
}

// wanted is what the required terms of a pod come to in a snapshot.
type wanted struct {
	pod                 *Pod
	attracted, unwanted []map[string]int64 // by term, how many pods it selects in each domain
	// startsGroup: the first of a group of pods that want to be together may start it.
	startsGroup bool
}

func (w *wanted) meets(n *Node) *Reason {
	for i := range w.pod.affinity {
		value, ok := n.Labels[w.pod.affinity[i].topologyKey]
		if !ok || w.attracted[i][value] == 0 && !w.startsGroup {
			return finallyBecause("node(s) didn't match pod affinity rules")
		}
	}
	for i := range w.pod.antiAffinity {
		if value, ok := n.Labels[w.pod.antiAffinity[i].topologyKey]; ok && w.unwanted[i][value] > 0 {
			return because("node(s) didn't match pod anti-affinity rules")
		}
	}
	return nil
}

// repel notes the domains of n from which other, which runs there, keeps pod.
func repel(pod, other *Pod, n *Node, s *Snapshot, repelled domains) {
	for i := range other.antiAffinity {
		if t := &other.antiAffinity[i]; t.selects(pod.Pod, s) {
			repelled.add(n, t.topologyKey, 1)
		}
	}
}

// preferred adds up what the preferred terms of other, which runs on n, say of n's domains. Its required affinity
// counts a little too, so that its friends come to it.
func preferred(pod, other *Pod, n *Node, s *Snapshot, preference domains) {
	const hardWeight = 1
	add := func(list []term, weight func(*term) int64) {
		for i := range list {
			if t := &list[i]; t.selects(pod.Pod, s) {
				preference.add(n, t.topologyKey, weight(t))
			}
		}
	}
	add(other.preferredAffinity, func(t *term) int64 { return t.weight })
	add(other.preferredAntiAffinity, func(t *term) int64 { return -t.weight })
	add(other.affinity, func(*term) int64 { return hardWeight })
}

// ownPreference is how much a pod likes, or dislikes, each pod that a term selects.
type ownPreference struct {
	key    string
	counts map[string]int64
	weight int64
}

func (p ownPreference) at(n *Node) int64 {
	value, ok := n.Labels[p.key]
	if !ok {
		return 0
	}
	return p.weight * p.counts[value]
}

// ownPreferences are those of the pod's terms that select any pod.
func ownPreferences(pod *Pod, s *Snapshot) (list []ownPreference) {
	for sign, terms := range map[int64][]term{1: pod.preferredAffinity, -1: pod.preferredAntiAffinity} {
		for i := range terms {
			if counts := terms[i].counts(s); occupied(counts) {
				list = append(list, ownPreference{terms[i].topologyKey, counts, sign * terms[i].weight})
			}
		}
	}
	return list
}
