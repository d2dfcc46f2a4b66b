package services

import (
	"fmt"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// serviceIndex finds slices by the Service whose endpoints they have, by whoever they were made.
const serviceIndex = "service"

func indexByService(informer cache.SharedIndexInformer) (cache.Indexer, error) {
	return reconcile.Index(informer, serviceIndex, func(obj any) ([]string, error) {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			return nil, fmt.Errorf("index by Service: %T is no EndpointSlice", obj)
		}
		return []string{reconcile.Key{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}.String()}, nil
	})
}

// slicesOf lists the slices of a Service.
func slicesOf(index cache.Indexer, service reconcile.Key) ([]*discoveryv1.EndpointSlice, error) {
	return reconcile.Indexed[*discoveryv1.EndpointSlice](index, serviceIndex, service.String())
}

// slicesBy lists the slices of a Service that a manager made and that are not being deleted.
func slicesBy(index cache.Indexer, service reconcile.Key, manager string) ([]*discoveryv1.EndpointSlice, error) {
	all, err := slicesOf(index, service)
	if err != nil {
		return nil, err
	}
	var left []*discoveryv1.EndpointSlice
	for _, slice := range all {
		if slice.Labels[discoveryv1.LabelManagedBy] == manager && slice.DeletionTimestamp == nil {
			left = append(left, slice)
		}
	}
	return left, nil
}
