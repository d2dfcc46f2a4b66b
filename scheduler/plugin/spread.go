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
		check.Filter = spreadFilter(pod, withLabels(s, hard), hard)
	}
	if len(soft) > 0 {
		if len(pod.Spec.TopologySpreadConstraints) > 0 { // by default, nodes without zones are spread over, too
			s = withLabels(s, soft)
		}
		check.Score = spreadScore(pod, s, soft)
		check.Normalize = leastCrowded
	}
	return check
}

// withLabels is s with those nodes only that are in a domain of every
// constraint: others neither count nor are wanted.
func withLabels(s *Snapshot, list []spreadConstraint) *Snapshot {
	changed := *s
	changed.Nodes = slices.DeleteFunc(slices.Clone(s.Nodes), func(n *Node) bool {
		return slices.ContainsFunc(list, func(c spreadConstraint) bool {
			_, ok := n.Labels[c.key]
			return !ok
		})
	})
	return &changed
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

// counts is how many matching pods each domain of the nodes that count has.
func (c *spreadConstraint) counts(pod *Pod, s *Snapshot) map[string]int64 {
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	counts := make(map[string]int64)
	for _, n := range s.Nodes {
		value, ok := n.Labels[c.key]
		if !ok || !c.includes(pod, n, required) {
			continue
		}
		counts[value] += c.countOn(pod, n)
	}
	return counts
}

func (c *spreadConstraint) includes(pod *Pod, n *Node, required nodeaffinity.RequiredNodeAffinity) bool {
	if c.affinity == corev1.NodeInclusionPolicyHonor {
		if ok, err := required.Match(n.Node); err != nil || !ok {
			return false
		}
	}
	return c.taints != corev1.NodeInclusionPolicyHonor || taintToleration(pod, nil).Filter(n) == nil
}

func (c *spreadConstraint) countOn(pod *Pod, n *Node) (count int64) {
	for _, other := range n.Pods {
		if other.Namespace == pod.Namespace && other.DeletionTimestamp == nil && c.pods.Matches(labels.Set(other.Labels)) {
			count++
		}
	}
	return count
}

func spreadFilter(pod *Pod, s *Snapshot, hard []spreadConstraint) func(n *Node) *Reason {
	counts := make([]map[string]int64, len(hard))
	least := make([]int64, len(hard))
	for i := range hard {
		counts[i] = hard[i].counts(pod, s)
		if len(counts[i]) >= hard[i].minDomains { // else the least is taken to be 0
			least[i] = smallest(counts[i])
		}
	}
	return func(n *Node) *Reason {
		for i, c := range hard {
			value, ok := n.Labels[c.key]
			if !ok {
				return finallyBecause("node(s) didn't match pod topology spread constraints (missing required label)")
			}
			self := int64(0)
			if c.pods.Matches(labels.Set(pod.Labels)) {
				self = 1
			}
			if counts[i][value]+self-least[i] > c.maxSkew {
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

// spreadScore is how crowded a node's domains are, of the nodes of s; fewer is
// better. Kinds of domains of which there are many weigh more, since they spread
// finer.
func spreadScore(pod *Pod, s *Snapshot, soft []spreadConstraint) func(n *Node) int64 {
	counts := make([]map[string]int64, len(soft))
	for i := range soft {
		counts[i] = soft[i].counts(pod, s)
	}
	inside := make(map[string]bool, len(s.Nodes))
	for _, n := range s.Nodes {
		inside[n.Name] = true
	}
	return func(n *Node) int64 {
		if !inside[n.Name] {
			return outside
		}
		var sum float64
		for i, c := range soft {
			value, ok := n.Labels[c.key]
			if !ok {
				continue
			}
			weight := math.Log(float64(len(counts[i]) + 2))
			sum += float64(counts[i][value])*weight + float64(c.maxSkew-1)
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
