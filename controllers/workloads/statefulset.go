package workloads

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

var statefulSetKind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// revisionDataHash is the label that holds the hash of a StatefulSet's revision.
const revisionDataHash = "controller.kubernetes.io/hash"

// maxRevisionName is how much of a set's name goes into that of a revision.
const maxRevisionName = 223

// StatefulSet keeps pods with fixed names, and claims that outlive them: one of each ordinal, started in order,
// stopped and updated in reverse order, one at a time unless the set says otherwise. It is woken by the set, its
// pods and revisions, and pods and revisions it could adopt.
//
// statefulset_plan.go decides, statefulset_claims.go keeps the claims.
func StatefulSet(d Deps) (reconcile.Controller, error) {
	sets := d.Informers.Apps().V1().StatefulSets()
	pods := d.Informers.Core().V1().Pods().Informer()
	claims := d.Informers.Core().V1().PersistentVolumeClaims()
	revisions := d.Informers.Apps().V1().ControllerRevisions().Informer()
	podIndex, err := indexByOwner(pods)
	if err != nil {
		return reconcile.Controller{}, err
	}
	revisionIndex, err := indexByOwner(revisions)
	if err != nil {
		return reconcile.Controller{}, err
	}
	events := d.Recorder("statefulset-controller")
	c := &statefulSets{
		client: d.Client, sets: sets.Lister(), claims: claims.Lister(), podIndex: podIndex,
		history: history{client: d.Client, index: revisionIndex, kind: statefulSetKind},
		pods:    podWriter{client: d.Client, events: events, kind: statefulSetKind},
		events:  events,
		writes:  reconcile.NewWrites(),
	}
	orphan := adopters(func(namespace string) ([]*appsv1.StatefulSet, error) {
		return sets.Lister().StatefulSets(namespace).List(labels.Everything())
	}, func(set *appsv1.StatefulSet) *metav1.LabelSelector { return set.Spec.Selector })
	return reconcile.Controller{
		Name:    "StatefulSet",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(sets.Informer()),
			reconcile.On(sets.Informer(), func(old, set *appsv1.StatefulSet) []reconcile.Key {
				if set == nil {
					c.writes.Forget(old.UID)
				}
				return nil
			}),
			childSource[*corev1.Pod](pods, statefulSetKind, nil, orphan),
			revisionSource(revisions, statefulSetKind, orphan),
			reconcile.Synced(claims.Informer()),
		},
		Sync: c.sync,
	}, nil
}

type statefulSets struct {
	client   kubernetes.Interface
	sets     appslisters.StatefulSetLister
	claims   corelisters.PersistentVolumeClaimLister
	podIndex cache.Indexer
	history  history
	pods     podWriter
	events   record.EventRecorder
	writes   *reconcile.Writes
}

func (c *statefulSets) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	set, err := c.sets.StatefulSets(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || !c.writes.Seen(set) {
		return 0, nil
	}
	revisions, err := c.history.of(ctx, set, selector, c.live(set))
	if err != nil {
		return 0, err
	}
	pods, err := c.claimPods(ctx, set, selector)
	if err != nil {
		return 0, err
	}
	collisions := int32(0)
	if set.Status.CollisionCount != nil {
		collisions = *set.Status.CollisionCount
	}
	current, update, err := c.revisions(ctx, set, revisions, &collisions)
	if err != nil {
		return 0, err
	}

	v := newStatefulView(set, current.Name, update.Name, pods, time.Now())
	v.claimsRight = func(pod *corev1.Pod) bool { return c.claimsRight(set, pod) }
	plan := v.plan()
	failed := c.act(ctx, v, plan, current, update)
	status, ripe := v.status(plan)
	status.CollisionCount = &collisions
	if err := c.report(ctx, set, status); err != nil {
		return 0, errors.Join(failed, err)
	}
	return ripe, errors.Join(failed, c.prune(ctx, v, revisions))
}

func (c *statefulSets) live(set *appsv1.StatefulSet) func(context.Context) (metav1.Object, error) {
	return func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
}

// claimPods returns the set's pods. One that has another's name is never adopted, whatever its labels.
func (c *statefulSets) claimPods(ctx context.Context, set *appsv1.StatefulSet, selector labels.Selector) ([]*corev1.Pod, error) {
	candidates, err := family[*corev1.Pod](c.podIndex, set)
	if err != nil {
		return nil, err
	}
	candidates = slices.DeleteFunc(candidates, func(pod *corev1.Pod) bool { return ordinalOf(set, pod) < 0 })
	return take(ctx, claim{owner: set, kind: statefulSetKind, selector: selector, live: c.live(set), patch: c.pods.patch}, candidates)
}

