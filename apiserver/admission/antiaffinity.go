package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// limitPodHardAntiAffinityTopology keeps pods from shutting others out of more than a node.
func limitPodHardAntiAffinityTopology() Plugin {
	return Plugin{Name: "LimitPodHardAntiAffinityTopology", Validate: func(_ context.Context, a *Attributes) error {
		pod := writtenPod(a)
		if pod == nil || pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
			return nil
		}
		for _, term := range pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			if term.TopologyKey != corev1.LabelHostname {
				return refusePod(a, pod, fmt.Sprintf("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey %v but only key %v is allowed", term.TopologyKey, corev1.LabelHostname))
			}
		}
		return nil
	}}
}
