package services

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	slices "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const (
	// sliceManager is the managed-by label of the slices this controller makes.
	sliceManager = "endpointslice-controller.k8s.io"
	// endpointsPerSlice is the most endpoints it puts into one.
	endpointsPerSlice = 100
	// staleRetry is after which time a slice cache that lagged is looked at again.
	staleRetry = 100 * time.Millisecond
)

// EndpointSlice keeps EndpointSlices of the pods that each Service with a selector selects. What slices there
// should be is worked out by k8s.io/endpointslice. It is woken by the Service, by its pods, by changes of its
// slices that are not its own, and by nodes for the hints that name zones.
func EndpointSlice(d Deps) (reconcile.Controller, error) {
	services := d.Informers.Core().V1().Services()
	pods := d.Informers.Core().V1().Pods()
	nodes := d.Informers.Core().V1().Nodes()
	all := d.Informers.Discovery().V1().EndpointSlices()
	index, err := indexByService(all.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	events := d.Recorder("endpoint-slice-controller")
	c := &endpointSlices{
		services: services.Lister(), pods: pods.Lister(), nodes: nodes.Lister(), slices: index,
		tracker:  slices.NewEndpointSliceTracker(),
		triggers: slices.NewTriggerTimeTracker(),
		topology: topologycache.NewTopologyCache(),
		events:   events,
	}
	c.reconciler = endpointslice.NewReconciler(d.Client, nodes.Lister(), endpointsPerSlice, c.tracker, c.topology, events, sliceManager,
		endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	return reconcile.Controller{
		Name:    "EndpointSlice",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(services.Informer()),
			podSource(pods.Informer(), services.Lister()),
			sliceSource(all.Informer(), sliceManager, c.tracker),
			reconcile.On(nodes.Informer(), nodeChanged),
			c.overloaded.Source(),
		},
		Sync: c.sync,
	}, nil
}

type endpointSlices struct {
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	slices     cache.Indexer
	tracker    *slices.EndpointSliceTracker
	triggers   *slices.TriggerTimeTracker
	topology   *topologycache.TopologyCache
	reconciler *endpointslice.Reconciler
	events     record.EventRecorder
	overloaded reconcile.Feed // Services whose hints have become unfair
}

// allNodes is the key of the work on the picture of all zones together: it is drawn once for any number of nodes
// that change in a moment.
var allNodes = reconcile.Key{Name: "nodes"}

func nodeChanged(old, node *corev1.Node) []reconcile.Key {
	if old != nil && node != nil && old.Labels[corev1.LabelTopologyZone] == node.Labels[corev1.LabelTopologyZone] &&
		ready(old) == ready(node) && old.Status.Allocatable.Cpu().Equal(*node.Status.Allocatable.Cpu()) {
		return nil
	}
	return []reconcile.Key{allNodes}
}

// drawZones makes the picture of the zones anew, and wakes the Services whose hints have become unfair by it.
func (c *endpointSlices) drawZones() error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	c.topology.SetNodes(logr.Discard(), nodes) // it complains of every node without a zone
	for _, name := range c.topology.GetOverloadedServices() {
		if key, err := reconcile.ParseKey(name); err == nil {
			c.overloaded.Add(key)
		}
	}
	return nil
}

func ready(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (c *endpointSlices) sync(_ context.Context, key reconcile.Key) (time.Duration, error) {
	if key == allNodes {
		return 0, c.drawZones()
	}
	service, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(key.Namespace, key.Name)
		c.reconciler.DeleteService(key.Namespace, key.Name)
		c.tracker.DeleteService(key.Namespace, key.Name)
		return 0, nil // its slices are the garbage collector's
	}
	if err != nil {
		return 0, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return 0, nil
	}
	pods, err := c.pods.Pods(key.Namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return 0, err
	}
	existing, err := slicesBy(c.slices, key, sliceManager)
	if err != nil {
		return 0, err
	}
	if c.tracker.StaleSlices(service, existing) {
		return staleRetry, nil
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(key.Namespace, service, pods)
	err = c.reconciler.Reconcile(klog.Background(), service, pods, existing, trigger)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	if err != nil {
		c.events.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", key.Namespace, key.Name, err)
		return 0, fmt.Errorf("update slices: %w", err)
	}
	return 0, nil
}
