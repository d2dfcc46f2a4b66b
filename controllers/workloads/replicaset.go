package workloads

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// burst is the most pods one sync of a ReplicaSet creates or deletes; the rest waits until they were seen.
const burst = 500

// podDeletionCost orders pods for deletion: lower goes first, none counts as 0.
const podDeletionCost = "controller.kubernetes.io/pod-deletion-cost"

var (
	replicaSetKind            = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	replicationControllerKind = corev1.SchemeGroupVersion.WithKind("ReplicationController")
)

// ReplicaSet keeps as many pods running as each ReplicaSet asks for. It is woken by the set, by the pods that
// are its, and by pods without a controller that its selector matches.
func ReplicaSet(d Deps) (reconcile.Controller, error) {
	sets := d.Informers.Apps().V1().ReplicaSets()
	indexer, err := indexByOwner(sets.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	return replicaController(d, replicaKind{
		kind:      replicaSetKind,
		component: "replicaset-controller",
		informer:  sets.Informer(),
		list: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			return sets.Lister().ReplicaSets(namespace).List(labels.Everything())
		},
		get: func(key reconcile.Key) (*appsv1.ReplicaSet, error) {
			return sets.Lister().ReplicaSets(key.Namespace).Get(key.Name)
		},
		live: func(ctx context.Context, set *appsv1.ReplicaSet) (metav1.Object, error) {
			return d.Client.AppsV1().ReplicaSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		},
		updateStatus: func(ctx context.Context, set *appsv1.ReplicaSet) error {
			_, err := d.Client.AppsV1().ReplicaSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
			return err
		},
		siblings: func(set *appsv1.ReplicaSet) ([]*appsv1.ReplicaSet, error) {
			ref := metav1.GetControllerOfNoCopy(set)
			if ref == nil {
				return []*appsv1.ReplicaSet{set}, nil
			}
			return controlled[*appsv1.ReplicaSet](indexer, ref.UID)
		},
		countsTerminating: true,
	})
}

// replicaKind is what ReplicaSets and ReplicationControllers do not share. Both are handled as ReplicaSets.
type replicaKind struct {
	kind         schema.GroupVersionKind
	component    string
	informer     cache.SharedIndexInformer
	list         func(namespace string) ([]*appsv1.ReplicaSet, error)
	get          func(key reconcile.Key) (*appsv1.ReplicaSet, error)
	live         func(ctx context.Context, set *appsv1.ReplicaSet) (metav1.Object, error)
	updateStatus func(ctx context.Context, set *appsv1.ReplicaSet) error
	// siblings are the sets of the same owner, itself included: their pods count as copies of one another when
	// it is to be decided which node has too many.
	siblings          func(set *appsv1.ReplicaSet) ([]*appsv1.ReplicaSet, error)
	countsTerminating bool
}

type replicaSets struct {
	replicaKind
	pods     podWriter
	podIndex cache.Indexer
	expected *reconcile.Expectations
}

func replicaController(d Deps, kind replicaKind) (reconcile.Controller, error) {
	podInformer := d.Informers.Core().V1().Pods().Informer()
	index, err := indexByOwner(podInformer)
	if err != nil {
		return reconcile.Controller{}, err
	}
	r := &replicaSets{
		replicaKind: kind,
		pods:        podWriter{client: d.Client, events: d.Recorder(kind.component), kind: kind.kind},
		podIndex:    index,
		expected:    reconcile.NewExpectations(),
	}
	return reconcile.Controller{
		Name:    kind.kind.Kind,
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(kind.informer),
			forgetful(kind.informer, r.expected),
			childSource[*corev1.Pod](podInformer, kind.kind, r.expected, adopters(kind.list, func(set *appsv1.ReplicaSet) *metav1.LabelSelector { return set.Spec.Selector })),
		},
		Sync: r.sync,
	}, nil
}

// forgetful drops the expectations of owners that are gone.
func forgetful(informer cache.SharedIndexInformer, expected *reconcile.Expectations) reconcile.Source {
	return reconcile.On(informer, func(old, changed metav1.Object) []reconcile.Key {
		if old != nil && (changed == nil || changed.GetUID() != old.GetUID()) {
			expected.Forget(old.GetUID())
		}
		return nil
	})
}

