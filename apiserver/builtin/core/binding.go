package core

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// binding is pods/binding: the scheduler's word where a pod runs.
func binding() resource.Subresource[corev1.Pod] {
	return resource.Subresource[corev1.Pod]{
		Name: "binding", Kind: corev1.SchemeGroupVersion.WithKind("Binding"),
		NewBody: func() runtime.Object { return &corev1.Binding{} },
		Create: func(ctx context.Context, c resource.Call, body runtime.Object) (runtime.Object, error) {
			b, ok := body.(*corev1.Binding)
			if !ok {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", body))
			}
			if b.Name != c.Name {
				return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
			}
			if err := bind(ctx, c, b); err != nil {
				return nil, err
			}
			return &metav1.Status{Status: metav1.StatusSuccess}, nil
		},
	}
}

// bindings is the same at /api/v1/namespaces/…/bindings, for old clients.
func bindings() *resource.Resource {
	return resource.Define[metav1.List](resource.Definition[corev1.Binding]{
		Version: "v1", Kind: "Binding", Plural: "bindings", Verbs: []string{"create"},
		Review: func(ctx context.Context, c resource.Call, b *corev1.Binding) (*corev1.Binding, error) {
			return b, bind(ctx, c, b)
		},
	})
}

func bind(ctx context.Context, c resource.Call, b *corev1.Binding) error {
	if errs := validateBinding(b); len(errs) > 0 {
		return errs.ToAggregate()
	}
	_, err := c.Cluster.Update(ctx, c.Cluster.Resource("", "pods"), c.Namespace, b.Name, c.DryRun, func(obj resource.Object) error {
		return assign(obj.(*corev1.Pod), b)
	})
	return err
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	target := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(target.Child("name"), ""))
	}
	return errs
}

// assign puts pod on the node of b. Every refusal is a conflict, after which a
// scheduler looks at the pod anew.
func assign(pod *corev1.Pod, b *corev1.Binding) error {
	conflict := func(resource, format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: resource}, pod.Name, fmt.Errorf(format, args...))
	}
	refuse := func(format string, args ...any) error { return conflict("pods/binding", format, args...) }
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return conflict("pods", "Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return conflict("pods", "Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)
	case pod.DeletionTimestamp != nil:
		return refuse("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return refuse("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return refuse("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = b.Target.Name
	pod.Status.NominatedNodeName = ""
	pod.Annotations = merge(pod.Annotations, b.Annotations)
	pod.Labels = merge(pod.Labels, b.Labels)
	setPodCondition(&pod.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	return nil
}

func merge(into, from map[string]string) map[string]string {
	if len(from) == 0 {
		return into
	}
	if into == nil {
		into = make(map[string]string, len(from))
	}
	maps.Copy(into, from)
	return into
}

// setPodCondition replaces the condition of the same type, and keeps its time
// if its status did not change.
func setPodCondition(status *corev1.PodStatus, condition corev1.PodCondition) {
	condition.LastTransitionTime = metav1.Now()
	for i := range status.Conditions {
		c := &status.Conditions[i]
		if c.Type != condition.Type {
			continue
		}
		if c.Status == condition.Status {
			condition.LastTransitionTime = c.LastTransitionTime
		}
		*c = condition
		return
	}
	status.Conditions = append(status.Conditions, condition)
}
