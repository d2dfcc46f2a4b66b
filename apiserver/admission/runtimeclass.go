package admission

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// runtimeClass gives pods the overhead and the scheduling constraints of their
// runtime class (KEP-688).
func runtimeClass() Plugin {
	return Plugin{Name: "RuntimeClass",
		Mutate: func(ctx context.Context, a *Attributes) error {
			pod := a.newPod()
			if pod == nil {
				return nil
			}
			class, err := runtimeClassOf(ctx, a, pod)
			if err != nil || class == nil {
				return err
			}
			if class.Overhead != nil {
				if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
					return a.forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
				}
				pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
			}
			return constrain(a, pod, class.Scheduling)
		},
		Validate: func(ctx context.Context, a *Attributes) error {
			pod := a.newPod()
			if pod == nil {
				return nil
			}
			class, err := runtimeClassOf(ctx, a, pod)
			switch {
			case err != nil:
				return err
			case class != nil && class.Overhead != nil:
				if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
					return a.forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
				}
			case pod.Spec.Overhead != nil:
				return a.forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
			}
			return nil
		},
	}
}

func runtimeClassOf(ctx context.Context, a *Attributes, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	if pod.Spec.RuntimeClassName == nil {
		return nil, nil
	}
	class, err := get[*nodev1.RuntimeClass](ctx, a.Cluster, nodev1.GroupName, "runtimeclasses", "", *pod.Spec.RuntimeClassName)
	if apierrors.IsNotFound(err) {
		return nil, a.forbid("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName)
	}
	return class, err
}

// constrain adds node selector and tolerations of a runtime class.
func constrain(a *Attributes, pod *corev1.Pod, s *nodev1.Scheduling) error {
	if s == nil {
		return nil
	}
	for key, value := range s.NodeSelector {
		if given, ok := pod.Spec.NodeSelector[key]; ok && given != value {
			return a.forbid("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, given)
		}
	}
	if pod.Spec.NodeSelector == nil {
		pod.Spec.NodeSelector = make(map[string]string)
	}
	maps.Copy(pod.Spec.NodeSelector, s.NodeSelector)
	for _, t := range s.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(have corev1.Toleration) bool { return covers(have, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, *t.DeepCopy())
		}
	}
	return nil
}

// covers reports whether a pod that has toleration a gains nothing by b.
func covers(a, b corev1.Toleration) bool {
	if equality.Semantic.DeepEqual(a, b) {
		return true
	}
	sameKey := a.Key == b.Key || a.Key == "" && a.Operator == corev1.TolerationOpExists
	sameEffect := a.Effect == b.Effect || a.Effect == ""
	longer := a.TolerationSeconds == nil || b.TolerationSeconds != nil && *a.TolerationSeconds >= *b.TolerationSeconds
	sameValue := a.Operator == corev1.TolerationOpExists || b.Operator != corev1.TolerationOpExists && a.Operator == b.Operator && a.Value == b.Value
	return sameKey && sameEffect && longer && sameValue
}
