package workloads

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

var daemonSetKind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// DaemonSet keeps one pod of each set on every node that it fits, and replaces pods of an old template as the
// update strategy says. It is woken by the set, by its pods and revisions, by pods and revisions it could adopt,
// and by nodes that begin or cease to fit.
//
// daemonset_plan.go decides, daemonset_history.go keeps the templates.
func DaemonSet(d Deps) (reconcile.Controller, error) {
	sets := d.Informers.Apps().V1().DaemonSets()
	nodes := d.Informers.Core().V1().Nodes()
	pods := d.Informers.Core().V1().Pods().Informer()
	revisions := d.Informers.Apps().V1().ControllerRevisions().Informer()
	podIndex, err := indexByOwner(pods)
	if err != nil {
		return reconcile.Controller{}, err
	}
	revisionIndex, err := indexByOwner(revisions)
	if err != nil {
		return reconcile.Controller{}, err
	}
	events := d.Recorder("daemonset-controller")
	c := &daemonSets{
		client:   d.Client,
		sets:     sets.Lister(),
		nodes:    nodes.Lister(),
		podIndex: podIndex,
		history:  history{client: d.Client, index: revisionIndex, kind: daemonSetKind},
		pods:     podWriter{client: d.Client, events: events, kind: daemonSetKind},
		events:   events,
		expected: reconcile.NewExpectations(),
		failures: flowcontrol.NewBackOff(time.Second, 15*time.Minute),
	}
	orphan := adopters(func(namespace string) ([]*appsv1.DaemonSet, error) {
		return sets.Lister().DaemonSets(namespace).List(labels.Everything())
	}, func(set *appsv1.DaemonSet) *metav1.LabelSelector { return set.Spec.Selector })
	return reconcile.Controller{
		Name:    "DaemonSet",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(sets.Informer()),
			forgetful(sets.Informer(), c.expected),
			childSource[*corev1.Pod](pods, daemonSetKind, c.expected, orphan),
			revisionSource(revisions, daemonSetKind, orphan),
			reconcile.On(nodes.Informer(), c.nodeChanged),
		},
		Sync: c.sync,
	}, nil
}

type daemonSets struct {
	client   kubernetes.Interface
	sets     appslisters.DaemonSetLister
	nodes    corelisters.NodeLister
	podIndex cache.Indexer
	history  history
	pods     podWriter
	events   record.EventRecorder
	expected *reconcile.Expectations
	failures *flowcontrol.Backoff // by set, generation and node
}

// nodeChanged names the sets for which a node came, went, or is another one now.
func (c *daemonSets) nodeChanged(old, node *corev1.Node) []reconcile.Key {
	if old != nil && node != nil && equality.Semantic.DeepEqual(old.Labels, node.Labels) && equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
		return nil
	}
	sets, err := c.sets.List(labels.Everything())
	if err != nil {
		return nil
	}
	var keys []reconcile.Key
	for _, set := range sets {
		if old == nil || node == nil || fitOf(set, old) != fitOf(set, node) {
			keys = append(keys, reconcile.KeyOf(set))
		}
	}
	return keys
}

