// Package devices holds the controllers of claims for devices (KEP-4381): claims are made of templates for pods,
// kept while pods use them, and given back after. Which devices a claim gets is the scheduler's to say.
package devices

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Deps is what the controllers of this package are made of.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  func(component string) record.EventRecorder
	Workers   int
}

// The indexes of pods and of claims, so that nothing looks at all of them.
const (
	podsByClaim    = "deviceClaim"
	podsByTemplate = "deviceClaimTemplate"
	claimsByOwner  = "deviceClaimOwner"
)

// indexPods keeps pods by the claims they use and by the templates they name, both as namespace/name.
func indexPods(pods cache.SharedIndexInformer) (cache.Indexer, error) {
	index := pods.GetIndexer()
	if _, ok := index.GetIndexers()[podsByClaim]; ok {
		return index, nil
	}
	return index, pods.AddIndexers(cache.Indexers{
		podsByClaim: func(obj any) ([]string, error) {
			pod, _ := obj.(*corev1.Pod)
			return texts(claimsOf(pod)), nil
		},
		podsByTemplate: func(obj any) ([]string, error) {
			pod, ok := obj.(*corev1.Pod)
			if !ok {
				return nil, nil
			}
			var names []string
			for _, c := range pod.Spec.ResourceClaims {
				if c.ResourceClaimTemplateName != nil {
					names = append(names, reconcile.Key{Namespace: pod.Namespace, Name: *c.ResourceClaimTemplateName}.String())
				}
			}
			return names, nil
		},
	})
}

// indexClaims keeps claims by the UID of the pod they were made for.
func indexClaims(claims cache.SharedIndexInformer) (cache.Indexer, error) {
	index := claims.GetIndexer()
	if _, ok := index.GetIndexers()[claimsByOwner]; ok {
		return index, nil
	}
	return index, claims.AddIndexers(cache.Indexers{claimsByOwner: func(obj any) ([]string, error) {
		claim, ok := obj.(*resourcev1.ResourceClaim)
		if !ok {
			return nil, nil
		}
		if owner := podOf(claim); owner != nil {
			return []string{string(owner.UID)}, nil
		}
		return nil, nil
	}})
}

// podOf is the pod that a claim was made for, or nil.
func podOf(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	if owner := metav1.GetControllerOfNoCopy(claim); owner != nil && owner.APIVersion == "v1" && owner.Kind == "Pod" {
		return owner
	}
	return nil
}

// claimsOf are the claims that a pod uses, as far as they are made; the one for its extended resources included.
func claimsOf(pod *corev1.Pod) []reconcile.Key {
	if pod == nil {
		return nil
	}
	var keys []reconcile.Key
	for i := range pod.Spec.ResourceClaims {
		if name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err == nil && name != nil {
			keys = append(keys, reconcile.Key{Namespace: pod.Namespace, Name: *name})
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		keys = append(keys, reconcile.Key{Namespace: pod.Namespace, Name: s.ResourceClaimName})
	}
	return keys
}

// podsIn are the keys of the pods that an index has under a key.
func podsIn(index cache.Indexer, name string, key reconcile.Key) []reconcile.Key {
	objects, err := index.ByIndex(name, key.String())
	if err != nil {
		return nil
	}
	keys := make([]reconcile.Key, 0, len(objects))
	for _, obj := range objects {
		if pod, ok := obj.(*corev1.Pod); ok {
			keys = append(keys, reconcile.KeyOf(pod))
		}
	}
	return keys
}

func texts(keys []reconcile.Key) []string {
	list := make([]string, 0, len(keys))
	for _, key := range keys {
		list = append(list, key.String())
	}
	return list
}

// done reports whether no container of a pod runs or ever will.
func done(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed ||
		pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

func named(claim *resourcev1.ResourceClaim, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("claim %s: %w", reconcile.KeyOf(claim), err)
}
