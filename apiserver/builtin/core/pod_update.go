package core

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// validatePodUpdate lets through the few changes of a pod's spec that nodes and
// schedulers can follow.
func validatePodUpdate(obj, old *corev1.Pod) field.ErrorList {
	errs := validatePodSpec(obj, old)
	errs = append(errs, validateAnnotationsUpdate(obj, old)...)
	for _, list := range []struct {
		name     string
		now, was []corev1.Container
	}{{"containers", obj.Spec.Containers, old.Spec.Containers}, {"initContainers", obj.Spec.InitContainers, old.Spec.InitContainers}} {
		path := podSpecPath.Child(list.name)
		if len(list.now) != len(list.was) {
			return append(errs, field.Forbidden(path, "pod updates may not add or remove containers"))
		}
		for i := range list.now {
			if list.now[i].Image == "" {
				errs = append(errs, field.Required(path.Index(i).Child("image"), ""))
			}
		}
		errs = append(errs, validateImages(list.now, path)...)
	}
	deadline, ok := validateDeadline(obj.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)
	errs = append(errs, deadline...)
	if !ok {
		return errs
	}
	errs = append(errs, validateTolerationsUpdate(obj.Spec.Tolerations, old.Spec.Tolerations)...)
	errs = append(errs, validateGatesUpdate(obj.Spec.SchedulingGates, old.Spec.SchedulingGates)...)
	if equality.Semantic.DeepEqual(obj.Spec, old.Spec) {
		return errs
	}
	rest, more := withoutMutable(obj, old)
	errs = append(errs, more...)
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(podSpecPath, "pod updates may not change fields other than "+mutableFields+"\n"+
			diff.Diff(podspec.Untagged(old.Spec), podspec.Untagged(*rest))))
	}
	return errs
}

const mutableFields = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validateImages rejects space around images, which templates may have.
func validateImages(containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range containers {
		if image := containers[i].Image; image != strings.TrimSpace(image) {
			errs = append(errs, field.Invalid(path.Index(i).Child("image"), image, "must not have leading or trailing whitespace"))
		}
	}
	return errs
}

// validateDeadline lets a deadline be set or come closer. ok is false where the
// API checks nothing further.
func validateDeadline(now, was *int64) (errs field.ErrorList, ok bool) {
	path := podSpecPath.Child("activeDeadlineSeconds")
	switch {
	case now == nil && was != nil:
		return field.ErrorList{field.Invalid(path, now, "must not update from a positive integer to nil value")}, true
	case now == nil:
		return nil, true
	case *now < 0 || *now > math.MaxInt32:
		return field.ErrorList{field.Invalid(path, *now, validation.InclusiveRangeError(0, math.MaxInt32))}, false
	case was != nil && *was < *now:
		return field.ErrorList{field.Invalid(path, *now, "must be less than or equal to previous value")}, false
	}
	return nil, true
}

// validateTolerationsUpdate lets tolerations be added, and their seconds change.
func validateTolerationsUpdate(now, was []corev1.Toleration) field.ErrorList {
	path := podSpecPath.Child("tolerations")
	for _, old := range was {
		kept := slices.ContainsFunc(now, func(t corev1.Toleration) bool {
			t.TolerationSeconds = old.TolerationSeconds
			return reflect.DeepEqual(t, old)
		})
		if !kept {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return podspec.ValidateTolerations(now, path)
}

// validateGatesUpdate lets scheduling gates only be taken away.
func validateGatesUpdate(now, was []corev1.PodSchedulingGate) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range now {
		if !slices.Contains(was, gate) {
			errs = append(errs, field.Forbidden(podSpecPath.Child("schedulingGates").Index(i).Child("name"),
				fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name)))
		}
	}
	return errs
}

