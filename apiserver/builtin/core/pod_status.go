package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePodStatus(obj, old *corev1.Pod) field.ErrorList { return nil }

func warnPodStatus(obj, old *corev1.Pod) []string { return nil }
