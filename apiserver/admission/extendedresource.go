package admission

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// extendedResourceToleration lets pods that request an extended resource onto nodes that are tainted with its name.
func extendedResourceToleration() Plugin {
	return Plugin{Name: "ExtendedResourceToleration", Mutate: func(_ context.Context, a *Attributes) error {
		pod := writtenPod(a)
		if pod == nil {
			return nil
		}
		requested := make(map[string]bool)
		for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
			for name := range c.Resources.Requests {
				if podspec.IsExtended(name) {
					requested[string(name)] = true
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(requested)) {
			t := corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
			if i := slices.IndexFunc(pod.Spec.Tolerations, func(other corev1.Toleration) bool { return t.MatchToleration(&other) }); i >= 0 {
				pod.Spec.Tolerations[i] = t
				continue
			}
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
		return nil
	}}
}
