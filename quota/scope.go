package quota

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// inScopes reports whether obj is in all scopes of a quota, of which objects that know no scopes are in none.
func inScopes(q *corev1.ResourceQuotaSpec, obj runtime.Object) bool {
	for _, s := range Scopes(q) {
		if !InScope(obj, s) {
			return false
		}
	}
	return true
}

// InScope reports whether obj is in a scope. Objects other than pods and claims are in none.
func InScope(obj runtime.Object, s corev1.ScopedResourceSelectorRequirement) bool {
	switch o := obj.(type) {
	case *corev1.Pod:
		return podInScope(o, s)
	case *corev1.PersistentVolumeClaim:
		return claimInScope(o, s)
	}
	return false
}

// Scopes are the scopes of a quota in their general form.
func Scopes(q *corev1.ResourceQuotaSpec) []corev1.ScopedResourceSelectorRequirement {
	var list []corev1.ScopedResourceSelectorRequirement
	for _, name := range q.Scopes {
		list = append(list, corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: corev1.ScopeSelectorOpExists})
	}
	if q.ScopeSelector != nil {
		list = append(list, q.ScopeSelector.MatchExpressions...)
	}
	return list
}

func podInScope(pod *corev1.Pod, s corev1.ScopedResourceSelectorRequirement) bool {
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return Terminating(pod)
	case corev1.ResourceQuotaScopeNotTerminating:
		return !Terminating(pod)
	case corev1.ResourceQuotaScopeBestEffort:
		return BestEffort(pod)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !BestEffort(pod)
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(s, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod)
	}
	return false
}

// Terminating reports whether pod is in scope Terminating: it has a deadline.
func Terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

// BestEffort reports whether no container requests or is limited to anything.
func BestEffort(pod *corev1.Pod) bool {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass == corev1.PodQOSBestEffort
	}
	states := func(c corev1.Container) bool {
		return positive(c.Resources.Requests) || positive(c.Resources.Limits)
	}
	level := pod.Spec.Resources
	return !slices.ContainsFunc(slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers), states) &&
		(level == nil || !positive(level.Requests) && !positive(level.Limits))
}

func positive(list corev1.ResourceList) bool {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if quantity, ok := list[name]; ok && quantity.Sign() > 0 {
			return true
		}
	}
	return false
}

// selects evaluates a selector on the name of a class, which may be empty.
func selects(s corev1.ScopedResourceSelectorRequirement, class string) bool {
	switch s.Operator {
	case corev1.ScopeSelectorOpIn:
		return class != "" && slices.Contains(s.Values, class)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(s.Values, class) || class == ""
	case corev1.ScopeSelectorOpExists:
		return class != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return class == ""
	}
	return false
}

func crossesNamespaces(pod *corev1.Pod) bool {
	affinity := pod.Spec.Affinity
	if affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	weighted := func(list []corev1.WeightedPodAffinityTerm) {
		for _, t := range list {
			terms = append(terms, t.PodAffinityTerm)
		}
	}
	if a := affinity.PodAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}

// claimInScope knows the one scope claims have, that of volume attributes
// classes: wished for, being changed to, or had.
func claimInScope(claim *corev1.PersistentVolumeClaim, s corev1.ScopedResourceSelectorRequirement) bool {
	if s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false
	}
	var classes []string
	add := func(name *string) {
		if name != nil && *name != "" {
			classes = append(classes, *name)
		}
	}
	add(claim.Spec.VolumeAttributesClassName)
	add(claim.Status.CurrentVolumeAttributesClassName)
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	if len(classes) == 0 {
		return selects(s, "")
	}
	return slices.ContainsFunc(classes, func(class string) bool { return selects(s, class) })
}