func (c *daemonSets) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	set, err := c.sets.DaemonSets(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	if set.DeletionTimestamp != nil {
		return 0, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return 0, nil // no retry makes it valid
	}
	if selector.Empty() {
		c.events.Event(set, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	current, old, err := c.revisions(ctx, set, selector)
	if err != nil {
		return 0, err
	}
	actNow := c.expected.Met(set.UID)
	spread, err := c.observe(ctx, set, selector, current)
	if err != nil {
		return 0, err
	}

	var failed error
	again := time.Minute
	if actNow {
		again, failed = c.act(ctx, spread, old)
	}
	ripe, err := c.report(ctx, spread, actNow)
	if err != nil {
		return 0, errors.Join(failed, err)
	}
	return sooner(again, ripe), failed
}

// observe reads the nodes and which pods of the set are on them.
func (c *daemonSets) observe(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector, current *appsv1.ControllerRevision) (*spread, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	candidates, err := family[*corev1.Pod](c.podIndex, set)
	if err != nil {
		return nil, err
	}
	pods, err := take(ctx, claim{
		owner: set, kind: daemonSetKind, selector: selector, live: c.live(set), patch: c.pods.patch,
	}, candidates)
	if err != nil {
		return nil, err
	}
	return newSpread(set, current.Labels[appsv1.DefaultDaemonSetUniqueLabelKey], nodes, pods, time.Now()), nil
}

func (c *daemonSets) live(set *appsv1.DaemonSet) func(context.Context) (metav1.Object, error) {
	return func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().DaemonSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
}

// act puts pods where they are missing and takes away those too many; only if there are none such it moves the
// rollout on. It returns when a failed pod that is held back may be replaced.
func (c *daemonSets) act(ctx context.Context, s *spread, old []*appsv1.ControllerRevision) (time.Duration, error) {
	plan := s.planPresence()
	again := c.holdBackFailed(s, &plan)
	if plan.empty() && s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		plan = s.planUpdate()
	}
	if err := c.apply(ctx, s, plan); err != nil {
		return again, err
	}
	return again, c.prune(ctx, s, old)
}

// holdBackFailed drops failed pods from a plan that were replaced on their node only just now, so that a pod
// that fails at once does not come and go in a busy loop; the others it announces.
func (c *daemonSets) holdBackFailed(s *spread, plan *daemonPlan) (again time.Duration) {
	plan.remove = slices.DeleteFunc(plan.remove, func(pod *corev1.Pod) bool {
		if pod.Status.Phase == corev1.PodSucceeded {
			c.events.Eventf(s.set, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, pod.Spec.NodeName)
		}
		if pod.Status.Phase != corev1.PodFailed || !s.fits[pod.Spec.NodeName].stay {
			return false
		}
		id := fmt.Sprintf("%s/%d/%s", s.set.UID, s.set.Status.ObservedGeneration, pod.Spec.NodeName)
		if c.failures.IsInBackOffSinceUpdate(id, s.now) {
			again = sooner(again, c.failures.Get(id))
			return true
		}
		c.failures.GC()
		c.failures.Next(id, s.now)
		slog.Debug("replace failed daemon pod", "pod", pod.Namespace+"/"+pod.Name, "node", pod.Spec.NodeName)
		c.events.Eventf(s.set, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, pod.Spec.NodeName)
		return false
	})
	return again
}

// apply creates and deletes, at most burst pods each.
func (c *daemonSets) apply(ctx context.Context, s *spread, plan daemonPlan) error {
	create := plan.create[:min(len(plan.create), burst)]
	remove := plan.remove[:min(len(plan.remove), burst)]
	set := s.set
	c.expected.Creating(set.UID, len(create))
	for _, pod := range remove {
		c.expected.Deleting(set.UID, pod.UID)
	}

	done, err := inBatches(len(create), func(i int) error {
		return c.pods.create(ctx, set, daemonPod(set, s.hash, create[i]))
	})
	for range len(create) - done {
		c.expected.Created(set.UID)
	}
	if namespaceGoing(err) {
		err = nil
	}
	return errors.Join(err, allAtOnce(remove, func(pod *corev1.Pod) error {
		err := c.pods.remove(ctx, set, pod)
		if err != nil {
			c.expected.Deleted(set.UID, pod.UID)
		}
		return reconcile.IgnoreNotFound(err)
	}))
}

// report writes the status. A sync that had to wait for its cache has not acted on the spec it saw, and says so
// by leaving the observed generation.
func (c *daemonSets) report(ctx context.Context, s *spread, acted bool) (ripe time.Duration, err error) {
	status, ripe := s.status()
	if acted {
		status.ObservedGeneration = s.set.Generation
	}
	if equality.Semantic.DeepEqual(s.set.Status, status) {
		return ripe, nil
	}
	updated := s.set.DeepCopy()
	updated.Status = status
	_, err = c.client.AppsV1().DaemonSets(updated.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return ripe, fmt.Errorf("update status: %w", err)
	}
	return ripe, nil
}

// sameData tells whether a revision is a snapshot of this template.
func sameData(r *appsv1.ControllerRevision, template *corev1.PodTemplateSpec) bool {
	return bytes.Equal(r.Data.Raw, templatePatch(template))
}
