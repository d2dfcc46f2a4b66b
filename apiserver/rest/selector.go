package rest

import (
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// match makes the store's Match of the selectors of a request; nil selectors
// select all. Unknown fields are a 400.
func match(t *target, label labels.Selector, field fields.Selector) (store.Match, error) {
	m := store.Match{Namespace: t.namespace}
	var requirements fields.Requirements
	if field != nil {
		requirements = field.Requirements()
	}
	for _, q := range requirements {
		if err := knownField(t.resource, q.Field); err != nil {
			return m, err
		}
	}
	if t.name != "" {
		if name, ok := exact(requirements, "metadata.name"); len(requirements) > 0 && (!ok || name != t.name) {
			return m, apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
		}
		m.Name = t.name
	} else if name, ok := exact(requirements, "metadata.name"); ok {
		m.Name = name
	}
	if value, ok := exact(requirements, t.resource.IndexBy); ok && t.resource.IndexBy != "" {
		m.IndexValue = value
	}
	if label != nil && !label.Empty() {
		m.Labels = label
	}
	kept, others := split(t.resource, requirements)
	m.Fields = kept
	if len(others) > 0 {
		m.Select = func(stored resource.Object) bool { return selects(t.resource, others, stored) }
	}
	return m, nil
}

// split tells the requirements that the store can judge without opening objects.
func split(r *resource.Resource, requirements fields.Requirements) (kept, others fields.Requirements) {
	for _, q := range requirements {
		if r == r.Stored && r.Fields[q.Field] != nil {
			kept = append(kept, q)
		} else {
			others = append(others, q)
		}
	}
	return kept, others
}

// knownField is the error for a field of r that cannot be selected by. Kinds
// that have fields of their own say it in other words than the rest.
func knownField(r *resource.Resource, name string) error {
	own := r.Custom != nil || len(r.Fields) > 0 && r.Group != "apps"
	if name == "metadata.name" || name == "metadata.namespace" && (r.Namespaced() || !own) {
		return nil
	}
	if _, ok := r.Fields[name]; ok {
		return nil
	}
	if _, stored := r.Stored.Fields[name]; stored && r.Fields == nil {
		return nil
	}
	switch {
	case own && r.Group == "batch":
		return apierrors.NewBadRequest(fmt.Sprintf("field label %q not supported for %s", name, r.Kind))
	case own && r.Group == "resource.k8s.io":
		return apierrors.NewBadRequest(fmt.Sprintf("field label not supported for %s: %s", r.GVK(), name))
	case own:
		return apierrors.NewBadRequest("field label not supported: " + name)
	}
	return apierrors.NewBadRequest(fmt.Sprintf(`%q is not a known field selector: only "metadata.name", "metadata.namespace"`, name))
}

// exact is the value a field must have, if requirements fix it.
func exact(requirements fields.Requirements, name string) (string, bool) {
	i := slices.IndexFunc(requirements, func(q fields.Requirement) bool { return q.Field == name && q.Operator != selection.NotEquals })
	if i < 0 || name == "" {
		return "", false
	}
	return requirements[i].Value, true
}

func selects(r *resource.Resource, requirements fields.Requirements, stored resource.Object) bool {
	if len(requirements) == 0 {
		return true
	}
	obj := stored
	if slices.ContainsFunc(requirements, func(q fields.Requirement) bool { return !strings.HasPrefix(q.Field, "metadata.") }) {
		converted, err := r.FromStored(stored)
		if err != nil {
			return false // who reads it is told why
		}
		obj = converted
	}
	for _, q := range requirements {
		if fieldMatches(r, q.Field, q.Value, obj) == (q.Operator == selection.NotEquals) {
			return false
		}
	}
	return true
}

func fieldMatches(r *resource.Resource, name, value string, obj resource.Object) bool {
	switch name {
	case "metadata.name":
		return obj.GetName() == value
	case "metadata.namespace":
		return obj.GetNamespace() == value
	}
	get := r.Fields[name]
	return get != nil && get(obj) == value
}
