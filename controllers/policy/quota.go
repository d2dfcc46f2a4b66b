package policy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/quota"
)

// settle is how long after an object was added its quotas are left to the API server, which has charged them
// already: counting while more are on their way would take back what it charged for those.
const settle = time.Second

// recount is after which time usage is counted although nothing was heard: pods cease to count with time.
const recount = 5 * time.Minute

// Counter knows how many objects there are.
type Counter interface {
	// Count is not ok if the number is not known, yet or at all.
	Count(resource schema.GroupResource, namespace string) (n int, ok bool)
	// OnCount sets what is called when a number has changed. It must not block.
	OnCount(changed func(resource schema.GroupResource, namespace string, added bool))
}

// Quota keeps the status of ResourceQuotas: what is limited and how much of it is used. The API server charges
// new objects to it; this gives back what was deleted, and corrects what was charged in vain. It is woken by the
// quota, and by objects it counts. Package quota says what an object uses.
func Quota(d Deps, counter Counter) reconcile.Controller {
	quotas := d.Informers.Core().V1().ResourceQuotas()
	core, devices := d.Informers.Core().V1(), d.Informers.Resource().V1().ResourceClaims()
	c := &quotaLoop{
		client: d.Client, quotas: quotas.Lister(), counter: counter,
		pods: core.Pods().Lister(), services: core.Services().Lister(), claims: core.PersistentVolumeClaims().Lister(),
		devices: devices.Lister(),
		charged: map[string]time.Time{},
	}
	counter.OnCount(c.countChanged)
	return reconcile.Controller{
		Name:    "ResourceQuota",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(quotas.Informer(), c.quotaChanged),
			c.counted.Source(),
			reconcile.On(core.Pods().Informer(), usageOf[*corev1.Pod](c, quota.Pods)),
			reconcile.On(core.Services().Informer(), usageOf[*corev1.Service](c, quota.Services)),
			reconcile.On(core.PersistentVolumeClaims().Informer(), usageOf[*corev1.PersistentVolumeClaim](c, quota.Claims)),
			reconcile.On(devices.Informer(), usageOf[*resourcev1.ResourceClaim](c, quota.DeviceClaims)),
		},
		Sync: c.sync,
	}
}

// listed are the kinds that are counted from informers of their own. Only these wake their quotas: the Counter may know
// of a deletion before the informer does, and nothing would tell when the informer does too.
var listed = []schema.GroupResource{quota.Pods, quota.Services, quota.Claims, quota.DeviceClaims}

// quotaChanged has what the API server charges looked at after a while. It does so before the object is stored, and
// counting at once would take it back; not counting would keep what is charged in vain, or is gone already.
func (c *quotaLoop) quotaChanged(old, q *corev1.ResourceQuota) []reconcile.Key {
	if q == nil {
		return nil
	}
	if old != nil && equality.Semantic.DeepEqual(old.Spec, q.Spec) && equality.Semantic.DeepEqual(q.Status.Hard, q.Spec.Hard) {
		if !isMore(old.Status.Used, q.Status.Used) {
			return nil // given back, by this controller
		}
		c.leaveAlone(q.Namespace)
	}
	return []reconcile.Key{reconcile.KeyOf(q)}
}

func isMore(before, now corev1.ResourceList) bool {
	for name, amount := range now {
		if was := before[name]; amount.Cmp(was) > 0 {
			return true
		}
	}
	return false
}

// usageOf wakes the quotas of a kind when an object of it uses something else than before.
func usageOf[T interface {
	comparable
	metav1.Object
	runtime.Object
}](c *quotaLoop, kind schema.GroupResource) func(old, changed T) []reconcile.Key {
	return func(old, changed T) []reconcile.Key {
		var none T
		switch {
		case old == none:
			return c.limiting(kind, changed.GetNamespace(), true)
		case changed == none:
			return c.limiting(kind, old.GetNamespace(), false)
		}
		now := time.Now()
		if equality.Semantic.DeepEqual(quota.Usage(kind, old, now), quota.Usage(kind, changed, now)) {
			return nil
		}
		return c.limiting(kind, changed.GetNamespace(), false)
	}
}

type quotaLoop struct {
	client   kubernetes.Interface
	quotas   corelisters.ResourceQuotaLister
	pods     corelisters.PodLister
	services corelisters.ServiceLister
	claims   corelisters.PersistentVolumeClaimLister
	devices  resourcelisters.ResourceClaimLister
	counter  Counter
	counted  reconcile.Feed

	mu      sync.Mutex
	charged map[string]time.Time // when quotas of a namespace were last charged, or an object of theirs added
}

