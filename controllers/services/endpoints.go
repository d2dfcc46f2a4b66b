package services

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	slices "k8s.io/endpointslice/util"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const (
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager   = "endpoint-controller"
	// maxEndpoints is the most addresses an Endpoints object is given.
	maxEndpoints = 1000
	overCapacity = "truncated"
)

// Endpoints keeps an Endpoints object of the pods that each Service with a selector selects. It is woken by the
// Service, by its pods, and by a change of the Endpoints. subsets.go works out what is in it.
func Endpoints(d Deps) reconcile.Controller {
	services := d.Informers.Core().V1().Services()
	pods := d.Informers.Core().V1().Pods()
	all := d.Informers.Core().V1().Endpoints()
	c := &endpoints{
		client: d.Client, services: services.Lister(), pods: pods.Lister(), endpoints: all.Lister(),
		triggers: slices.NewTriggerTimeTracker(),
		writes:   reconcile.NewWrites(),
		events:   d.Recorder("endpoint-controller"),
	}
	return reconcile.Controller{
		Name:    "Endpoints",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(services.Informer()),
			podSource(pods.Informer(), services.Lister()),
			reconcile.On(all.Informer(), c.endpointsChanged),
		},
		Sync: c.sync,
	}
}

type endpoints struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	triggers  *slices.TriggerTimeTracker
	writes    *reconcile.Writes
	events    record.EventRecorder
}

// endpointsChanged looks after those that are gone, and once after those that were there before us: their Service
// may have gone meanwhile.
func (c *endpoints) endpointsChanged(old, changed *corev1.Endpoints) []reconcile.Key {
	switch {
	case changed == nil:
		c.writes.Forget(old.UID)
		return []reconcile.Key{reconcile.KeyOf(old)}
	case old == nil && changed.Labels[endpointsManagedBy] == endpointsManager:
		return []reconcile.Key{reconcile.KeyOf(changed)}
	}
	return nil
}

func (c *endpoints) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	service, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(key.Namespace, key.Name)
		return 0, c.remove(ctx, key)
	}
	if err != nil {
		return 0, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return 0, nil // whoever made the Service makes them
	}
	pods, err := c.pods.Pods(key.Namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return 0, err
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(key.Namespace, service, pods)

	has, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	switch {
	case apierrors.IsNotFound(err):
		has = nil
	case err != nil:
		return 0, err
	case !c.writes.Seen(has):
		return staleRetry, nil
	}
	wanted := endpointsFor(service, pods, trigger)
	if has != nil && upToDate(has, wanted) {
		return 0, nil
	}
	return 0, c.write(ctx, service, has, wanted)
}

// remove deletes the Endpoints of a Service that is gone, also those made by hand.
func (c *endpoints) remove(ctx context.Context, key reconcile.Key) error {
	if _, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name); apierrors.IsNotFound(err) {
		return nil
	}
	err := c.client.CoreV1().Endpoints(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete endpoints: %w", err)
	}
	return nil
}

// endpointsFor makes the Endpoints of a Service.
func endpointsFor(service *corev1.Service, pods []*corev1.Pod, trigger time.Time) *corev1.Endpoints {
	e := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Name: service.Name, Namespace: service.Namespace,
			Labels:      with(service.Labels, endpointsManagedBy, endpointsManager),
			Annotations: map[string]string{},
		},
		Subsets: subsetsOf(service, pods),
	}
	delete(e.Labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone || service.Spec.ClusterIP == "" {
		e.Labels[corev1.IsHeadlessService] = ""
	}
	if !trigger.IsZero() {
		e.Annotations[corev1.EndpointsLastChangeTriggerTime] = trigger.UTC().Format(time.RFC3339Nano)
	}
	if truncate(e.Subsets, maxEndpoints) {
		e.Annotations[corev1.EndpointsOverCapacity] = overCapacity
	}
	return e
}

// upToDate compares all but the trigger time, which only tells when the rest changed, and what others annotated.
func upToDate(has, wanted *corev1.Endpoints) bool {
	_, hadTooMany := has.Annotations[corev1.EndpointsOverCapacity]
	_, tooMany := wanted.Annotations[corev1.EndpointsOverCapacity]
	return hadTooMany == tooMany && maps.Equal(has.Labels, wanted.Labels) && equality.Semantic.DeepEqual(has.Subsets, wanted.Subsets)
}

func (c *endpoints) write(ctx context.Context, service *corev1.Service, has, wanted *corev1.Endpoints) error {
	client := c.client.CoreV1().Endpoints(service.Namespace)
	if has == nil {
		_, err := client.Create(ctx, wanted, metav1.CreateOptions{})
		if err == nil || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		c.events.Eventf(wanted, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %v/%v: %v", service.Namespace, service.Name, err)
		return fmt.Errorf("create endpoints: %w", err)
	}
	updated := has.DeepCopy()
	updated.Labels, updated.Subsets = wanted.Labels, wanted.Subsets
	for _, ours := range []string{corev1.EndpointsLastChangeTriggerTime, corev1.EndpointsOverCapacity} {
		delete(updated.Annotations, ours)
		if value, ok := wanted.Annotations[ours]; ok {
			metav1.SetMetaDataAnnotation(&updated.ObjectMeta, ours, value)
		}
	}
	written, err := client.Update(ctx, updated, metav1.UpdateOptions{})
	if err != nil {
		c.events.Eventf(updated, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %v/%v: %v", service.Namespace, service.Name, err)
		return fmt.Errorf("update endpoints: %w", err)
	}
	c.writes.Note(written)
	return nil
}