// revisions returns the revision the pods were last all of, and that of the set's template, made if there is
// none. An older revision with the same template becomes the newest again.
func (c *statefulSets) revisions(ctx context.Context, set *appsv1.StatefulSet, all []*appsv1.ControllerRevision, collisions *int32) (current, update *appsv1.ControllerRevision, err error) {
	slices.SortFunc(all, byRevision)
	for _, r := range all {
		if template, err := templateOf(r); err == nil && equality.Semantic.DeepEqual(template, &set.Spec.Template) {
			update = r // the newest of equals
		}
	}
	next := highestRevision(all) + 1
	switch {
	case update == nil:
		update, err = c.snapshot(ctx, set, next, collisions)
	case update != all[len(all)-1]:
		update, err = c.history.renumber(ctx, update, next)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, r := range all {
		if r.Name == set.Status.CurrentRevision {
			return r, update, nil
		}
	}
	return update, update, nil
}

func byRevision(a, b *appsv1.ControllerRevision) int {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// snapshot creates the revision of the set's template, under another name if its own is taken by other data.
func (c *statefulSets) snapshot(ctx context.Context, set *appsv1.StatefulSet, number int64, collisions *int32) (*appsv1.ControllerRevision, error) {
	for {
		hash := dataHash(templatePatch(&set.Spec.Template), collisions)
		name := set.Name[:min(len(set.Name), maxRevisionName)] + "-" + hash
		wanted := c.history.newRevision(set, &set.Spec.Template, number, name, revisionDataHash, hash)
		created, err := c.client.AppsV1().ControllerRevisions(set.Namespace).Create(ctx, wanted, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return created, err
		}
		found, err := c.client.AppsV1().ControllerRevisions(set.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if metav1.IsControlledBy(found, set) && sameData(found, &set.Spec.Template) {
			return found, nil
		}
		*collisions++
	}
}

// templateOf returns the pod template that a revision holds.
func templateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("revision %s: %w", r.Name, err)
	}
	return &data.Spec.Template, nil
}

// act carries a plan out, in its order, or all at once where the set allows.
func (c *statefulSets) act(ctx context.Context, v *statefulView, plan []statefulStep, current, update *appsv1.ControllerRevision) error {
	do := func(s statefulStep) error {
		switch s.action {
		case createPod:
			revision := update
			if s.revision == current.Name {
				revision = current
			}
			return c.create(ctx, v.set, s, revision)
		case deletePod:
			// First, for a claim that goes with its pod must be the pod's before that goes.
			if err := c.fixClaims(ctx, v.set, s.pod); err != nil {
				return err
			}
			return c.remove(ctx, v.set, s.pod)
		case repairPod:
			return c.repair(ctx, v.set, s.pod)
		}
		return c.ensureClaims(ctx, v.set, s.pod)
	}
	if !v.ordered() {
		_, err := inBatches(len(plan), func(i int) error { return do(plan[i]) })
		return err
	}
	for _, step := range plan {
		if err := do(step); err != nil {
			return err
		}
	}
	return nil
}

func (c *statefulSets) create(ctx context.Context, set *appsv1.StatefulSet, s statefulStep, revision *appsv1.ControllerRevision) error {
	template, err := templateOf(revision)
	if err != nil {
		return err
	}
	pod := statefulPod(set, template, s.ordinal, revision.Name)
	if err := c.claimsFree(set, pod); err != nil {
		return err
	}
	if err := c.ensureClaims(ctx, set, pod); err != nil {
		c.tell(set, "Create", pod.Name, err)
		return err
	}
	created, err := c.client.CoreV1().Pods(set.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return err // the cache lags, or somebody else has the name
	case namespaceGoing(err):
		return nil
	case err == nil:
		err = c.fixClaims(ctx, set, created)
	}
	c.tell(set, "Create", pod.Name, err)
	return err
}

func (c *statefulSets) remove(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if apierrors.IsNotFound(err) {
		return nil
	}
	c.tell(set, "Delete", pod.Name, err)
	return err
}

// repair puts right what somebody changed of a pod's identity, storage or claims.
func (c *statefulSets) repair(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	if err := c.fixClaims(ctx, set, pod); err != nil {
		return err
	}
	if identityRight(pod) {
		return nil
	}
	updated := pod.DeepCopy()
	setIdentity(set, updated, ordinalOf(set, pod))
	_, err := c.client.CoreV1().Pods(pod.Namespace).Update(ctx, updated, metav1.UpdateOptions{})
	c.tell(set, "Update", pod.Name, err)
	return err
}

// tell records an event about what was done to a pod.
func (c *statefulSets) tell(set *appsv1.StatefulSet, verb, pod string, err error) {
	if err != nil {
		c.events.Eventf(set, corev1.EventTypeWarning, "Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %s", verb, pod, set.Name, err)
		return
	}
	c.events.Eventf(set, corev1.EventTypeNormal, "Successful"+verb, "%s Pod %s in StatefulSet %s successful", verb, pod, set.Name)
}

func (c *statefulSets) report(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	status.Conditions = set.Status.Conditions
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	updated := set.DeepCopy()
	updated.Status = status
	written, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	c.writes.Note(written)
	return nil
}

// prune deletes the oldest revisions beyond the history limit that nobody uses.
func (c *statefulSets) prune(ctx context.Context, v *statefulView, revisions []*appsv1.ControllerRevision) error {
	used := map[string]bool{v.current: true, v.update: true}
	for _, pod := range v.pods {
		used[pod.Labels[appsv1.StatefulSetRevisionLabel]] = true
	}
	var unused []*appsv1.ControllerRevision
	for _, r := range revisions {
		if !used[r.Name] {
			unused = append(unused, r)
		}
	}
	slices.SortFunc(unused, byRevision)
	for _, r := range unused[:excess(len(unused), v.set.Spec.RevisionHistoryLimit)] {
		if err := c.history.remove(ctx, r); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
