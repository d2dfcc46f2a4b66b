package bootstrap

import (
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// heir is a default object that took over a part of an older one. One that is missing begins as what administrators
// made of the older one, so that whom they let in or kept out stays in or out.
type heir struct {
	plural, from, name string
	// inherit makes the heir of the older object, which it may change; nil if there is nothing to take over.
	inherit func(old resource.Object) resource.Object
}

// heirs are those of Kubernetes 1.14 (public information) and 1.9 (aggregated roles).
var heirs = []heir{
	{"clusterrolebindings", "system:discovery", "system:public-info-viewer", func(old resource.Object) resource.Object {
		i := slices.IndexFunc(clusterRoleBindings, func(b binding) bool { return b.name == "system:public-info-viewer" })
		made := clusterRoleBindings[i].object().want.(*rbacv1.ClusterRoleBinding)
		made.Labels, made.Annotations = old.GetLabels(), old.GetAnnotations()
		made.Subjects = old.(*rbacv1.ClusterRoleBinding).Subjects
		return made
	}},
	{"clusterroles", "admin", "system:aggregate-to-admin", unaggregated},
	{"clusterroles", "edit", "system:aggregate-to-edit", unaggregated},
	{"clusterroles", "view", "system:aggregate-to-view", unaggregated},
}

// unaggregated takes over all of a role that does not gather its rules from others yet.
func unaggregated(old resource.Object) resource.Object {
	if old.(*rbacv1.ClusterRole).AggregationRule != nil {
		return nil
	}
	return old
}

// makeHeirs makes the heirs that are missing where the older object is there.
func makeHeirs(ctx context.Context, cluster resource.Cluster) error {
	for _, h := range heirs {
		if err := h.make(ctx, cluster); err != nil {
			return fmt.Errorf("bootstrap %s %s from %s: %w", h.plural, h.name, h.from, err)
		}
	}
	return nil
}

func (h heir) make(ctx context.Context, cluster resource.Cluster) error {
	kind := cluster.Resource(rbacv1.GroupName, h.plural)
	if _, err := cluster.Get(ctx, kind, "", h.name); !apierrors.IsNotFound(err) {
		return err
	}
	old, err := cluster.Get(ctx, kind, "", h.from)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	made := h.inherit(old.DeepCopyObject().(resource.Object))
	if made == nil {
		return nil
	}
	made.SetName(h.name)
	made.SetResourceVersion("")
	made.SetManagedFields(nil)
	_, err = cluster.Create(ctx, kind, made)
	if apierrors.IsAlreadyExists(err) {
		return nil // another server is doing the same
	}
	return err
}
