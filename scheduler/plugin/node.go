package plugin

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// nodeUnschedulable keeps pods off cordoned nodes.
func nodeUnschedulable(pod *Pod, _ *Snapshot) Check {
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if tolerates(pod.Spec.Tolerations, &cordon) {
		return Check{}
	}
	return Check{Filter: func(n *Node) *Reason {
		if n.Spec.Unschedulable {
			return finallyBecause("node(s) were unschedulable")
		}
		return nil
	}}
}

// nodeName honours a node the pod names itself.
func nodeName(pod *Pod, _ *Snapshot) Check {
	if pod.Spec.NodeName == "" {
		return Check{}
	}
	return Check{Filter: func(n *Node) *Reason {
		if pod.Spec.NodeName != n.Name {
			return finallyBecause("node(s) didn't match the requested node name")
		}
		return nil
	}}
}

// nodeAffinity matches the pod's node selector and node affinity.
func nodeAffinity(pod *Pod, _ *Snapshot) Check {
	var check Check
	affinity := pod.Spec.Affinity
	hasAffinity := affinity != nil && affinity.NodeAffinity != nil
	if len(pod.Spec.NodeSelector) > 0 || hasAffinity && affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
		check.Filter = func(n *Node) *Reason {
			if ok, err := required.Match(n.Node); err != nil || !ok {
				return finallyBecause("node(s) didn't match Pod's node affinity/selector")
			}
			return nil
		}
	}
	if hasAffinity && len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		preferred, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return check
		}
		check.Score = func(n *Node) int64 { return preferred.Score(n.Node) }
		check.Normalize = normalize(false)
	}
	return check
}

// Image sizes between which the score of imageLocality rises.
const (
	smallImage = 23 * 1024 * 1024
	largeImage = 1000 * 1024 * 1024
)

// imageLocality prefers nodes that have the pod's images already; an image that
// few nodes have counts less, so that pods do not all gather where it is.
func imageLocality(pod *Pod, s *Snapshot) Check {
	images := make(map[string]bool)
	for _, c := range pod.Spec.Containers {
		images[c.Image] = true
	}
	having := make(map[string]int64)
	for _, n := range s.Nodes {
		for _, image := range n.Status.Images {
			for _, name := range image.Names {
				if images[name] {
					having[name]++
				}
			}
		}
	}
	if len(having) == 0 {
		return Check{}
	}
	return Check{Score: func(n *Node) int64 {
		var sum int64
		for _, image := range n.Status.Images {
			for _, name := range image.Names {
				if images[name] {
					sum += image.SizeBytes * having[name] / int64(len(s.Nodes))
				}
			}
		}
		least, most := int64(smallImage), int64(largeImage*len(pod.Spec.Containers))
		return (min(max(sum, least), most) - least) * MaxScore / (most - least)
	}}
}
