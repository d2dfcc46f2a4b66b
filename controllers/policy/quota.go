package policy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
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
		added:   map[string]time.Time{},
	}
	counter.OnCount(c.countChanged)
	return reconcile.Controller{
		Name:    "ResourceQuota",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(quotas.Informer(), quotaChanged),
			c.counted.Source(),
			reconcile.On(core.Pods().Informer(), func(old, pod *corev1.Pod) []reconcile.Key {
				return c.usageChanged(quota.Pods, podOrNil(old), podOrNil(pod))
			}),
			reconcile.On(core.Services().Informer(), func(old, service *corev1.Service) []reconcile.Key {
				if old == nil || service == nil {
					return nil // its count has changed
				}
				return c.usageChanged(quota.Services, old, service)
			}),
			reconcile.On(core.PersistentVolumeClaims().Informer(), func(old, claim *corev1.PersistentVolumeClaim) []reconcile.Key {
				if old == nil || claim == nil {
					return nil
				}
				return c.usageChanged(quota.Claims, old, claim)
			}),
			reconcile.Synced(devices.Informer()), // what a claim asks for does not change
		},
		Sync: c.sync,
	}
}

// quotaChanged leaves out what the API server charges: it does so before the object is stored, and we would take
// it back.
func quotaChanged(old, q *corev1.ResourceQuota) []reconcile.Key {
	if q == nil || old != nil && equality.Semantic.DeepEqual(old.Spec, q.Spec) && equality.Semantic.DeepEqual(q.Status.Hard, q.Spec.Hard) {
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(q)}
}

// podOrNil makes a nil pod a nil object.
func podOrNil(pod *corev1.Pod) runtime.Object {
	if pod == nil {
		return nil
	}
	return pod
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

	mu    sync.Mutex
	added map[string]time.Time // when an object was last added to a namespace with quotas
}

// countChanged wakes the quotas that limit a resource whose number has changed. It is called for every object
// there is, so it looks for quotas first.
func (c *quotaLoop) countChanged(resource schema.GroupResource, namespace string, added bool) {
	if namespace == "" || resource == quota.Pods {
		return // pods are looked at closer
	}
	for _, key := range c.limiting(resource, namespace, added) {
		c.counted.Add(key)
	}
}

// usageChanged names the quotas that limit a resource if an object uses another amount of it than before.
func (c *quotaLoop) usageChanged(kind schema.GroupResource, old, changed runtime.Object) []reconcile.Key {
	now := time.Now()
	if old != nil && changed != nil && equality.Semantic.DeepEqual(quota.Usage(kind, old, now), quota.Usage(kind, changed, now)) {
		return nil
	}
	obj := changed
	if obj == nil {
		obj = old
	}
	return c.limiting(kind, obj.(metav1.Object).GetNamespace(), old == nil)
}

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
		c.mu.Lock()
		c.added[namespace] = time.Now()
		c.mu.Unlock()
	}
	return keys
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
	at, ok := c.added[namespace]
	if !ok {
		return 0
	}
	left := settle - time.Since(at)
	if left <= 0 {
		delete(c.added, namespace)
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
