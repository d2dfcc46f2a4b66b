package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// evictionTimeout is how long an evicted pod may take until its deletion is seen; after that it was not evicted.
const evictionTimeout = 2 * time.Minute

// failRetry is after which time figures that could not be had are asked for again.
const failRetry = 10 * time.Second

// Disruption keeps the status of PodDisruptionBudgets: how many of the pods are healthy, how many have to be, and
// so how many the eviction API may take. It is woken by the budget, by a pod it selects, and by what owns such
// pods when its size changes.
func Disruption(d Deps) reconcile.Controller {
	budgets := d.Informers.Policy().V1().PodDisruptionBudgets()
	pods := d.Informers.Core().V1().Pods()
	c := &disruptions{
		client: d.Client, budgets: budgets.Lister(), pods: pods.Lister(),
		controllers:  d.Informers.Core().V1().ReplicationControllers().Lister(),
		replicaSets:  d.Informers.Apps().V1().ReplicaSets().Lister(),
		deployments:  d.Informers.Apps().V1().Deployments().Lister(),
		statefulSets: d.Informers.Apps().V1().StatefulSets().Lister(),
		events:       d.Recorder("controllermanager"),
	}
	return reconcile.Controller{
		Name:    "Disruption",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(budgets.Informer()),
			reconcile.On(pods.Informer(), c.podChanged),
			reconcile.Synced(d.Informers.Core().V1().ReplicationControllers().Informer()),
			reconcile.Synced(d.Informers.Apps().V1().ReplicaSets().Informer()),
			reconcile.Synced(d.Informers.Apps().V1().Deployments().Informer()),
			reconcile.Synced(d.Informers.Apps().V1().StatefulSets().Informer()),
		},
		Sync: c.sync,
	}
}

type disruptions struct {
	client       kubernetes.Interface
	budgets      policylisters.PodDisruptionBudgetLister
	pods         corelisters.PodLister
	controllers  corelisters.ReplicationControllerLister
	replicaSets  appslisters.ReplicaSetLister
	deployments  appslisters.DeploymentLister
	statefulSets appslisters.StatefulSetLister
	events       record.EventRecorder
}

// podChanged names the budgets that select a pod, or did. Owners need no watch of their own: when their size
// changes, pods come or go.
func (c *disruptions) podChanged(old, pod *corev1.Pod) []reconcile.Key {
	var keys []reconcile.Key
	for _, p := range []*corev1.Pod{old, pod} {
		if p == nil {
			continue
		}
		budgets, err := c.budgets.PodDisruptionBudgets(p.Namespace).List(labels.Everything())
		if err != nil {
			return keys
		}
		for _, budget := range budgets {
			selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
			if err == nil && selector.Matches(labels.Set(p.Labels)) {
				keys = append(keys, reconcile.KeyOf(budget))
			}
		}
	}
	return keys
}

func (c *disruptions) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	budget, err := c.budgets.PodDisruptionBudgets(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	again, err := c.measure(ctx, budget)
	if err == nil || apierrors.IsConflict(err) {
		return again, err
	}
	slog.Debug("disruption budget fails safe", "budget", key.String(), "error", err)
	return failRetry, c.failSafe(ctx, budget, err)
}

// measure computes the status and writes it.
func (c *disruptions) measure(ctx context.Context, budget *policyv1.PodDisruptionBudget) (time.Duration, error) {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return 0, err
	}
	pods, err := c.pods.Pods(budget.Namespace).List(selector)
	if err != nil {
		return 0, err
	}
	if len(pods) == 0 {
		c.events.Event(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected := int32(len(pods))
	if countsOwners(budget) {
		var unmanaged bool
		if expected, unmanaged, err = c.expected(ctx, pods); err != nil {
			c.events.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
			return 0, err
		}
		if unmanaged {
			c.events.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
				"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
				"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector)
		}
	}
	desired, err := desiredHealthy(budget, expected)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	disrupted, again := stillDisrupted(budget, pods, now)
	return again, c.report(ctx, budget, policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: budget.Generation,
		DisruptedPods:      disrupted,
		CurrentHealthy:     healthy(pods, disrupted),
		DesiredHealthy:     desired,
		ExpectedPods:       expected,
	})
}

// countsOwners tells whether a budget needs to know how many pods their owners want.
func countsOwners(budget *policyv1.PodDisruptionBudget) bool {
	return budget.Spec.MaxUnavailable != nil || budget.Spec.MinAvailable != nil && budget.Spec.MinAvailable.Type == intstr.String
}

// desiredHealthy is how many pods must stay healthy.
func desiredHealthy(budget *policyv1.PodDisruptionBudget, expected int32) (int32, error) {
	switch {
	case budget.Spec.MaxUnavailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(budget.Spec.MaxUnavailable, int(expected), true)
		return max(expected-int32(n), 0), err
	case budget.Spec.MinAvailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(budget.Spec.MinAvailable, int(expected), true)
		return int32(n), err
	}
	return 0, nil
}

// stillDisrupted keeps the evicted pods whose deletion is still to be seen, and returns when the first of them
// will have taken too long.
func stillDisrupted(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) (map[string]metav1.Time, time.Duration) {
	disrupted := map[string]metav1.Time{}
	var again time.Duration
	for _, pod := range pods {
		at, ok := budget.Status.DisruptedPods[pod.Name]
		if !ok || pod.DeletionTimestamp != nil {
			continue
		}
		if left := at.Add(evictionTimeout).Sub(now); left > 0 {
			disrupted[pod.Name] = at
			if again == 0 || left < again {
				again = left
			}
		}
	}
	return disrupted, again
}

