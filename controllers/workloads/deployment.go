package workloads

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

var deploymentKind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Deployment keeps one ReplicaSet per pod template and moves replicas from the old ones to the one of the
// current template, never letting more pods be missing or extra than the strategy allows. It is woken by the
// deployment, by its sets, by sets it could adopt, and, for strategy Recreate, by the end of a pod.
//
// deployment_rollout.go plans sizes, deployment_revision.go names and numbers templates, deployment_status.go
// says how far it got.
func Deployment(d Deps) (reconcile.Controller, error) {
	deployments := d.Informers.Apps().V1().Deployments()
	sets := d.Informers.Apps().V1().ReplicaSets()
	pods := d.Informers.Core().V1().Pods().Informer()
	setIndex, err := indexByOwner(sets.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	podIndex, err := indexByOwner(pods)
	if err != nil {
		return reconcile.Controller{}, err
	}
	c := &deploymentLoop{
		client:      d.Client,
		deployments: deployments.Lister(),
		sets:        sets.Lister(),
		setIndex:    setIndex,
		podIndex:    podIndex,
		events:      d.Recorder("deployment-controller"),
	}
	orphan := adopters(func(namespace string) ([]*appsv1.Deployment, error) {
		return deployments.Lister().Deployments(namespace).List(labels.Everything())
	}, func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector })
	return reconcile.Controller{
		Name:    "Deployment",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(deployments.Informer()),
			childSource[*appsv1.ReplicaSet](sets.Informer(), deploymentKind, nil, orphan),
			reconcile.On(pods, c.ended),
		},
		Sync: c.sync,
	}, nil
}

type deploymentLoop struct {
	client             kubernetes.Interface
	deployments        appslisters.DeploymentLister
	sets               appslisters.ReplicaSetLister
	setIndex, podIndex cache.Indexer
	events             record.EventRecorder
}

// ended names the deployment that waits for this pod's end before it starts new ones.
func (c *deploymentLoop) ended(old, pod *corev1.Pod) []reconcile.Key {
	if old == nil || pod != nil && (podFinished(old) || !podFinished(pod)) {
		return nil
	}
	ref := controllerOf(old, replicaSetKind)
	if ref == nil {
		return nil
	}
	set, err := c.sets.ReplicaSets(old.Namespace).Get(ref.Name)
	if err != nil || set.UID != ref.UID {
		return nil
	}
	owner := controllerOf(set, deploymentKind)
	if owner == nil {
		return nil
	}
	d, err := c.deployments.Deployments(old.Namespace).Get(owner.Name)
	if err != nil || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(d)}
}

