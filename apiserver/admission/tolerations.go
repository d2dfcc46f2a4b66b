package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// defaultTolerationSeconds lets pods stay five minutes on a node that is not
// ready or not reachable, unless they say otherwise about it themselves.
func defaultTolerationSeconds() Plugin {
	const seconds = 300
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
					Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(seconds)),
				})
			}
		}
		return nil
	}}
}
