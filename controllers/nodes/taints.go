package nodes

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noSchedule says which status of which condition keeps new pods away, and by which taint.
var noSchedule = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
}

// evicting are the taints that also drive pods away.
var evicting = map[corev1.ConditionStatus]string{
	corev1.ConditionFalse:   corev1.TaintNodeNotReady,
	corev1.ConditionUnknown: corev1.TaintNodeUnreachable,
}

// conditionTaints lists the taints that follow from a node's conditions and spec. A node that has not reported
// yet keeps the not-ready taint it was admitted with.
func conditionTaints(node *corev1.Node, now metav1.Time) []corev1.Taint {
	var taints []corev1.Taint
	add := func(key string, effect corev1.TaintEffect) {
		taints = append(taints, corev1.Taint{Key: key, Effect: effect, TimeAdded: &now})
	}
	for _, row := range noSchedule {
		if c := condition(node, row.condition); c != nil && c.Status == row.status {
			add(row.taint, corev1.TaintEffectNoSchedule)
		}
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	ready := condition(node, corev1.NodeReady)
	switch {
	case ready == nil:
		for _, t := range node.Spec.Taints {
			if t.Key == corev1.TaintNodeNotReady {
				taints = append(taints, t)
			}
		}
	case evicting[ready.Status] != "":
		add(evicting[ready.Status], corev1.TaintEffectNoExecute)
	}
	return taints
}

// isOurs tells whether a taint is one that conditions decide about.
func isOurs(t corev1.Taint) bool {
	if t.Effect == corev1.TaintEffectNoExecute {
		return isEvicting(t)
	}
	if t.Effect != corev1.TaintEffectNoSchedule {
		return false
	}
	for _, row := range noSchedule {
		if row.taint == t.Key {
			return true
		}
	}
	return t.Key == corev1.TaintNodeUnschedulable
}

func isEvicting(t corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
}

// mergeTaints keeps all taints that others set and those of ours that are still wanted, and adds new ones.
func mergeTaints(has, wanted []corev1.Taint) []corev1.Taint {
	merged := []corev1.Taint{}
	for _, t := range has {
		if !isOurs(t) || containsTaint(wanted, t) {
			merged = append(merged, t)
		}
	}
	for _, t := range wanted {
		if !containsTaint(merged, t) {
			merged = append(merged, t)
		}
	}
	return merged
}

func containsTaint(taints []corev1.Taint, t corev1.Taint) bool {
	return slices.ContainsFunc(taints, func(o corev1.Taint) bool { return o.MatchTaint(&t) })
}

// pace limits how fast nodes are tainted in each zone: if many go at once the fault is rather elsewhere, and
// their pods are better left alone for a while.
type pace struct {
	mu   sync.Mutex
	next map[string]time.Time
}

func newPace() *pace { return &pace{next: map[string]time.Time{}} }

// allow tells whether one more node of a zone may be tainted now, in a cluster of so many nodes. If not, it tells
// when to ask again; 0 means when the census says so.
func (p *pace) allow(zone string, d disruption, nodes int, now time.Time) (ok bool, later time.Duration) {
	interval := 10 * time.Second
	switch d {
	case total:
		return false, 0
	case partial:
		if nodes <= smallCluster {
			return false, 0
		}
		interval = 100 * time.Second
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if wait := p.next[zone].Sub(now); wait > 0 {
		return false, wait
	}
	p.next[zone] = now.Add(interval)
	return true, 0
}
