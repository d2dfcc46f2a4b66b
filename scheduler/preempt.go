package scheduler

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// eviction is a plan to make room for a pod: the pods to take off a node.
type eviction struct {
	node    string
	victims []*plugin.Pod
	// broken is how many victims a PodDisruptionBudget would have protected.
	broken int
}

// Why no pods are taken off a node.
var (
	notHelpful = &plugin.Reason{Texts: []string{"Preemption is not helpful for scheduling"}}
	noVictims  = &plugin.Reason{Texts: []string{"No preemption victims found for incoming pod"}}
)

// planEviction looks for a node on which the pod would fit if pods of lower
// priority went. why says, in the words of Kubernetes' scheduler, why there is
// none.
func planEviction(pod *plugin.Pod, s *plugin.Snapshot, failed choice, budgets []*policyv1.PodDisruptionBudget) (plan *eviction, why string) {
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return nil, "not eligible due to preemptionPolicy=Never."
	}
	if nominated := failed.reasons[pod.Status.NominatedNodeName]; (nominated == nil || !nominated.Final) && waitsForVictims(pod, s) {
		return nil, "not eligible due to a terminating pod on the nominated node."
	}
	counts := make(map[string]int)
	offset, found, enough := rand.IntN(len(s.Nodes)), 0, enoughCandidates(len(s.Nodes))
	for i := range s.Nodes {
		n := s.Nodes[(offset+i)%len(s.Nodes)]
		if reason, ok := failed.reasons[n.Name]; !ok || reason.Final {
			count(counts, notHelpful)
			continue
		}
		candidate, reason := victims(pod, n, s, budgets)
		if reason != nil {
			count(counts, reason)
			continue
		}
		if plan == nil || candidate.compare(plan) < 0 {
			plan = candidate
		}
		if found++; found >= enough && plan.broken == 0 {
			break
		}
	}
	if plan != nil {
		return plan, ""
	}
	return nil, fmt.Sprintf("0/%d nodes are available:%s", len(s.Nodes), histogram(counts))
}

// enoughCandidates is among how many nodes the one is chosen on which room is made, if there is one on which no budget
// is broken.
func enoughCandidates(nodes int) int {
	const least, percent = 100, 10
	return min(nodes, max(least, nodes*percent/100))
}

// waitsForVictims reports whether pods are already going to make room for pod.
func waitsForVictims(pod *plugin.Pod, s *plugin.Snapshot) bool {
	n := s.Node(pod.Status.NominatedNodeName)
	return n != nil && slices.ContainsFunc(n.Pods, func(other *plugin.Pod) bool {
		return other.DeletionTimestamp != nil && other.Priority() < pod.Priority() && isVictim(other.Pod)
	})
}

// isVictim reports whether a pod is ending because of preemption.
func isVictim(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// victims finds the fewest pods that must leave n for pod to fit: it takes all
// of lower priority away and puts back, the important first, those that can
// stay. It gives the reason if that does not make pod fit.
func victims(pod *plugin.Pod, n *plugin.Node, s *plugin.Snapshot, budgets []*policyv1.PodDisruptionBudget) (*eviction, *plugin.Reason) {
	var lower []*plugin.Pod
	emptied := n
	for _, other := range n.Pods {
		if other.Priority() < pod.Priority() {
			lower = append(lower, other)
			emptied = emptied.Remove(other.UID)
		}
	}
	if len(lower) == 0 {
		return nil, noVictims
	}
	check := func(n *plugin.Node) (reason *plugin.Reason) {
		s.Try(n, func() { reason = plugin.Prepare(pod, s).Filter(s.Node(n.Name)) })
		return reason
	}
	if reason := check(emptied); reason != nil {
		return nil, reason
	}
	slices.SortStableFunc(lower, moreImportant)
	protected, free := splitByBudget(lower, budgets)
	plan := &eviction{node: n.Name}
	reprieve := func(pods []*plugin.Pod) (gone int) {
		for _, p := range pods {
			if with := emptied.Add(p); check(with) == nil {
				emptied = with
				continue
			}
			plan.victims = append(plan.victims, p)
			gone++
		}
		return gone
	}
	plan.broken = reprieve(protected)
	reprieve(free)
	if len(plan.victims) == 0 {
		return nil, noVictims // it fits without
	}
	slices.SortStableFunc(plan.victims, moreImportant)
	return plan, nil
}

// moreImportant orders pods: higher priority first, then the longer running.
func moreImportant(a, b *plugin.Pod) int {
	return cmp.Or(cmp.Compare(b.Priority(), a.Priority()), started(a).Compare(started(b)))
}

func started(p *plugin.Pod) time.Time {
	if p.Status.StartTime == nil {
		return time.Now()
	}
	return p.Status.StartTime.Time
}

// splitByBudget tells the pods whose eviction would break a budget from others.
func splitByBudget(pods []*plugin.Pod, budgets []*policyv1.PodDisruptionBudget) (protected, free []*plugin.Pod) {
	allowed := make([]int32, len(budgets))
	for i, b := range budgets {
		allowed[i] = b.Status.DisruptionsAllowed
	}
	for _, p := range pods {
		breaks := false
		for i, b := range budgets {
			if !covers(b, p.Pod) {
				continue
			}
			if _, already := b.Status.DisruptedPods[p.Name]; already {
				continue
			}
			if allowed[i]--; allowed[i] < 0 {
				breaks = true
			}
		}
		if breaks {
			protected = append(protected, p)
		} else {
			free = append(free, p)
		}
	}
	return protected, free
}

func covers(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	if b.Namespace != pod.Namespace || len(pod.Labels) == 0 {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels))
}

// compare orders plans, the least harmful first: fewest broken budgets, lowest
// highest priority, lowest sum of priorities, fewest victims, and of those the
// one whose most important victims started last.
func (e *eviction) compare(other *eviction) int {
	return cmp.Or(
		cmp.Compare(e.broken, other.broken),
		cmp.Compare(e.victims[0].Priority(), other.victims[0].Priority()),
		cmp.Compare(e.sum(), other.sum()),
		cmp.Compare(len(e.victims), len(other.victims)),
		other.oldest().Compare(e.oldest()),
	)
}

func (e *eviction) sum() (sum int64) {
	for _, v := range e.victims {
		sum += int64(v.Priority()) + 1<<31 // so that a longer list is never better for negative priorities
	}
	return sum
}

// oldest is the earliest start among the victims of the highest priority.
func (e *eviction) oldest() time.Time {
	oldest := started(e.victims[0])
	for _, v := range e.victims {
		if v.Priority() == e.victims[0].Priority() && started(v).Before(oldest) {
			oldest = started(v)
		}
	}
	return oldest
}