func (r *replicaSets) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	set, err := r.get(key)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err) // its pods are the garbage collector's
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return 0, nil // no retry makes it valid
	}
	actNow := r.expected.Met(set.UID) // before the pods are read, so that what was seen is in them

	children, err := family[*corev1.Pod](r.podIndex, set)
	if err != nil {
		return 0, err
	}
	active, terminating := splitActive(children)
	active, err = take(ctx, claim{
		owner: set, kind: r.kind, selector: selector, patch: r.pods.patch,
		live: func(ctx context.Context) (metav1.Object, error) { return r.live(ctx, set) },
	}, active)
	if err != nil {
		return 0, err
	}
	terminating = slices.DeleteFunc(terminating, func(pod *corev1.Pod) bool {
		return bondOf(set, selector, pod) != keep
	})

	var failed error
	again := time.Duration(0)
	if set.DeletionTimestamp == nil {
		if actNow {
			failed = r.scale(ctx, set, active)
		} else {
			again = time.Minute
		}
	}
	status, ripe := replicaStatus(set, active, terminating, failed, time.Now())
	if !r.countsTerminating {
		status.TerminatingReplicas = nil
	}
	if err := r.report(ctx, set, status); err != nil {
		return 0, err
	}
	return sooner(again, ripe), failed
}

// splitActive separates the pods that count from those being deleted that still run.
func splitActive(pods []*corev1.Pod) (active, terminating []*corev1.Pod) {
	for _, pod := range pods {
		switch {
		case podActive(pod):
			active = append(active, pod)
		case podTerminating(pod):
			terminating = append(terminating, pod)
		}
	}
	return active, terminating
}

// scale creates missing pods or deletes superfluous ones.
func (r *replicaSets) scale(ctx context.Context, set *appsv1.ReplicaSet, active []*corev1.Pod) error {
	missing := int(*set.Spec.Replicas) - len(active)
	switch {
	case missing > 0:
		return r.grow(ctx, set, min(missing, burst))
	case missing < 0:
		return r.shrink(ctx, set, active, min(-missing, burst))
	}
	return nil
}

func (r *replicaSets) grow(ctx context.Context, set *appsv1.ReplicaSet, n int) error {
	r.expected.Creating(set.UID, n)
	done, err := inBatches(n, func(int) error {
		return r.pods.create(ctx, set, podFrom(&set.Spec.Template, set, r.kind))
	})
	for range n - done {
		r.expected.Created(set.UID)
	}
	if namespaceGoing(err) {
		return nil
	}
	return err
}

func (r *replicaSets) shrink(ctx context.Context, set *appsv1.ReplicaSet, active []*corev1.Pod, n int) error {
	crowd, err := r.crowd(set)
	if err != nil {
		return err
	}
	victims := victimsOf(active, crowd, n, time.Now())
	for _, pod := range victims {
		r.expected.Deleting(set.UID, pod.UID)
	}
	return allAtOnce(victims, func(pod *corev1.Pod) error {
		err := r.pods.remove(ctx, set, pod)
		if err != nil {
			r.expected.Deleted(set.UID, pod.UID)
		}
		return reconcile.IgnoreNotFound(err)
	})
}

// crowd counts the active pods of the set and its siblings per node.
func (r *replicaSets) crowd(set *appsv1.ReplicaSet) (map[string]int, error) {
	siblings, err := r.siblings(set)
	if err != nil {
		return nil, err
	}
	crowd := map[string]int{}
	for _, sibling := range siblings {
		pods, err := controlled[*corev1.Pod](r.podIndex, sibling.UID)
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			if podActive(pod) {
				crowd[pod.Spec.NodeName]++
			}
		}
	}
	return crowd, nil
}