// withoutMutable is the new spec with everything put back that may change, and
// what is wrong with those changes that are restricted.
func withoutMutable(obj, old *corev1.Pod) (*corev1.PodSpec, field.ErrorList) {
	var errs field.ErrorList
	s, was := obj.Spec.DeepCopy(), &old.Spec
	for i := range s.Containers {
		s.Containers[i].Image = was.Containers[i].Image
	}
	for i := range s.InitContainers {
		s.InitContainers[i].Image = was.InitContainers[i].Image
	}
	s.ActiveDeadlineSeconds = was.ActiveDeadlineSeconds
	s.SchedulingGates, s.Tolerations = was.SchedulingGates, was.Tolerations
	if len(was.SchedulingGates) == 0 {
		return s, nil
	}
	// Where a pod may run can still be narrowed while it waits (KEP 3838).
	for key, value := range was.NodeSelector {
		if now, ok := s.NodeSelector[key]; !ok || now != value {
			errs = append(errs, field.Invalid(podSpecPath.Child("nodeSelector"), maps.Clone(s.NodeSelector), "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	s.NodeSelector = was.NodeSelector
	var now, before *corev1.NodeAffinity
	if s.Affinity != nil {
		now = s.Affinity.NodeAffinity
	}
	if was.Affinity != nil {
		before = was.Affinity.NodeAffinity
	}
	if equality.Semantic.DeepEqual(now, before) {
		return s, errs
	}
	errs = append(errs, validateNodeAffinityUpdate(now, before)...)
	switch {
	case s.Affinity == nil:
		s.Affinity = &corev1.Affinity{NodeAffinity: before}
	case was.Affinity == nil && s.Affinity.PodAffinity == nil && s.Affinity.PodAntiAffinity == nil:
		s.Affinity = nil
	default:
		s.Affinity.NodeAffinity = before
	}
	return s, errs
}

// validateNodeAffinityUpdate lets required terms only get further requirements.
func validateNodeAffinityUpdate(now, was *corev1.NodeAffinity) field.ErrorList {
	if was == nil || was.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	path := podSpecPath.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	oldTerms := was.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var terms []corev1.NodeSelectorTerm
	if now != nil && now.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(oldTerms) > 0 && len(oldTerms) != len(terms) {
		return field.ErrorList{field.Invalid(path, podspec.Untagged(terms), "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range oldTerms {
		if !onlyAdds(&terms[i], &oldTerms[i]) {
			errs = append(errs, field.Invalid(path.Index(i), podspec.Untagged(terms[i]), "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

// onlyAdds reports whether a term begins with all requirements of the old one.
// An empty term matches nothing and must stay empty.
func onlyAdds(now, was *corev1.NodeSelectorTerm) bool {
	if len(was.MatchExpressions) == 0 && len(was.MatchFields) == 0 {
		return len(now.MatchExpressions) == 0 && len(now.MatchFields) == 0
	}
	begins := func(list, with []corev1.NodeSelectorRequirement) bool {
		return len(list) >= len(with) && (len(with) == 0 || equality.Semantic.DeepEqual(list[:len(with)], with))
	}
	return begins(now.MatchExpressions, was.MatchExpressions) && begins(now.MatchFields, was.MatchFields)
}

// validateAnnotationsUpdate guards the annotations that are part of what a node
// runs.
func validateAnnotationsUpdate(obj, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	forbid := func(key, appArmor, mirror string) {
		switch {
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			errs = append(errs, field.Forbidden(annotationsPath.Key(key), appArmor))
		case key == corev1.MirrorPodAnnotationKey:
			errs = append(errs, field.Forbidden(annotationsPath.Key(key), mirror))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(old.Annotations)) {
		if now, ok := obj.Annotations[key]; !ok || now != old.Annotations[key] {
			forbid(key, "may not remove or update AppArmor annotations", "may not remove or update mirror pod annotation")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(obj.Annotations)) {
		if _, ok := old.Annotations[key]; !ok {
			forbid(key, "may not add AppArmor annotations", "may not add mirror pod annotation")
		}
	}
	return append(errs, podspec.ValidatePodAnnotations(obj.Annotations, &obj.Spec, annotationsPath, podspec.OptionsForPod(old))...)
}

// validateEphemeralContainersUpdate lets ephemeral containers only be added.
func validateEphemeralContainersUpdate(obj, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := validatePodSpec(obj, old)
	errs = append(errs, validateAnnotationsUpdate(obj, old)...)
	path := podSpecPath.Child("ephemeralContainers")
	for _, was := range old.Spec.EphemeralContainers {
		i := slices.IndexFunc(obj.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == was.Name })
		if i < 0 {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
			continue
		}
		if now := obj.Spec.EphemeralContainers[i]; !equality.Semantic.DeepEqual(was, now) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v",
				was.Name, diff.Diff(podspec.Untagged(was), podspec.Untagged(now)))))
		}
	}
	return errs
}
