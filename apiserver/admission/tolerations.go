package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// tolerated is for how many seconds pods stay on a node that is not ready or not reachable if nothing is said of it.
const tolerated = 300

// defaultTolerationSeconds lets pods stay on such a node for a time that was chosen, unless they say otherwise about it themselves.
func defaultTolerationSeconds(c Choice) Plugin {
	stay := map[string]int64{corev1.TaintNodeNotReady: ptr.Deref(c.NotReadySeconds, tolerated), corev1.TaintNodeUnreachable: ptr.Deref(c.UnreachableSeconds, tolerated)}
	return Plugin{Name: "DefaultTolerationSeconds", Mutate: func(_ context.Context, a *Attributes) error {
		pod, ok := a.New.(*corev1.Pod)
		if !ok || !a.is("", "pods") || a.Verb != create && a.Verb != update {
			return nil
		}
		given := pod.Spec.Tolerations
		for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			mentions := func(t corev1.Toleration) bool {
				return (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
			}
			if !slices.ContainsFunc(given, mentions) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
					Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(stay[taint]),
				})
			}
		}
		return nil
	}}
}