// victimsOf chooses n pods to delete, those first whose loss is felt least: not yet on a node, not yet running,
// not ready, cheap by annotation, on a crowded node, ready for a shorter time, restarted more often, younger.
// Times are compared by order of magnitude, so that among pods of about the same age chance decides by UID.
func victimsOf(pods []*corev1.Pod, crowd map[string]int, n int, now time.Time) []*corev1.Pod {
	if n >= len(pods) {
		return pods
	}
	phases := map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		sinceA, readyA := podReady(a)
		sinceB, readyB := podReady(b)
		order := cmp.Or(
			falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phases[a.Status.Phase], phases[b.Status.Phase]),
			falseFirst(readyA, readyB),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(crowd[b.Spec.NodeName], crowd[a.Spec.NodeName]),
		)
		if order != 0 {
			return order
		}
		if readyA && readyB && !sinceA.Equal(sinceB) {
			return youngerFirst(sinceA, sinceB, a.UID, b.UID, now)
		}
		if order := moreRestartsFirst(a, b); order != 0 {
			return order
		}
		if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return youngerFirst(a.CreationTimestamp.Time, b.CreationTimestamp.Time, a.UID, b.UID, now)
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return pods[:n]
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func deletionCost(pod *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(pod.Annotations[podDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

// youngerFirst compares ages by their logarithm (KEP-2185); a time not known counts as youngest.
func youngerFirst(a, b time.Time, uidA, uidB types.UID, now time.Time) int {
	if a.IsZero() || b.IsZero() {
		return falseFirst(!a.IsZero(), !b.IsZero())
	}
	magnitude := func(t time.Time) int {
		if age := now.Sub(t); age > 0 {
			return int(math.Log2(float64(age)))
		}
		return -1
	}
	return cmp.Or(cmp.Compare(magnitude(a), magnitude(b)), cmp.Compare(uidA, uidB))
}

// moreRestartsFirst compares the highest restart count of regular containers and then of those that were
// restarted as sidecars.
func moreRestartsFirst(a, b *corev1.Pod) int {
	highest := func(statuses []corev1.ContainerStatus) (n int32) {
		for _, s := range statuses {
			n = max(n, s.RestartCount)
		}
		return n
	}
	return cmp.Or(
		cmp.Compare(highest(b.Status.ContainerStatuses), highest(a.Status.ContainerStatuses)),
		cmp.Compare(highest(b.Status.InitContainerStatuses), highest(a.Status.InitContainerStatuses)),
	)
}

// replicaStatus computes the status to report and after which time one more pod will be available.
func replicaStatus(set *appsv1.ReplicaSet, active, terminating []*corev1.Pod, failed error, now time.Time) (appsv1.ReplicaSetStatus, time.Duration) {
	status := *set.Status.DeepCopy()
	status.ObservedGeneration = set.Generation
	status.Replicas = int32(len(active))
	status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0
	going := int32(len(terminating))
	status.TerminatingReplicas = &going

	var ripe time.Duration
	template := labels.SelectorFromSet(set.Spec.Template.Labels)
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if _, ready := podReady(pod); ready {
			status.ReadyReplicas++
		}
		available, in := podAvailable(pod, set.Spec.MinReadySeconds, now)
		if available {
			status.AvailableReplicas++
		}
		ripe = sooner(ripe, in)
	}
	status.Conditions = replicaConditions(status.Conditions, failed, len(active) < int(*set.Spec.Replicas), now)
	return status, ripe
}

// replicaConditions sets or clears ReplicaFailure. One that stands is left as it is: the first reason is kept.
func replicaConditions(conditions []appsv1.ReplicaSetCondition, failed error, growing bool, now time.Time) []appsv1.ReplicaSetCondition {
	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	if failed == nil {
		return slices.DeleteFunc(conditions, isFailure)
	}
	if slices.ContainsFunc(conditions, isFailure) {
		return conditions
	}
	reason := "FailedDelete"
	if growing {
		reason = "FailedCreate"
	}
	return append(conditions, appsv1.ReplicaSetCondition{
		Type:               appsv1.ReplicaSetReplicaFailure,
		Status:             corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(now),
		Reason:             reason,
		Message:            failed.Error(),
	})
}

func (r *replicaSets) report(ctx context.Context, set *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	set = set.DeepCopy()
	set.Status = status
	if err := r.updateStatus(ctx, set); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
