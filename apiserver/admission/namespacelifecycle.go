package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// immortalNamespaces cannot be deleted.
var immortalNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

// namespaceLifecycle refuses objects in namespaces that are missing or being
// deleted, and the deletion of namespaces the system needs.
func namespaceLifecycle() Plugin {
	return Plugin{Name: "NamespaceLifecycle", Mutate: func(ctx context.Context, a *Attributes) error {
		isNamespace := a.Resource.IsNamespace()
		if isNamespace && a.Verb == remove && slices.Contains(immortalNamespaces, a.Name) {
			return a.forbid("this namespace may not be deleted")
		}
		// What may be asked about a namespace must not tell whether it exists.
		review := a.Resource.Group == "authorization.k8s.io" && a.Resource.Plural == "localsubjectaccessreviews"
		if isNamespace || a.Namespace == "" || review || a.Verb == remove || a.Verb == connect {
			return nil
		}
		namespace, err := get[*corev1.Namespace](ctx, a.Cluster, "", "namespaces", "", a.Namespace)
		if err != nil {
			return err
		}
		if a.Verb != create || namespace.Status.Phase != corev1.NamespaceTerminating {
			return nil
		}
		return a.terminating()
	}}
}

// terminating refuses to create in a namespace that is being deleted. Clients
// know it by the cause.
func (a *Attributes) terminating() error {
	err := apierrors.NewForbidden(a.Resource.GR(), a.shownName(),
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.Namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace),
		Field:   "metadata.namespace",
	})
	return err
}
