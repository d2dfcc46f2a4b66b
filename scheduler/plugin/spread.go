package plugin

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// spreadConstraint is a topology spread constraint, parsed.
type spreadConstraint struct {
	key        string
	maxSkew    int64
	minDomains int
	pods       labels.Selector
	affinity   corev1.NodeInclusionPolicy
	taints     corev1.NodeInclusionPolicy
}

// defaultSpread is what pods without constraints of their own but with siblings
// get: spread over nodes and zones, as far as it goes.
var defaultSpread = []corev1.TopologySpreadConstraint{
	{TopologyKey: corev1.LabelHostname, MaxSkew: 3, WhenUnsatisfiable: corev1.ScheduleAnyway},
	{TopologyKey: corev1.LabelTopologyZone, MaxSkew: 5, WhenUnsatisfiable: corev1.ScheduleAnyway},
}

// topologySpread spreads pods evenly over domains.
func topologySpread(pod *Pod, s *Snapshot) Check {
	hard, soft := constraints(pod, s)
	var check Check
	if len(hard) > 0 {
		check.Filter = spreadFilter(pod, s, hard)
	}
	if len(soft) > 0 {
		check.Score = spreadScore(pod, s, soft)
		check.Normalize = leastCrowded
	}
	return check
}

// keysOf are the labels that nodes must have to count and be wanted: those of every constraint of the pod's own. By
// default, nodes without zones are spread over, too.
func keysOf(pod *Pod, list []spreadConstraint) []string {
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		return nil
	}
	keys := make([]string, 0, len(list))
	for i := range list {
		keys = append(keys, list[i].key)
	}
	return keys
}

// hasAll reports whether a node has all of some labels.
func hasAll(n *Node, keys []string) bool {
	for _, key := range keys {
		if _, ok := n.Labels[key]; !ok {
			return false
		}
	}
	return true
}

func constraints(pod *Pod, s *Snapshot) (hard, soft []spreadConstraint) {
	list, siblings := pod.Spec.TopologySpreadConstraints, labels.Selector(nil)
	if len(list) == 0 {
		siblings = s.OwnerSelector(pod.Pod)
		if siblings == nil {
			return nil, nil
		}
		list = defaultSpread
	}
	for i := range list {
		c := &list[i]
		parsed := spreadConstraint{
			key: c.TopologyKey, maxSkew: int64(c.MaxSkew), minDomains: 1, pods: siblings,
			affinity: corev1.NodeInclusionPolicyHonor, taints: corev1.NodeInclusionPolicyIgnore,
		}
		if siblings == nil {
			parsed.pods = withKeys(selector(c.LabelSelector), c.MatchLabelKeys, pod.Labels)
		}
		if c.MinDomains != nil {
			parsed.minDomains = int(*c.MinDomains)
		}
		if c.NodeAffinityPolicy != nil {
			parsed.affinity = *c.NodeAffinityPolicy
		}
		if c.NodeTaintsPolicy != nil {
			parsed.taints = *c.NodeTaintsPolicy
		}
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, parsed)
		} else {
			soft = append(soft, parsed)
		}
	}
	return hard, soft
}

// withKeys narrows a selector to pods that share the values of some labels.
func withKeys(s labels.Selector, keys []string, values map[string]string) labels.Selector {
	if len(keys) == 0 {
		return s
	}
	same := labels.Set{}
	for _, key := range keys {
		if value, ok := values[key]; ok {
			same[key] = value
		}
	}
	requirements, _ := labels.SelectorFromSet(same).Requirements()
	return s.Add(requirements...)
}

// counts is how many matching pods each domain has of the nodes that count: those with all of keys which the
// constraint includes.
func (c *spreadConstraint) counts(pod *Pod, s *Snapshot, keys []string) map[string]int64 {
	tally := s.Tallies.of(tallied{namespace: pod.Namespace}, c.pods, s.Nodes)
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	if c.includesAll(pod) {
		return tally.domains(c.key, keys)
	}
	return tally.sum(c.key, func(n *Node) bool { return hasAll(n, keys) && c.includes(pod, n, required) })
}

// includesAll reports whether it does not depend on the node whether it counts.
func (c *spreadConstraint) includesAll(pod *Pod) bool {
	anyNode := len(pod.Spec.NodeSelector) == 0 && (pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil)
	return (anyNode || c.affinity != corev1.NodeInclusionPolicyHonor) && c.taints != corev1.NodeInclusionPolicyHonor
}

func (c *spreadConstraint) includes(pod *Pod, n *Node, required nodeaffinity.RequiredNodeAffinity) bool {
	if c.affinity == corev1.NodeInclusionPolicyHonor {
		if ok, err := required.Match(n.Node); err != nil || !ok {
			return false
		}
	}
	return c.taints != corev1.NodeInclusionPolicyHonor || taintToleration(pod, nil).Filter(n) == nil
}

func spreadFilter(pod *Pod, s *Snapshot, hard []spreadConstraint) func(n *Node) *Reason {
	counts := make([]map[string]int64, len(hard))
	least, self := make([]int64, len(hard)), make([]int64, len(hard))
	keys := keysOf(pod, hard)
	for i := range hard {
		counts[i] = hard[i].counts(pod, s, keys)
		if len(counts[i]) >= hard[i].minDomains { // else the least is taken to be 0
			least[i] = smallest(counts[i])
		}
		if hard[i].pods.Matches(labels.Set(pod.Labels)) {
			self[i] = 1
		}
	}
	return func(n *Node) *Reason {
		for i := range hard {
			value, ok := n.Labels[hard[i].key]
			if !ok {
				return finallyBecause("node(s) didn't match pod topology spread constraints (missing required label)")
			}
			if counts[i][value]+self[i]-least[i] > hard[i].maxSkew {
				return because("node(s) didn't match pod topology spread constraints")
			}
		}
		return nil
	}
}

func smallest(counts map[string]int64) int64 {
	if len(counts) == 0 {
		return 0
	}
	least := int64(math.MaxInt64)
	for _, count := range counts {
		least = min(least, count)
	}
	return least
}

// outside is the score of a node that is in no domain.
const outside = -1

// spreadScore is how crowded a node's domains are; fewer is better. Kinds of domains of which there are many weigh
// more, since they spread finer.
func spreadScore(pod *Pod, s *Snapshot, soft []spreadConstraint) func(n *Node) int64 {
	counts := make([]map[string]int64, len(soft))
	weights := make([]float64, len(soft))
	keys := keysOf(pod, soft)
	for i := range soft {
		counts[i] = soft[i].counts(pod, s, keys)
		weights[i] = math.Log(float64(len(counts[i]) + 2))
	}
	return func(n *Node) int64 {
		if !hasAll(n, keys) {
			return outside
		}
		var sum float64
		for i := range soft {
			if value, ok := n.Labels[soft[i].key]; ok {
				sum += float64(counts[i][value])*weights[i] + float64(soft[i].maxSkew-1)
			}
		}
		return int64(math.Round(sum))
	}
}

// leastCrowded turns crowds into scores: MaxScore where there is nobody, and
// where there are most as much as the least crowded node is above that.
func leastCrowded(scores []int64) {
	most, least := slices.Max(scores), int64(math.MaxInt64)
	for _, score := range scores {
		if score != outside {
			least = min(least, score)
		}
	}
	for i, score := range scores {
		switch {
		case score == outside:
			scores[i] = 0
		case most == 0:
			scores[i] = MaxScore
		default:
			scores[i] = MaxScore * (most + least - score) / most
		}
	}
}