// countChanged wakes the quotas that limit a resource whose number has changed. It is called for every object
// there is, so it looks for quotas first.
func (c *quotaLoop) countChanged(resource schema.GroupResource, namespace string, added bool) {
	if namespace == "" || slices.Contains(listed, resource) {
		return
	}
	for _, key := range c.limiting(resource, namespace, added) {
		c.counted.Add(key)
	}
}

// limiting names the quotas that limit a kind in a namespace, where an object of it was added, or has changed.
func (c *quotaLoop) limiting(kind schema.GroupResource, namespace string, added bool) []reconcile.Key {
	quotas, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var keys []reconcile.Key
	for _, q := range quotas {
		if len(quota.Limited(q.Spec.Hard, kind)) > 0 {
			keys = append(keys, reconcile.KeyOf(q))
		}
	}
	if added && len(keys) > 0 {
		c.leaveAlone(namespace)
	}
	return keys
}

// leaveAlone has the quotas of a namespace wait until it is settled.
func (c *quotaLoop) leaveAlone(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.charged[namespace] = time.Now()
}

func (c *quotaLoop) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	q, err := c.quotas.ResourceQuotas(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil || q.DeletionTimestamp != nil {
		return 0, err
	}
	if wait := c.unsettled(key.Namespace); wait > 0 && q.Status.Hard != nil {
		return wait, nil
	}
	used, known := c.count(q, time.Now())
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}
	if !equality.Semantic.DeepEqual(status, q.Status) {
		updated := q.DeepCopy()
		updated.Status = status
		if _, err := c.client.CoreV1().ResourceQuotas(q.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return 0, fmt.Errorf("update status: %w", err)
		}
	}
	if !known {
		return settle, nil
	}
	return recount, nil
}

// unsettled is how long a namespace should be left alone.
func (c *quotaLoop) unsettled(namespace string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.charged[namespace]
	if !ok {
		return 0
	}
	left := settle - time.Since(at)
	if left <= 0 {
		delete(c.charged, namespace)
	}
	return max(left, 0)
}

// count adds up what is used of what a quota limits. What cannot be counted yet keeps its last figure, and known
// is false.
func (c *quotaLoop) count(q *corev1.ResourceQuota, now time.Time) (used corev1.ResourceList, known bool) {
	used, known = corev1.ResourceList{}, true
	done := map[schema.GroupResource]bool{}
	for name := range q.Spec.Hard {
		kind, ok := quota.Kind(name)
		if !ok || done[kind] {
			continue
		}
		done[kind] = true
		of, ok := c.usedOf(q, kind, now)
		if !ok {
			known = false
			of = lastFigures(q, kind)
		}
		for name, quantity := range of {
			used[name] = quantity
		}
	}
	return used, known
}

// lastFigures are what the status says of a kind, zero where it says nothing.
func lastFigures(q *corev1.ResourceQuota, kind schema.GroupResource) corev1.ResourceList {
	figures := corev1.ResourceList{}
	for _, name := range quota.Limited(q.Spec.Hard, kind) {
		if last, ok := q.Status.Used[name]; ok {
			figures[name] = last
		} else {
			figures[name] = *resource.NewQuantity(0, resource.DecimalSI)
		}
	}
	return figures
}

func (c *quotaLoop) usedOf(q *corev1.ResourceQuota, kind schema.GroupResource, now time.Time) (corev1.ResourceList, bool) {
	switch kind {
	case quota.Pods:
		pods, err := c.pods.Pods(q.Namespace).List(labels.Everything())
		return quota.Used(q, kind, objects(pods), now), err == nil
	case quota.Services:
		services, err := c.services.Services(q.Namespace).List(labels.Everything())
		return quota.Used(q, kind, objects(services), now), err == nil
	case quota.Claims:
		claims, err := c.claims.PersistentVolumeClaims(q.Namespace).List(labels.Everything())
		return quota.Used(q, kind, objects(claims), now), err == nil
	case quota.DeviceClaims:
		claims, err := c.devices.ResourceClaims(q.Namespace).List(labels.Everything())
		return quota.Used(q, kind, objects(claims), now), err == nil
	}
	n, ok := c.counter.Count(kind, q.Namespace)
	if !ok {
		return nil, false
	}
	// All objects of such a kind use the same: one.
	return quota.Used(q, kind, slices.Repeat([]runtime.Object{&metav1.PartialObjectMetadata{}}, n), now), true
}

func objects[T runtime.Object](list []T) []runtime.Object {
	all := make([]runtime.Object, 0, len(list))
	for _, obj := range list {
		all = append(all, obj)
	}
	return all
}
