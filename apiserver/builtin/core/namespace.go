package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func namespaces() *resource.Resource {
	return resource.Define[corev1.NamespaceList](resource.Definition[corev1.Namespace]{
		Version: "v1", Kind: "Namespace", Plural: "namespaces", ShortNames: []string{"ns"},
		AnswersDeleted: true,
		ClusterScoped:  true,
		// A namespace takes everything in it along, so there is no
		// deletecollection.
		Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},

		Default:  defaultNamespace,
		Prepare:  prepareNamespace,
		Validate: validateNamespace,
		Name:     validation.NameIsDNSLabel,
		Fields: map[string]func(*corev1.Namespace) string{
			"name":         func(n *corev1.Namespace) string { return n.Name },
			"status.phase": func(n *corev1.Namespace) string { return string(n.Status.Phase) },
		},
		Columns: []resource.Column[*corev1.Namespace]{
			resource.NameColumn[*corev1.Namespace](),
			table.Text("Status", "The status of the namespace", func(n *corev1.Namespace) string { return string(n.Status.Phase) }),
			resource.AgeColumn[*corev1.Namespace](),
		},
		Subresources: []resource.Subresource[corev1.Namespace]{
			{Name: "finalize", View: true, Verbs: []string{"update"},
				Prepare: prepareNamespaceFinalize, Reset: []string{"status"}, Validate: validateFinalize},
			{Name: "status", View: true,
				Prepare: prepareNamespaceStatus, Validate: validateNamespaceStatus},
		},
		Terminate: func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating },
		Held:      func(n *corev1.Namespace) bool { return len(n.Spec.Finalizers) > 0 },
	})
}

func defaultNamespace(n *corev1.Namespace) {
	if n.Status.Phase == "" {
		n.Status.Phase = corev1.NamespaceActive
	}
	labelWithName(n)
}

// labelWithName lets selectors name a namespace. A generated name is known
// only when the object is prepared.
func labelWithName(n *corev1.Namespace) {
	if n.Name == "" {
		return
	}
	if n.Labels == nil {
		n.Labels = make(map[string]string)
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func prepareNamespace(n, old *corev1.Namespace) {
	labelWithName(n)
	if old != nil {
		n.Spec.Finalizers = old.Spec.Finalizers
		n.Status = *old.Status.DeepCopy()
		return
	}
	n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func prepareNamespaceFinalize(n, old *corev1.Namespace) {
	n.Status = *old.Status.DeepCopy()
}

func prepareNamespaceStatus(n, old *corev1.Namespace) {
	n.Spec = *old.Spec.DeepCopy()
}

func validateNamespace(n, _ *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for _, name := range n.Spec.Finalizers {
		errs = append(errs, validateFinalizer(name, field.NewPath("spec", "finalizers"))...)
	}
	return errs
}

func validateFinalize(n, _ *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, name := range n.Spec.Finalizers {
		errs = append(errs, validateFinalizer(name, field.NewPath("spec", "finalizers").Index(i))...)
	}
	return errs
}

func validateFinalizer(name corev1.FinalizerName, path *field.Path) field.ErrorList {
	errs := check.Qualified(string(name), path)
	if name != corev1.FinalizerKubernetes && !hasSlash(string(name)) {
		errs = append(errs, field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified"))
	}
	return errs
}

func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	if n.DeletionTimestamp.IsZero() {
		if n.Status.Phase != corev1.NamespaceActive {
			return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
		}
		return nil
	}
	if n.Status.Phase != corev1.NamespaceTerminating {
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
