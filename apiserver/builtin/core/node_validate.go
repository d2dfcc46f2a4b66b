package core

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

func validateNode(n, old *corev1.Node) field.ErrorList {
	errs := validateNodeAnnotations(n)
	errs = append(errs, validateTaints(n.Spec.Taints)...)
	errs = append(errs, validateNodeQuantities(n)...)
	if swap := n.Status.NodeInfo.Swap; swap != nil && swap.Capacity != nil && *swap.Capacity <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "nodeSwapStatus", "capacity"), *swap.Capacity, "must be greater than zero"))
	}
	errs = append(errs, validateDeclaredFeatures(n.Status.DeclaredFeatures)...)
	errs = append(errs, validatePodCIDRs(n)...)
	if old != nil {
		errs = append(errs, validateNodeUpdate(n, old)...)
	}
	return errs
}

// validateNodeAnnotations checks the annotation by which pods of old clusters
// were kept off nodes.
func validateNodeAnnotations(n *corev1.Node) field.ErrorList {
	value := n.Annotations[corev1.PreferAvoidPodsAnnotationKey]
	if value == "" {
		return nil
	}
	path := field.NewPath("metadata", "annotations")
	var avoid corev1.AvoidPods
	if err := json.Unmarshal([]byte(value), &avoid); err != nil {
		return field.ErrorList{field.Invalid(path.Child("AvoidPods"), corev1.PreferAvoidPodsAnnotationKey, err.Error())}
	}
	var errs field.ErrorList
	for i, a := range avoid.PreferAvoidPods {
		signature := path.Child("AvoidPods").Child(corev1.PreferAvoidPodsAnnotationKey).Index(i).Child("PodSignature")
		switch c := a.PodSignature.PodController; {
		case c == nil:
			errs = append(errs, field.Required(signature, ""))
		case c.Controller == nil || !*c.Controller:
			errs = append(errs, field.Invalid(signature.Child("PodController", "Controller"), c.Controller, "must point to a controller"))
		}
	}
	return errs
}

func validateTaints(taints []corev1.Taint) field.ErrorList {
	var errs field.ErrorList
	type key struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := make(map[key]bool)
	for i, t := range taints {
		path := field.NewPath("metadata", "taints").Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, path.Child("key"))...)
		for _, msg := range validation.IsValidLabelValue(t.Value) {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, msg))
		}
		errs = append(errs, check.OneOf(t.Effect, path.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		if k := (key{t.Key, t.Effect}); seen[k] {
			duplicate := field.Duplicate(path, podspec.Untagged(t))
			duplicate.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, duplicate)
		} else {
			seen[k] = true
		}
	}
	return errs
}

func validateNodeQuantities(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name string
		of   corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for name, quantity := range list.of {
			errs = append(errs, validateAmount(name, quantity, field.NewPath("status", list.name, string(name)))...)
		}
	}
	return errs
}

var declaredFeature = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

// validateDeclaredFeatures demands names of features in their order (KEP-5328).
func validateDeclaredFeatures(features []string) field.ErrorList {
	const form = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
	var errs field.ErrorList
	for i, name := range features {
		path := field.NewPath("status", "declaredFeatures").Index(i)
		switch {
		case len(name) > validation.DNS1123SubdomainMaxLength:
			errs = append(errs, field.Invalid(path, name, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", name, validation.DNS1123SubdomainMaxLength)))
		case !declaredFeature.MatchString(name):
			errs = append(errs, field.Invalid(path, name, fmt.Sprintf("invalid feature name %q: %s", name, form)))
		}
		switch {
		case i == 0 || features[i-1] < name:
		case features[i-1] == name:
			errs = append(errs, field.Duplicate(path, name))
		default:
			errs = append(errs, field.Invalid(path, name, "list must be sorted alphabetically"))
		}
	}
	return errs
}

func validatePodCIDRs(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	path, cidrs := field.NewPath("spec", "podCIDRs"), n.Spec.PodCIDRs
	for i, cidr := range cidrs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), cidr, true, nil)...)
	}
	if len(cidrs) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(cidrs)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
	}
	if !dual || len(cidrs) > 2 {
		errs = append(errs, field.Invalid(path, cidrs, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

// validateNodeUpdate serves the node and its status alike.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := append(validateNodeQuantities(n), validateDeclaredFeatures(n.Status.DeclaredFeatures)...)
	seen := make(map[corev1.NodeAddress]bool)
	for i, a := range n.Status.Addresses {
		if seen[a] {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), podspec.Untagged(a)))
		}
		seen[a] = true
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDRs"), `node updates may not change podCIDR except from "" to valid`))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "providerID"), `node updates may not change providerID except from "" to valid`))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "externalID"), "may not be updated"))
	}
	return append(errs, validateTaints(n.Spec.Taints)...)
}
