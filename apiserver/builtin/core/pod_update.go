package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePodUpdate(obj, old *corev1.Pod) field.ErrorList { return nil }

func validateEphemeralContainersUpdate(obj, old *corev1.Pod) field.ErrorList { return nil }

func validateResize(obj, old *corev1.Pod) field.ErrorList { return nil }
