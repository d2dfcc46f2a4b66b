// Package plugin holds the rules by which the scheduler chooses a node, a file
// per rule. A rule looks at the pod and the cluster once and returns the check
// it applies to each node; nothing in this package acts or waits.
package plugin

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/sets"
)

// Plugin is one rule.
type Plugin struct {
	Name string
	// Weight multiplies the scores of the rule.
	Weight int64
	// Check prepares the rule for one pod. pod and s must not be changed.
	Check func(pod *Pod, s *Snapshot) Check
}

// Check is a rule applied to one pod. Every field may be nil or empty.
type Check struct {
	// Err ends the attempt: it is not known whether any node can take the pod.
	Err error
	// Never says why no node at all can take the pod.
	Never string
	// Only are the nodes that come into question; nil: any. Filter refuses the others with NotNamed.
	Only sets.Set[string]
	// Filter says why a node cannot take the pod; nil means it can.
	Filter func(n *Node) *Reason
	// Score says how well a node suits the pod; only the order matters when
	// Normalize is set, else it must lie between 0 and MaxScore.
	Score func(n *Node) int64
	// Normalize brings the scores of all nodes that remain to 0 … MaxScore.
	Normalize func(scores []int64)
}

// MaxScore is the best score a rule gives.
const MaxScore = 100

// Reason is why a node cannot take a pod, one text per cause, worded as
// Kubernetes' own scheduler words it.
type Reason struct {
	Texts []string
	// Final means that evicting pods from the node would not help.
	Final bool
	// Err ends the attempt: it would be the same for other nodes.
	Err error
}

func because(text string) *Reason        { return &Reason{Texts: []string{text}} }
func finallyBecause(text string) *Reason { return &Reason{Texts: []string{text}, Final: true} }

// All are the rules, in the order in which they filter. The first that refuses
// a node names the reason. Weights are Kubernetes' defaults.
var All = []Plugin{
	{"NodeAffinity by name", 0, namedNodes},
	{"NodeUnschedulable", 0, nodeUnschedulable},
	{"NodeName", 0, nodeName},
	{"TaintToleration", 3, taintToleration},
	{"NodeAffinity", 2, nodeAffinity},
	{"NodePorts", 0, nodePorts},
	{"NodeResourcesFit", 1, resourcesFit},
	{"Claims", 0, claims},
	{"DynamicResources", 2, devices},
	{"PodTopologySpread", 2, topologySpread},
	{"InterPodAffinity", 2, interPodAffinity},
	{"NodeResourcesBalancedAllocation", 1, balancedAllocation},
	{"ImageLocality", 1, imageLocality},
}

// Checks are all rules prepared for one pod.
type Checks []prepared

type prepared struct {
	Check
	weight int64
}

// Prepare applies every rule to a pod.
func Prepare(pod *Pod, s *Snapshot) Checks {
	checks := make(Checks, 0, len(All))
	for _, p := range All {
		checks = append(checks, prepared{p.Check(pod, s), p.Weight})
	}
	return checks
}

// Err is the first error that ends the attempt, or nil.
func (c Checks) Err() error {
	for _, check := range c {
		if check.Check.Err != nil {
			return check.Check.Err
		}
	}
	return nil
}

// Never is the first reason why no node can take the pod, or empty.
func (c Checks) Never() string {
	for _, check := range c {
		if check.Never != "" {
			return check.Never
		}
	}
	return ""
}

// Only are the nodes that come into question; nil: any. Others are refused with NotNamed.
func (c Checks) Only() sets.Set[string] {
	for _, check := range c {
		if check.Only != nil {
			return check.Only
		}
	}
	return nil
}

// Filter is the first reason why n cannot take the pod, or nil.
func (c Checks) Filter(n *Node) *Reason {
	for _, check := range c {
		if check.Filter == nil {
			continue
		}
		if reason := check.Filter(n); reason != nil {
			return reason
		}
	}
	return nil
}

// Score adds up the weighted scores of each node.
func (c Checks) Score(nodes []*Node) []int64 {
	totals := make([]int64, len(nodes))
	scores := make([]int64, len(nodes))
	for _, check := range c {
		if check.Check.Score == nil {
			continue
		}
		for i, n := range nodes {
			scores[i] = check.Check.Score(n)
		}
		if check.Normalize != nil {
			check.Normalize(scores)
		}
		for i, score := range scores {
			totals[i] += check.weight * score
		}
	}
	return totals
}

// normalize scales scores so that the largest becomes MaxScore; reverse gives
// the smallest the best score.
func normalize(reverse bool) func(scores []int64) {
	return func(scores []int64) {
		most := slices.Max(scores)
		for i, score := range scores {
			if most > 0 {
				score = score * MaxScore / most
			}
			if reverse {
				score = MaxScore - score
			}
			scores[i] = score
		}
	}
}

// stretch maps the smallest score to 0 and the largest to MaxScore; equal ones
// all become 0.
func stretch(scores []int64) {
	least, most := slices.Min(scores), slices.Max(scores)
	for i, score := range scores {
		scores[i] = 0
		if most > least {
			scores[i] = int64(MaxScore * (float64(score-least) / float64(most-least)))
		}
	}
}