func (c *deploymentLoop) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	cached, err := c.deployments.Deployments(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	selector, err := metav1.LabelSelectorAsSelector(cached.Spec.Selector)
	if err != nil {
		return 0, nil // no retry makes it valid
	}
	if selector.Empty() {
		c.events.Event(cached, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	sets, err := c.claim(ctx, cached, selector)
	if err != nil {
		return 0, err
	}

	r := newRollout(cached.DeepCopy(), sets)
	failed := c.step(ctx, r)
	r.finish(time.Now())
	if err := c.report(ctx, cached, r.deployment); err != nil {
		return 0, err
	}
	return r.nextProgressCheck(time.Now()), failed
}

func (c *deploymentLoop) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	candidates, err := family[*appsv1.ReplicaSet](c.setIndex, d)
	if err != nil {
		return nil, err
	}
	return take(ctx, claim{
		owner: d, kind: deploymentKind, selector: selector,
		live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		patch: func(ctx context.Context, set metav1.Object, data []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(set.GetNamespace()).Patch(ctx, set.GetName(), types.StrategicMergePatchType, data, metav1.PatchOptions{})
			return err
		},
	}, candidates)
}

// step brings the sets one step closer. What it learns goes into the deployment's annotations and conditions.
func (c *deploymentLoop) step(ctx context.Context, r *rollout) error {
	d := r.deployment
	if d.DeletionTimestamp != nil {
		return nil
	}
	r.notePause(time.Now())
	if err := c.syncRevision(ctx, r); err != nil {
		return err
	}
	switch {
	case d.Spec.Paused:
		r.scalingOnly = true
		if err := c.resize(ctx, r, r.planScale()); err != nil {
			return err
		}
		return c.prune(ctx, r)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return c.recreate(ctx, r)
	case r.wasScaled():
		r.scalingOnly = true
		return c.resize(ctx, r, r.planScale())
	}
	return c.roll(ctx, r)
}

// roll grows the new set if it may, else shrinks old ones if it may, else cleans up behind a finished rollout.
func (c *deploymentLoop) roll(ctx context.Context, r *rollout) error {
	if err := c.ensureNewSet(ctx, r); err != nil || r.current == nil {
		return err // without an error and a set, the namespace is going
	}
	plan := r.planGrow()
	if len(plan) == 0 {
		plan = r.planShrink()
	}
	if len(plan) > 0 {
		return c.resize(ctx, r, plan)
	}
	if complete(r.deployment, r.deployment.Status) {
		return c.prune(ctx, r)
	}
	return nil
}

// recreate stops every old pod before it starts a new one.
func (c *deploymentLoop) recreate(ctx context.Context, r *rollout) error {
	if plan := r.planStopOld(); len(plan) > 0 {
		return c.resize(ctx, r, plan)
	}
	running, err := c.oldPodsRun(r)
	if err != nil || running {
		return err
	}
	if err := c.ensureNewSet(ctx, r); err != nil || r.current == nil {
		return err
	}
	if plan := r.planGrow(); len(plan) > 0 {
		return c.resize(ctx, r, plan)
	}
	if complete(r.deployment, r.deployment.Status) {
		return c.prune(ctx, r)
	}
	return nil
}

// oldPodsRun tells whether a pod of an old set may still run; a pod being deleted may.
func (c *deploymentLoop) oldPodsRun(r *rollout) (bool, error) {
	for _, set := range r.old {
		if set.Status.Replicas > 0 {
			return true, nil
		}
		pods, err := controlled[*corev1.Pod](c.podIndex, set.UID)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return !podFinished(pod) }) {
			return true, nil
		}
	}
	return false, nil
}

// resize gives sets their planned size, and every one it touches the annotations from which a later change of
// the deployment's size is recognised.
func (c *deploymentLoop) resize(ctx context.Context, r *rollout, plan []sizing) error {
	for _, s := range plan {
		set := s.set.DeepCopy()
		from := *set.Spec.Replicas
		noted := noteSize(set, r.deployment)
		if from == s.to && !noted {
			continue
		}
		*set.Spec.Replicas = s.to
		updated, err := c.client.AppsV1().ReplicaSets(set.Namespace).Update(ctx, set, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("scale replica set %s: %w", set.Name, err)
		}
		r.replace(updated)
		if from == s.to {
			continue
		}
		direction := "up"
		if s.to < from {
			direction = "down"
		}
		c.events.Eventf(r.deployment, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, set.Name, from, s.to)
	}
	return nil
}

// prune deletes the oldest sets beyond the history limit, as far as they are surely empty.
func (c *deploymentLoop) prune(ctx context.Context, r *rollout) error {
	for _, set := range r.superfluous() {
		err := c.client.AppsV1().ReplicaSets(set.Namespace).Delete(ctx, set.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(set.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old replica set %s: %w", set.Name, err)
		}
	}
	return nil
}

// report writes annotations and status, which go through the status subresource together.
func (c *deploymentLoop) report(ctx context.Context, before, after *appsv1.Deployment) error {
	if equality.Semantic.DeepEqual(before.Status, after.Status) && equality.Semantic.DeepEqual(before.Annotations, after.Annotations) {
		return nil
	}
	_, err := c.client.AppsV1().Deployments(after.Namespace).UpdateStatus(ctx, after, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
