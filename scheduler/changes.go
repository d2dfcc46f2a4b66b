package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
)

// matters reports whether a change of a Node may change where pods fit. The
// kubelet's heartbeats do not.
func matters(old, n *corev1.Node) bool {
	return old.Spec.Unschedulable != n.Spec.Unschedulable ||
		!equality.Semantic.DeepEqual(old.Spec.Taints, n.Spec.Taints) ||
		!equality.Semantic.DeepEqual(old.Labels, n.Labels) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, n.Status.Allocatable) ||
		!equality.Semantic.DeepEqual(old.Status.Images, n.Status.Images)
}

// specChanged reports whether a pending pod may fit where it did not before:
// its labels, spec or nominated node changed, or gates were lifted.
func specChanged(old, pod *corev1.Pod) bool {
	if !maps.Equal(old.Labels, pod.Labels) {
		return true
	}
	if old.Generation != 0 && old.Generation == pod.Generation { // what changes a spec, but for its binding, counts it
		return old.Spec.NodeName != pod.Spec.NodeName
	}
	return !equality.Semantic.DeepEqual(old.Spec, pod.Spec)
}

// placementChanged reports whether a placed pod may make room or attract other
// pods by a change.
func placementChanged(old, pod *corev1.Pod) bool {
	return old.Spec.NodeName != pod.Spec.NodeName || specChanged(old, pod) ||
		!slices.EqualFunc(old.Status.ContainerStatuses, pod.Status.ContainerStatuses, func(a, b corev1.ContainerStatus) bool {
			return equality.Semantic.DeepEqual(a.AllocatedResources, b.AllocatedResources)
		})
}

// ownerSelector finds the pods that serve with a pod, by the Services that
// select it and the controller that owns it. The labels a controller gives its
// pods are those it selects by, so the pod's own labels stand for its selector.
func ownerSelector(factory informers.SharedInformerFactory) func(pod *corev1.Pod) labels.Selector {
	services := factory.Core().V1().Services().Lister()
	return func(pod *corev1.Pod) labels.Selector {
		set := labels.Set{}
		list, err := services.Services(pod.Namespace).List(labels.Everything())
		if err != nil {
			return nil
		}
		for _, service := range list {
			if len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				set = labels.Merge(set, service.Spec.Selector)
			}
		}
		if owner := metav1.GetControllerOf(pod); owner != nil && spreads(owner.Kind) {
			set = labels.Merge(set, pod.Labels)
		}
		if len(set) == 0 {
			return nil
		}
		return labels.SelectorFromSet(set)
	}
}

// spreads reports whether pods of a controller kind are spread by default.
func spreads(kind string) bool {
	return kind == "ReplicaSet" || kind == "ReplicationController" || kind == "StatefulSet"
}
