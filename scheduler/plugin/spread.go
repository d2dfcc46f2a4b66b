package plugin

import (
	"math"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
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
		score := sync.OnceValue(func() func(n *Node) int64 { return spreadScore(pod, s, soft) }) // wanted if several nodes will do
		check.Score = func(n *Node) int64 { return score()(n) }
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
func (c *spreadConstraint) counts(pod *Pod, s *Snapshot, keys []string) *census {
	tally := s.tally(tallied{namespace: pod.Namespace}, c.pods)
	var selected *selection
	if c.affinity == corev1.NodeInclusionPolicyHonor {
		selected = s.selected(pod)
	}
	if c.taints != corev1.NodeInclusionPolicyHonor {
		return tally.domains(s.Cluster, c.key, keys, selected)
	}
	tolerated := taintToleration(pod, nil).Filter
	return tally.sum(s.Cluster, c.key, func(n *Node) bool {
		return hasAll(n, keys) && (selected == nil || selected.has(n)) && tolerated(n) == nil
	})
}

func spreadFilter(pod *Pod, s *Snapshot, hard []spreadConstraint) func(n *Node) *Reason {
	counts := make([]*census, len(hard))
	least, self := make([]int64, len(hard)), make([]int64, len(hard))
	keys := keysOf(pod, hard)
	for i := range hard {
		counts[i] = hard[i].counts(pod, s, keys)
		if counts[i].filled >= hard[i].minDomains { // else the least is taken to be 0
			least[i] = counts[i].smallest()
		}
		if hard[i].pods.Matches(labels.Set(pod.Labels)) {
			self[i] = 1
		}
	}
	return func(n *Node) *Reason {
		for i := range hard {
			pods, ok := counts[i].at(n)
			if !ok {
				return inNoDomain
			}
			if pods+self[i]-least[i] > hard[i].maxSkew {
				return skewed
			}
		}
		return nil
	}
}

// Why nodes cannot take a pod that is to be spread.
var (
	inNoDomain = finallyBecause("node(s) didn't match pod topology spread constraints (missing required label)")
	skewed     = because("node(s) didn't match pod topology spread constraints")
)

// outside is the score of a node that is in no domain.
const outside = -1

// spreadScore is how crowded a node's domains are; fewer is better. Kinds of domains of which there are many weigh
// more, since they spread finer.
func spreadScore(pod *Pod, s *Snapshot, soft []spreadConstraint) func(n *Node) int64 {
	counts := make([]*census, len(soft))
	weights := make([]float64, len(soft))
	keys := keysOf(pod, soft)
	for i := range soft {
		counts[i] = soft[i].counts(pod, s, keys)
		weights[i] = math.Log(float64(counts[i].filled + 2))
	}
	return func(n *Node) int64 {
		if !hasAll(n, keys) {
			return outside
		}
		var sum float64
		for i := range soft {
			if pods, ok := counts[i].at(n); ok {
				sum += float64(pods)*weights[i] + float64(soft[i].maxSkew-1)
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
