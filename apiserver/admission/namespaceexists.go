package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespaceExists refuses what is about objects in namespaces that are not there.
func namespaceExists() Plugin {
	return Plugin{Name: "NamespaceExists", Validate: func(ctx context.Context, a *Attributes) error {
		if a.Namespace == "" || a.Resource.IsNamespace() || a.Verb == connect {
			return nil
		}
		_, err := get[*corev1.Namespace](ctx, a.Cluster, "", "namespaces", "", a.Namespace)
		return err
	}}
}

// namespaceAutoProvision makes the namespaces that objects are created in.
func namespaceAutoProvision() Plugin {
	return Plugin{Name: "NamespaceAutoProvision", Mutate: func(ctx context.Context, a *Attributes) error {
		if a.Namespace == "" || a.Resource.IsNamespace() || a.Verb != create || a.DryRun {
			return nil
		}
		_, err := get[*corev1.Namespace](ctx, a.Cluster, "", "namespaces", "", a.Namespace)
		if !apierrors.IsNotFound(err) {
			return err
		}
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.Namespace}}
		if _, err := a.Cluster.Create(ctx, a.Cluster.Resource("", "namespaces"), namespace); err != nil && !apierrors.IsAlreadyExists(err) {
			return a.forbid("%w", err)
		}
		return nil
	}}
}
