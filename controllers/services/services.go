// Package services holds the controllers that say which pods are behind a Service: as EndpointSlices
// (endpointslice.go), as Endpoints for clients of old (endpoints.go), and Endpoints made by hand as EndpointSlices
// (mirror.go). It also keeps the ranges that Services have their addresses from (ranges.go).
package services

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	slices "k8s.io/endpointslice/util"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Deps is what the controllers of this package are made of.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  func(component string) record.EventRecorder
	Workers   int
}

// podSource wakes the Services that select a changed pod, or did before, if the change matters to them.
func podSource(pods cache.SharedIndexInformer, services corelisters.ServiceLister) reconcile.Source {
	return reconcile.On(pods, func(old, pod *corev1.Pod) []reconcile.Key {
		var before, now any
		if old != nil {
			before = old
		}
		if pod != nil {
			now = pod
		}
		var projection *slices.PodProjectionKey
		switch {
		case before == nil:
			projection = slices.GetPodUpdateProjectionKey(nil, now)
		case now == nil:
			projection = slices.GetPodUpdateProjectionKey(nil, before)
		default:
			projection = slices.GetPodUpdateProjectionKey(before, now)
		}
		if projection == nil {
			return nil
		}
		names, err := slices.GetServicesToUpdate(services, projection)
		if err != nil {
			return nil
		}
		keys := make([]reconcile.Key, 0, len(names))
		for name := range names {
			namespace, name, _ := strings.Cut(name, "/")
			keys = append(keys, reconcile.Key{Namespace: namespace, Name: name})
		}
		return keys
	})
}

// sliceSource wakes the owner of an EndpointSlice that is managed by name, or was before, when it was changed by
// somebody else.
func sliceSource(informer cache.SharedIndexInformer, name string, tracker *slices.EndpointSliceTracker) reconcile.Source {
	ours := func(s *discoveryv1.EndpointSlice) bool {
		return s != nil && s.Labels[discoveryv1.LabelManagedBy] == name
	}
	return reconcile.On(informer, func(old, slice *discoveryv1.EndpointSlice) []reconcile.Key {
		switch {
		case slice == nil:
			if !ours(old) || !tracker.Has(old) || tracker.HandleDeletion(old) {
				return nil
			}
			return ownerOfSlice(old)
		case old == nil:
			if !ours(slice) || !tracker.ShouldSync(slice) {
				return nil
			}
			return ownerOfSlice(slice)
		case !ours(old) && !ours(slice):
			return nil
		case ours(old) != ours(slice), old.Labels[discoveryv1.LabelServiceName] != slice.Labels[discoveryv1.LabelServiceName]:
			return append(ownerOfSlice(old), ownerOfSlice(slice)...)
		case tracker.ShouldSync(slice):
			return ownerOfSlice(slice)
		}
		return nil
	})
}

// ownerOfSlice is the key of the Service that a slice belongs to.
func ownerOfSlice(slice *discoveryv1.EndpointSlice) []reconcile.Key {
	name := slice.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return nil
	}
	return []reconcile.Key{{Namespace: slice.Namespace, Name: name}}
}

// with returns labels with one more. It changes nothing.
func with(labels map[string]string, key, value string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	return labels
}
