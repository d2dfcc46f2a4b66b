package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/scheduling"
)

// priority turns the priority class of a pod into numbers, keeps default
// classes from multiplying, and the classes of the system from being deleted.
func priority() Plugin {
	return Plugin{Name: "Priority",
		Mutate: func(ctx context.Context, a *Attributes) error {
			if _, system := scheduling.System[a.Name]; system && a.Verb == remove && a.is(schedulingv1.GroupName, "priorityclasses") {
				return a.forbid("this is a system priority class and cannot be deleted")
			}
			pod, ok := a.New.(*corev1.Pod)
			switch {
			case !ok || !a.is("", "pods"):
				return nil
			case a.Verb == create:
				return setPriority(ctx, a, pod)
			case a.Verb == update:
				keepPriority(pod, a.Old.(*corev1.Pod))
			}
			return nil
		},
		Validate: func(ctx context.Context, a *Attributes) error {
			class, ok := a.New.(*schedulingv1.PriorityClass)
			if !ok || a.Subresource != "" || !class.GlobalDefault {
				return nil
			}
			current, err := defaultPriorityClass(ctx, a)
			if err != nil {
				return err
			}
			if current != nil && (a.Verb == create || current.Name != class.Name) {
				return a.forbid("PriorityClass %v is already marked as default. Only one default can exist", current.Name)
			}
			return nil
		},
	}
}

// keepPriority fills in what clients that know the fields not leave out.
func keepPriority(pod, old *corev1.Pod) {
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}

func setPriority(ctx context.Context, a *Attributes, pod *corev1.Pod) error {
	class, err := priorityClassOf(ctx, a, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	pod.Spec.PriorityClassName = class.Name
	if given := pod.Spec.Priority; given != nil && *given != class.Value {
		return a.forbid("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *given, class.Value)
	}
	pod.Spec.Priority = ptr.To(class.Value)
	if class.PreemptionPolicy == nil {
		return nil
	}
	if given := pod.Spec.PreemptionPolicy; given != nil && *given != *class.PreemptionPolicy {
		return a.forbid("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *given, *class.PreemptionPolicy)
	}
	pod.Spec.PreemptionPolicy = ptr.To(*class.PreemptionPolicy)
	return nil
}

// priorityClassOf finds the class a pod names or, if it names none, the default
// class or a nameless one of priority 0.
func priorityClassOf(ctx context.Context, a *Attributes, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" {
		class, err := defaultPriorityClass(ctx, a)
		if class == nil && err == nil {
			class = &schedulingv1.PriorityClass{PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority)}
		}
		return class, err
	}
	class, err := get[*schedulingv1.PriorityClass](ctx, a.Cluster, schedulingv1.GroupName, "priorityclasses", "", name)
	if apierrors.IsNotFound(err) {
		return nil, a.forbid("no PriorityClass with name %v was found", name)
	}
	if err != nil {
		return nil, fmt.Errorf("resolve PriorityClass with name %s: %w", name, err)
	}
	return class, nil
}

// defaultPriorityClass is the one marked as default; the least, should a race
// have made several.
func defaultPriorityClass(ctx context.Context, a *Attributes) (*schedulingv1.PriorityClass, error) {
	classes, err := list[*schedulingv1.PriorityClass](ctx, a.Cluster, schedulingv1.GroupName, "priorityclasses", "")
	if err != nil {
		return nil, fmt.Errorf("look up the default priority class: %w", err)
	}
	var least *schedulingv1.PriorityClass
	for _, c := range classes {
		if c.GlobalDefault && (least == nil || c.Value < least.Value) {
			least = c
		}
	}
	return least, nil
}
