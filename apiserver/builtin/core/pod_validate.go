package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

var (
	podSpecPath     = field.NewPath("spec")
	podStatusPath   = field.NewPath("status")
	annotationsPath = field.NewPath("metadata", "annotations")
)

func validatePod(obj, old *corev1.Pod) field.ErrorList {
	if old != nil {
		return validatePodUpdate(obj, old)
	}
	errs := validatePodSpec(obj, nil)
	if len(obj.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(podSpecPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if obj.Spec.NodeName != "" && len(obj.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(podSpecPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, podspec.ProfilesMatch(obj.Annotations, &obj.Spec, podSpecPath)...)
}

// validatePodSpec checks what a pod must be at any time.
func validatePodSpec(obj, old *corev1.Pod) field.ErrorList {
	opts := podspec.OptionsForPod(old)
	errs := podspec.ValidatePodAnnotations(obj.Annotations, &obj.Spec, annotationsPath, opts)
	errs = append(errs, podspec.ValidateSpec(&obj.Spec, &obj.ObjectMeta, podSpecPath, opts)...)
	if obj.Spec.ServiceAccountName == "" {
		errs = append(errs, forbidTokens(obj.Spec.Volumes)...)
	}
	errs = append(errs, validateImages(obj.Spec.Containers, podSpecPath.Child("containers"))...)
	return append(errs, validateImages(obj.Spec.InitContainers, podSpecPath.Child("initContainers"))...)
}

// forbidTokens rejects tokens of a service account that is not named.
func forbidTokens(volumes []corev1.Volume) field.ErrorList {
	var errs field.ErrorList
	for i := range volumes {
		if volumes[i].Projected == nil {
			continue
		}
		for k, source := range volumes[i].Projected.Sources {
			if source.ServiceAccountToken != nil {
				path := podSpecPath.Child("volumes").Index(i).Child("projected", "sources").Index(k).Child("serviceAccountToken")
				errs = append(errs, field.Forbidden(path, "must not be specified when serviceAccountName is not set"))
			}
		}
	}
	return errs
}

// warnPod warns on create only: after that it is machines that write pods.
func warnPod(obj, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	var warnings []string
	if msgs := validation.IsDNS1123Label(obj.Name); len(msgs) > 0 {
		warnings = append(warnings, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	return append(warnings, podspec.WarnPod(obj)...)
}