func healthy(pods []*corev1.Pod, disrupted map[string]metav1.Time) (n int32) {
	for _, pod := range pods {
		if _, going := disrupted[pod.Name]; going || pod.DeletionTimestamp != nil {
			continue
		}
		if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			n++
		}
	}
	return n
}

// expected adds up how many pods the owners of pods want. Pods without one are not counted.
func (c *disruptions) expected(ctx context.Context, pods []*corev1.Pod) (total int32, unmanaged bool, err error) {
	scales := map[types.UID]int32{}
	seen := map[types.UID]bool{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = true
			continue
		}
		if seen[ref.UID] {
			continue
		}
		seen[ref.UID] = true
		uid, n, found, err := c.scaleOf(ctx, pod.Namespace, ref)
		if err != nil {
			return 0, unmanaged, err
		}
		if !found {
			return 0, unmanaged, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		scales[uid] = n
	}
	for n := range maps.Values(scales) {
		total += n
	}
	return total, unmanaged, nil
}

// scaleOf finds how many pods the controller of a pod wants. That of a ReplicaSet may be a Deployment, which
// counts once for all its sets. Other kinds are asked for their scale.
func (c *disruptions) scaleOf(ctx context.Context, namespace string, ref *metav1.OwnerReference) (types.UID, int32, bool, error) {
	group, _, _ := strings.Cut(ref.APIVersion, "/")
	switch {
	case group == "apps" && ref.Kind == "ReplicaSet":
		set, err := c.replicaSets.ReplicaSets(namespace).Get(ref.Name)
		if err != nil || set.UID != ref.UID {
			return "", 0, false, reconcile.IgnoreNotFound(err)
		}
		if owner := metav1.GetControllerOfNoCopy(set); owner != nil && owner.Kind == "Deployment" {
			d, err := c.deployments.Deployments(namespace).Get(owner.Name)
			if err == nil && d.UID == owner.UID {
				return d.UID, *d.Spec.Replicas, true, nil
			}
		}
		return set.UID, *set.Spec.Replicas, true, nil
	case group == "apps" && ref.Kind == "StatefulSet":
		set, err := c.statefulSets.StatefulSets(namespace).Get(ref.Name)
		if err != nil || set.UID != ref.UID {
			return "", 0, false, reconcile.IgnoreNotFound(err)
		}
		return set.UID, *set.Spec.Replicas, true, nil
	case ref.APIVersion == "v1" && ref.Kind == "ReplicationController":
		rc, err := c.controllers.ReplicationControllers(namespace).Get(ref.Name)
		if err != nil || rc.UID != ref.UID {
			return "", 0, false, reconcile.IgnoreNotFound(err)
		}
		return rc.UID, *rc.Spec.Replicas, true, nil
	}
	return c.scaleSubresource(ctx, namespace, ref)
}

// scaleSubresource asks an owner of any kind for its scale; not found if the kind has none.
func (c *disruptions) scaleSubresource(ctx context.Context, namespace string, ref *metav1.OwnerReference) (types.UID, int32, bool, error) {
	resources, err := c.client.Discovery().ServerResourcesForGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, false, reconcile.IgnoreNotFound(err)
	}
	root := "/apis/" + ref.APIVersion
	if !strings.Contains(ref.APIVersion, "/") {
		root = "/api/" + ref.APIVersion
	}
	for _, r := range resources.APIResources {
		name, sub, _ := strings.Cut(r.Name, "/")
		if sub != "scale" || !slices.ContainsFunc(resources.APIResources, func(o metav1.APIResource) bool { return o.Name == name && o.Kind == ref.Kind }) {
			continue
		}
		data, err := c.client.CoreV1().RESTClient().Get().AbsPath(root, "namespaces", namespace, name, ref.Name, "scale").
			SetHeader("Accept", "application/json").DoRaw(ctx)
		if err != nil {
			return "", 0, false, reconcile.IgnoreNotFound(err)
		}
		var scale autoscalingv1.Scale
		if err := json.Unmarshal(data, &scale); err != nil {
			return "", 0, false, fmt.Errorf("scale of %s %s: %w", ref.Kind, ref.Name, err)
		}
		return scale.UID, scale.Spec.Replicas, scale.UID == ref.UID, nil
	}
	return "", 0, false, nil
}

func (c *disruptions) report(ctx context.Context, budget *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if status.ExpectedPods > 0 {
		status.DisruptionsAllowed = max(status.CurrentHealthy-status.DesiredHealthy, 0)
	}
	updated := budget.DeepCopy()
	status.Conditions = updated.Status.Conditions
	updated.Status = status
	poddisruptionbudget.UpdateDisruptionAllowedCondition(updated)
	if equality.Semantic.DeepEqual(budget.Status, updated.Status) {
		return nil
	}
	_, err := c.client.PolicyV1().PodDisruptionBudgets(budget.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	return reconcile.IgnoreNotFound(err)
}

// failSafe allows no disruption while the figures cannot be had.
func (c *disruptions) failSafe(ctx context.Context, budget *policyv1.PodDisruptionBudget, cause error) error {
	updated := budget.DeepCopy()
	updated.Status.DisruptionsAllowed = 0
	meta.SetStatusCondition(&updated.Status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: cause.Error(), ObservedGeneration: budget.Status.ObservedGeneration,
	})
	if equality.Semantic.DeepEqual(budget.Status, updated.Status) {
		return nil
	}
	_, err := c.client.PolicyV1().PodDisruptionBudgets(budget.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	return reconcile.IgnoreNotFound(err)
}
