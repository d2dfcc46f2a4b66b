package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

func validatePod(obj, old *corev1.Pod) field.ErrorList {
	if old != nil {
		return validatePodUpdate(obj, old)
	}
	return podspec.ValidateSpec(&obj.Spec, &obj.ObjectMeta, field.NewPath("spec"), podspec.Options{Pod: true})
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
