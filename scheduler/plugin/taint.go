package plugin

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// taintToleration keeps pods off nodes with taints they do not tolerate, and
// prefers nodes with few PreferNoSchedule taints.
func taintToleration(pod *Pod, _ *Snapshot) Check {
	return Check{
		Filter: func(n *Node) *Reason {
			for i := range n.Spec.Taints {
				taint := &n.Spec.Taints[i]
				if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Spec.Tolerations, taint) {
					return untolerated
				}
			}
			return nil
		},
		Score: func(n *Node) (taints int64) {
			for i := range n.Spec.Taints {
				taint := &n.Spec.Taints[i]
				if taint.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Spec.Tolerations, taint) {
					taints++
				}
			}
			return taints
		},
		Normalize: normalize(true),
	}
}

var untolerated = finallyBecause("node(s) had untolerated taint(s)")

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	return slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
		return t.ToleratesTaint(klog.Background(), taint, false)
	})
}
