package plugin

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
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
			return cordoned
		}
		return nil
	}}
}

var cordoned = finallyBecause("node(s) were unschedulable")

// nodeName honours a node the pod names itself.
func nodeName(pod *Pod, _ *Snapshot) Check {
	if pod.Spec.NodeName == "" {
		return Check{}
	}
	return Check{Filter: func(n *Node) *Reason {
		if pod.Spec.NodeName != n.Name {
			return otherName
		}
		return nil
	}}
}

// namedNodes leaves the nodes that the pod's node affinity names, as that of a
// DaemonSet's pod does: no other rule is asked about the others.
func namedNodes(pod *Pod, _ *Snapshot) Check {
	names, named := affinityNames(pod.Pod)
	switch {
	case !named:
		return Check{}
	case len(names) == 0:
		return Check{Never: "pod affinity terms conflict"}
	}
	return Check{Only: names, Filter: func(n *Node) *Reason {
		if !names.Has(n.Name) {
			return NotNamed
		}
		return nil
	}}
}

// Why nodes cannot take a pod that names its nodes.
var (
	otherName = finallyBecause("node(s) didn't match the requested node name")
	// NotNamed is why a pod with Checks.Only goes to none but those.
	NotNamed = finallyBecause("node(s) didn't satisfy plugin(s) [NodeAffinity]")
)

// affinityNames are the nodes by whose names every term of the pod's required
// node affinity selects; named is false if a term selects otherwise.
func affinityNames(pod *corev1.Pod) (names sets.Set[string], named bool) {
	affinity := pod.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil, false
	}
	for _, term := range affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		var ofTerm sets.Set[string]
		for _, r := range term.MatchFields {
			if r.Key != metav1.ObjectNameField || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if ofTerm == nil {
				ofTerm = sets.New(r.Values...)
			}
			ofTerm = ofTerm.Intersection(sets.New(r.Values...))
		}
		if ofTerm == nil {
			return nil, false
		}
		names, named = names.Union(ofTerm), true
	}
	return names, named
}

// nodeAffinity matches the pod's node selector and node affinity.
func nodeAffinity(pod *Pod, s *Snapshot) Check {
	var check Check
	if pod.where != "" {
		selects := selects(pod, s)
		check.Filter = func(n *Node) *Reason {
			if !selects(n) {
				return notSelected
			}
			return nil
		}
	}
	affinity := pod.Spec.Affinity
	if affinity != nil && affinity.NodeAffinity != nil && len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		preferred, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		if err != nil {
			return check
		}
		check.Score = func(n *Node) int64 { return preferred.Score(n.Node) }
		check.Normalize = normalize(false)
	}
	return check
}

var notSelected = finallyBecause("node(s) didn't match Pod's node affinity/selector")

// selects tells which nodes pod selects. If it names them, as no other pod does, that is not worth keeping.
func selects(pod *Pod, s *Snapshot) func(n *Node) bool {
	if _, named := affinityNames(pod.Pod); named {
		required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
		return func(n *Node) bool { return matches(required, n) }
	}
	return s.selected(pod).has
}

// Image sizes between which the score of imageLocality rises.
const (
	smallImage = 23 * 1024 * 1024
	largeImage = 1000 * 1024 * 1024
)

// imageLocality prefers nodes that have the pod's images already; an image that
// few nodes have counts less, so that pods do not all gather where it is.
func imageLocality(pod *Pod, s *Snapshot) Check {
	uses := imagesOf(pod.Spec)
	maps.DeleteFunc(uses, func(name string, _ int64) bool { return s.images[name] == 0 })
	if len(uses) == 0 {
		return Check{}
	}
	return Check{Score: func(n *Node) int64 {
		var sum int64
		for name, times := range uses {
			sum += times * (n.images[name] * s.images[name] / int64(len(s.Nodes)))
		}
		containers := len(pod.Spec.InitContainers) + len(pod.Spec.Containers)
		least, most := int64(smallImage), int64(largeImage*containers)
		return (min(max(sum, least), most) - least) * MaxScore / (most - least)
	}}
}

// imagesOf counts how often a pod uses each image, as containers and volumes,
// under the full names that nodes report: those without a tag mean latest.
func imagesOf(spec corev1.PodSpec) map[string]int64 {
	uses := make(map[string]int64)
	use := func(image string) {
		if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
			image += ":latest"
		}
		uses[image]++
	}
	for _, c := range spec.InitContainers {
		use(c.Image)
	}
	for _, c := range spec.Containers {
		use(c.Image)
	}
	for _, v := range spec.Volumes {
		if v.Image != nil {
			use(v.Image.Reference)
		}
	}
	return uses
}
