package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

func preparePod(obj, old *corev1.Pod) {
	podspec.DropDisabled(&obj.Spec)
	if old != nil {
		obj.Status = old.Status
		return
	}
	obj.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qosClass(&obj.Spec)}
	if len(obj.Spec.SchedulingGates) > 0 {
		obj.Status.Conditions = []corev1.PodCondition{{
			Type:               corev1.PodScheduled,
			Status:             corev1.ConditionFalse,
			Reason:             corev1.PodReasonSchedulingGated,
			Message:            "Scheduling is blocked due to non-empty scheduling gates",
			LastTransitionTime: metav1.Now(),
		}}
	}
	mergeLabelKeys(obj)
	appArmorFields(obj)
}

// mergeLabelKeys turns matchLabelKeys and mismatchLabelKeys of a new pod into
// requirements of the selectors they belong to, with the pod's own values.
func mergeLabelKeys(p *corev1.Pod) {
	if a := p.Spec.Affinity; a != nil {
		var terms []*corev1.PodAffinityTerm
		if a.PodAffinity != nil {
			terms = append(terms, podTerms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)...)
		}
		if a.PodAntiAffinity != nil {
			terms = append(terms, podTerms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)...)
		}
		for _, t := range terms {
			requireLabels(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn, p.Labels)
			requireLabels(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, p.Labels)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		requireLabels(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, p.Labels)
	}
}

func podTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) []*corev1.PodAffinityTerm {
	var terms []*corev1.PodAffinityTerm
	for i := range required {
		terms = append(terms, &required[i])
	}
	for i := range preferred {
		terms = append(terms, &preferred[i].PodAffinityTerm)
	}
	return terms
}

// requireLabels adds one requirement per key that labels has. A nil selector
// selects nothing and stays so.
func requireLabels(s *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator, labels map[string]string) {
	if s == nil {
		return
	}
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
}

// appArmorFields copies the old AppArmor annotations of a new pod to the fields
// that replaced them, where those are not set.
func appArmorFields(p *corev1.Pod) {
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return
	}
	var podProfile *corev1.AppArmorProfile
	if p.Spec.SecurityContext != nil {
		podProfile = p.Spec.SecurityContext.AppArmorProfile
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := &list[i]
			annotation, ok := p.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
			if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
				continue
			}
			profile := podspec.AppArmorProfile(annotation)
			if profile == nil || padded(profile) || equality.Semantic.DeepEqual(profile, podProfile) {
				continue
			}
			if c.SecurityContext == nil {
				c.SecurityContext = &corev1.SecurityContext{}
			}
			c.SecurityContext.AppArmorProfile = profile
		}
	}
}

// padded reports a name with space around it, which no profile can have.
func padded(p *corev1.AppArmorProfile) bool {
	return p.LocalhostProfile != nil && *p.LocalhostProfile != strings.TrimSpace(*p.LocalhostProfile)
}

// preparePodStatus lets only the status through, and keeps of it what old
// kubelets drop: the class and the observed generations.
func preparePodStatus(obj, old *corev1.Pod) {
	obj.Spec = old.Spec
	obj.DeletionTimestamp = old.DeletionTimestamp
	obj.OwnerReferences = old.OwnerReferences
	dropDisabledStatus(&obj.Status)
	if obj.Status.QOSClass == "" {
		obj.Status.QOSClass = old.Status.QOSClass
	}
	if obj.Status.ObservedGeneration == 0 {
		obj.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
	seen := map[corev1.PodConditionType][]int64{} // a type may occur more than once
	for _, c := range old.Status.Conditions {
		seen[c.Type] = append(seen[c.Type], c.ObservedGeneration)
	}
	for i := range obj.Status.Conditions {
		c := &obj.Status.Conditions[i]
		if before := seen[c.Type]; len(before) > 0 {
			seen[c.Type] = before[1:]
			if c.ObservedGeneration == 0 {
				c.ObservedGeneration = before[0]
			}
		}
	}
}

// dropDisabledStatus removes what belongs to features that are off by default
// in this version.
func dropDisabledStatus(s *corev1.PodStatus) {
	s.NodeAllocatableResourceClaimStatuses = nil
	for _, list := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			for k := range list[i].VolumeMounts {
				list[i].VolumeMounts[k].VolumeStatus = nil
			}
		}
	}
}

// prepareEphemeralContainers lets only ephemeral containers through.
func prepareEphemeralContainers(obj, old *corev1.Pod) {
	podspec.DropDisabled(&obj.Spec)
	added := obj.Spec.EphemeralContainers
	obj.Spec, obj.Status = old.Spec, old.Status
	keepMeta(obj, old)
	obj.Spec.EphemeralContainers = added
}

// prepareResize lets only resources and resize policies of containers through.
// Where the containers are others than before nothing is put back: validation
// rejects that.
func prepareResize(obj, old *corev1.Pod) {
	if len(obj.Spec.Containers) != len(old.Spec.Containers) || len(obj.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return
	}
	containers := resized(obj.Spec.Containers, old.Spec.Containers)
	initContainers := resized(obj.Spec.InitContainers, old.Spec.InitContainers)
	resources := obj.Spec.Resources
	obj.Spec, obj.Status = old.Spec, old.Status
	keepMeta(obj, old)
	obj.Spec.Containers, obj.Spec.InitContainers = containers, initContainers
	obj.Spec.Resources = resources
}

func resized(containers, old []corev1.Container) []corev1.Container {
	if len(containers) == 0 {
		return containers
	}
	merged := make([]corev1.Container, len(old))
	copy(merged, old)
	for i := range containers {
		if containers[i].Name != old[i].Name {
			return containers
		}
		merged[i].Resources = containers[i].Resources
		merged[i].ResizePolicy = containers[i].ResizePolicy
	}
	return merged
}

// keepMeta puts back the metadata that subresources of the spec may not change.
func keepMeta(obj, old *corev1.Pod) {
	obj.DeletionTimestamp = old.DeletionTimestamp
	obj.Labels, obj.Annotations = old.Labels, old.Annotations
	obj.Finalizers, obj.OwnerReferences = old.Finalizers, old.OwnerReferences
}
