package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// taintNodesByCondition taints new nodes as not ready, so that no pod is put
// there before a controller has seen that they are.
func taintNodesByCondition() Plugin {
	return Plugin{Name: "TaintNodesByCondition", Mutate: func(_ context.Context, a *Attributes) error {
		node, ok := a.New.(*corev1.Node)
		if !ok || a.Verb != create || !a.is("", "nodes") {
			return nil
		}
		notReady := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
		if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&notReady) }) {
			node.Spec.Taints = append(node.Spec.Taints, notReady)
		}
		return nil
	}}
}
