package core

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var (
	evictionKind = policyv1.SchemeGroupVersion.WithKind("Eviction")
	budgetGroup  = schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudget"}
)

// evictionSubresource is pods/eviction: a deletion that asks the pod's
// disruption budget first.
func evictionSubresource() resource.Subresource[corev1.Pod] {
	return resource.Subresource[corev1.Pod]{
		Name: "eviction", Kind: evictionKind,
		NewBody: func() runtime.Object { return &policyv1.Eviction{} },
		Convert: map[schema.GroupVersion]func(runtime.Object) runtime.Object{
			policyv1beta1.SchemeGroupVersion: func(body runtime.Object) runtime.Object {
				e := (*policyv1.Eviction)(body.(*policyv1beta1.Eviction))
				e.SetGroupVersionKind(evictionKind)
				return e
			},
		},
		Create: func(ctx context.Context, c resource.Call, body runtime.Object) (runtime.Object, error) {
			e, ok := body.(*policyv1.Eviction)
			if !ok {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", body))
			}
			options, err := evictionOptions(c, e)
			if err != nil {
				return nil, err
			}
			return evict(ctx, c, options)
		},
	}
}

// evictionOptions are the options of the deletion; dry run may be asked for in
// the URL or in the body.
func evictionOptions(c resource.Call, e *policyv1.Eviction) (*metav1.DeleteOptions, error) {
	if e.Name != c.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	options := e.DeleteOptions.DeepCopy()
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if ptr.Deref(options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return nil, apierrors.NewInvalid(evictionKind.GroupKind(), c.Name, field.ErrorList{
			field.Invalid(field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential"), true, "can not be set for pod eviction, try after removing the option")})
	}
	var asked []string
	if c.DryRun {
		asked = []string{metav1.DryRunAll}
	}
	if len(options.DryRun) > 0 && len(asked) > 0 && !slices.Equal(options.DryRun, asked) {
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", asked, options.DryRun)
	}
	if len(options.DryRun) == 0 {
		options.DryRun = asked
	}
	return options, nil
}

// evictions is how often an eviction starts over when the pod changes under it.
const evictions = 20

func evict(ctx context.Context, c resource.Call, options *metav1.DeleteOptions) (runtime.Object, error) {
	fixed := options.Preconditions != nil && options.Preconditions.ResourceVersion != nil
	for try := 1; ; try++ {
		err := evictOnce(ctx, c, options.DeepCopy(), fixed)
		if status, ok := err.(*moreThanOneBudget); ok {
			return status.answer(), nil
		}
		if err == nil {
			return &metav1.Status{Status: metav1.StatusSuccess}, nil
		}
		if !apierrors.IsConflict(err) || fixed || try == evictions {
			return nil, err
		}
	}
}

func evictOnce(ctx context.Context, c resource.Call, options *metav1.DeleteOptions, fixed bool) error {
	obj, err := c.Cluster.Get(ctx, c.Resource, c.Namespace, c.Name)
	if err != nil {
		return err
	}
	pod := obj.(*corev1.Pod)
	unguarded := pod.Status.Phase == corev1.PodPending
	if !unguarded && !finished(pod) && pod.DeletionTimestamp == nil {
		var budget *policyv1.PodDisruptionBudget
		if budget, err = budgetOf(ctx, c.Cluster, pod); err != nil {
			return err
		}
		if budget != nil {
			unguarded = unhealthyMayGo(pod, budget)
		}
		if budget != nil && !unguarded {
			if err := spend(ctx, c.Cluster, budget, pod, len(options.DryRun) > 0); err != nil {
				return err
			}
		}
	}
	// A pod that may go because it is not ready must not have become so.
	if unguarded && !fixed {
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		options.Preconditions.ResourceVersion = &pod.ResourceVersion
	}
	return markAndDelete(ctx, c, options)
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// unhealthyMayGo reports whether a budget does not count on pod because it is
// not ready (KEP-3017).
func unhealthyMayGo(pod *corev1.Pod, b *policyv1.PodDisruptionBudget) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return ptr.Deref(b.Spec.UnhealthyPodEvictionPolicy, "") == policyv1.AlwaysAllow ||
		b.Status.DesiredHealthy > 0 && b.Status.CurrentHealthy >= b.Status.DesiredHealthy
}

// moreThanOneBudget is answered as a failure with status 500 in the body.
type moreThanOneBudget struct{}

func (*moreThanOneBudget) Error() string {
	return "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
}

func (e *moreThanOneBudget) answer() *metav1.Status {
	return &metav1.Status{Status: metav1.StatusFailure, Message: e.Error(), Code: 500}
}

// budgetOf is the budget that covers pod, nil if none does.
func budgetOf(ctx context.Context, cluster resource.Cluster, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	r := cluster.Resource(policyv1.GroupName, "poddisruptionbudgets")
	if r == nil {
		return nil, nil
	}
	objs, err := cluster.List(ctx, r, pod.Namespace)
	if err != nil {
		return nil, err
	}
	var found *policyv1.PodDisruptionBudget
	for _, obj := range objs {
		b := obj.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if found != nil {
			return nil, &moreThanOneBudget{}
		}
		found = b
	}
	return found, nil
}

// spend takes one disruption from a budget and tells the disruption controller
// which pod it was for.
func spend(ctx context.Context, cluster resource.Cluster, b *policyv1.PodDisruptionBudget, pod *corev1.Pod, dryRun bool) error {
	if dryRun {
		return mayDisrupt(b)
	}
	r := cluster.Resource(policyv1.GroupName, "poddisruptionbudgets")
	_, err := cluster.Update(ctx, r, b.Namespace, b.Name, false, func(obj resource.Object) error {
		b := obj.(*policyv1.PodDisruptionBudget)
		if err := mayDisrupt(b); err != nil {
			return err
		}
		b.Status.DisruptionsAllowed--
		if b.Status.DisruptionsAllowed == 0 {
			meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
				Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
				Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Status.ObservedGeneration,
			})
		}
		if b.Status.DisruptedPods == nil {
			b.Status.DisruptedPods = make(map[string]metav1.Time)
		}
		b.Status.DisruptedPods[pod.Name] = metav1.Now()
		return nil
	})
	return err
}

// maxDisrupted is how many evictions may wait for the disruption controller.
const maxDisrupted = 2000

func mayDisrupt(b *policyv1.PodDisruptionBudget) error {
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return tooManyDisruptions(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case b.Status.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(budgetGroup, b.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case len(b.Status.DisruptedPods) > maxDisrupted:
		return apierrors.NewForbidden(budgetGroup, b.Name, fmt.Errorf("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case b.Status.DisruptionsAllowed == 0:
		return tooManyDisruptions(0, whyNoDisruption(b))
	}
	return nil
}

func whyNoDisruption(b *policyv1.PodDisruptionBudget) string {
	condition := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	explained := condition != nil && condition.Status == metav1.ConditionFalse && condition.Message != ""
	switch {
	case explained && condition.Reason == policyv1.SyncFailedReason:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", b.Name, condition.Message)
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case explained:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, condition.Reason, condition.Message)
	default:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
	}
}

func tooManyDisruptions(retryAfter int, why string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: why})
	return err
}

// markAndDelete says on the pod why it goes, then deletes it.
func markAndDelete(ctx context.Context, c resource.Call, options *metav1.DeleteOptions) error {
	if len(options.DryRun) == 0 {
		marked, err := c.Cluster.Update(ctx, c.Resource, c.Namespace, c.Name, false, func(obj resource.Object) error {
			if err := checkPreconditions(obj, options.Preconditions); err != nil {
				return err
			}
			setPodCondition(&obj.(*corev1.Pod).Status, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
				Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			})
			return nil
		})
		if err != nil {
			return err
		}
		if options.Preconditions != nil && options.Preconditions.ResourceVersion != nil {
			options.Preconditions.ResourceVersion = ptr.To(marked.GetResourceVersion())
		}
	}
	_, err := c.Cluster.Delete(ctx, c.Resource, c.Namespace, c.Name, options)
	return err
}

func checkPreconditions(obj resource.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "Pod"}, obj.GetName(), fmt.Errorf(format, args...))
	}
	if uid := ptr.Deref(p.UID, ""); uid != "" && uid != obj.GetUID() {
		return conflict("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", uid, obj.GetUID())
	}
	if version := ptr.Deref(p.ResourceVersion, ""); version != "" && version != obj.GetResourceVersion() {
		return conflict("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", version, obj.GetResourceVersion())
	}
	return nil
}
