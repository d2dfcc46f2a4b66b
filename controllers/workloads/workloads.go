// Package workloads holds the controllers that run pods for users: ReplicaSet, ReplicationController,
// Deployment, DaemonSet, StatefulSet, Job and CronJob.
//
// Each file says what its controller promises, what wakes it, and then observes, plans with pure functions, acts
// and reports. claim.go decides which children belong to an owner, pods.go knows what a pod's status means and
// how pods are made from a template, revision.go keeps ControllerRevisions.
package workloads

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Deps is what every workload controller is made of.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// Recorder returns the recorder of a component, by the name kubectl users know.
	Recorder func(component string) record.EventRecorder
	// Workers is how many objects of a kind are worked on at once; 0 means 1.
	Workers int
}

// ownerIndex finds children by the UID of their controller, or by namespace if they have none.
const ownerIndex = "controllerUID"

func indexByOwner(informer cache.SharedIndexInformer) (cache.Indexer, error) {
	return reconcile.Index(informer, ownerIndex, func(obj any) ([]string, error) {
		child, ok := obj.(metav1.Object)
		if !ok {
			return nil, fmt.Errorf("index by owner: %T is no object", obj)
		}
		if ref := metav1.GetControllerOfNoCopy(child); ref != nil {
			return []string{string(ref.UID)}, nil
		}
		return []string{orphansOf(child.GetNamespace())}, nil
	})
}

func orphansOf(namespace string) string { return "orphans/" + namespace }

// family lists what owner controls and what it could adopt.
func family[T metav1.Object](index cache.Indexer, owner metav1.Object) ([]T, error) {
	own, err := controlled[T](index, owner.GetUID())
	if err != nil {
		return nil, err
	}
	orphans, err := reconcile.Indexed[T](index, ownerIndex, orphansOf(owner.GetNamespace()))
	if err != nil {
		return nil, err
	}
	return append(own, orphans...), nil
}

// controlled lists what the object with this UID controls.
func controlled[T metav1.Object](index cache.Indexer, owner types.UID) ([]T, error) {
	return reconcile.Indexed[T](index, ownerIndex, string(owner))
}

// adopters names the owners of a kind, listed by namespace, that would take an object without a controller.
func adopters[T metav1.Object](list func(namespace string) ([]T, error), selector func(T) *metav1.LabelSelector) func(metav1.Object) []reconcile.Key {
	return func(orphan metav1.Object) []reconcile.Key {
		owners, err := list(orphan.GetNamespace())
		if err != nil {
			return nil
		}
		var keys []reconcile.Key
		for _, owner := range owners {
			if selects(selector(owner), orphan) {
				keys = append(keys, reconcile.KeyOf(owner))
			}
		}
		return keys
	}
}

// selects tells whether a label selector matches an object. An empty one matches nothing here: no workload may
// take every object of its namespace.
func selects(selector *metav1.LabelSelector, obj metav1.Object) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(obj.GetLabels()))
}

// childSource wakes the controllers of changed children, and for children without one whom orphan names.
// Expectations, if there are any, are told of what it sees.
func childSource[T interface {
	comparable
	metav1.Object
}](informer cache.SharedIndexInformer, kind schema.GroupVersionKind, expected *reconcile.Expectations, orphan func(metav1.Object) []reconcile.Key) reconcile.Source {
	return reconcile.On(informer, func(old, changed T) []reconcile.Key {
		if expected != nil {
			observe(expected, old, changed, controllerOf(old, kind), controllerOf(changed, kind))
		}
		return ownersOf(old, changed, kind, orphan)
	})
}

// revisionSource is childSource for ControllerRevisions. A new one that has an owner wakes nobody: the owner's
// loop made it itself, or somebody made it by hand, and then it is left alone until there is something to do.
func revisionSource(informer cache.SharedIndexInformer, kind schema.GroupVersionKind, orphan func(metav1.Object) []reconcile.Key) reconcile.Source {
	return reconcile.On(informer, func(old, changed *appsv1.ControllerRevision) []reconcile.Key {
		if old == nil && controllerOf(changed, kind) != nil {
			return nil
		}
		return ownersOf(old, changed, kind, orphan)
	})
}

// ownersOf names the controllers of a child before and after a change, or who could adopt it now.
func ownersOf[T interface {
	comparable
	metav1.Object
}](old, changed T, kind schema.GroupVersionKind, orphan func(metav1.Object) []reconcile.Key) []reconcile.Key {
	var none T
	before, now := controllerOf(old, kind), controllerOf(changed, kind)
	keys := make([]reconcile.Key, 0, 2)
	if before != nil {
		keys = append(keys, reconcile.Key{Namespace: old.GetNamespace(), Name: before.Name})
	}
	if now != nil && (before == nil || now.Name != before.Name) {
		keys = append(keys, reconcile.Key{Namespace: changed.GetNamespace(), Name: now.Name})
	}
	if changed != none && metav1.GetControllerOfNoCopy(changed) == nil && changed.GetDeletionTimestamp() == nil {
		if old == none || before != nil || !sameLabels(old, changed) {
			keys = append(keys, orphan(changed)...)
		}
	}
	return keys
}

// observe tells expectations what a change means: a child that is being deleted counts as gone.
func observe[T interface {
	comparable
	metav1.Object
}](expected *reconcile.Expectations, old, changed T, before, now *metav1.OwnerReference) {
	var none T
	switch {
	case changed == none:
		if before != nil {
			expected.Deleted(before.UID, old.GetUID())
		}
	case now == nil:
	case changed.GetDeletionTimestamp() != nil:
		expected.Deleted(now.UID, changed.GetUID())
	case old == none:
		expected.Created(now.UID)
	}
}

// controllerOf returns the reference to the controller of a child if that is of the given kind.
func controllerOf[T interface {
	comparable
	metav1.Object
}](child T, kind schema.GroupVersionKind) *metav1.OwnerReference {
	var none T
	if child == none {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(child)
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	if group, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || group.Group != kind.Group {
		return nil
	}
	return ref
}

func sameLabels(a, b metav1.Object) bool {
	x, y := a.GetLabels(), b.GetLabels()
	if len(x) != len(y) {
		return false
	}
	for k, v := range x {
		if w, ok := y[k]; !ok || w != v {
			return false
		}
	}
	return true
}
