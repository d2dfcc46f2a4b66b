package webhook

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/expression"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// equivalents are the other versions in which what a is about is served.
func (w *Webhooks) equivalents(a *admission.Attributes) (rows []*resource.Resource) {
	asked := a.Served()
	for _, r := range w.config.Served() {
		if r.Stored == asked.Stored && r != asked && (a.Subresource == "" || r.Sub(a.Subresource) != nil) {
			rows = append(rows, r)
		}
	}
	return rows
}

// matches finds the row in whose version h wants to be asked about a, one of equivalents if not the one of the request;
// nil: it does not want to.
func (w *Webhooks) matches(ctx context.Context, h *hook, a *admission.Attributes, equivalents []*resource.Resource) (*resource.Resource, error) {
	if h.selectorErr != nil {
		return nil, apierrors.NewInternalError(h.selectorErr)
	}
	selected, namespaceErr := h.selectsNamespace(ctx, a)
	if !selected && namespaceErr == nil || !h.selectsObject(a) {
		return nil, nil
	}
	row := h.row(a, equivalents)
	if row == nil || namespaceErr != nil {
		return nil, onlyIf(row != nil, namespaceErr)
	}
	ok, err := w.meets(ctx, h, a, row)
	if err != nil {
		return nil, apierrors.NewForbidden(a.Served().GR(), a.Name, err)
	}
	if !ok {
		return nil, nil
	}
	return row, nil
}

func onlyIf(matters bool, err error) error {
	if matters {
		return err
	}
	return nil
}

// selectsNamespace judges the labels a namespace will have, or those of the namespace of the object. What is in no
// namespace is always selected. An error means that it cannot be told.
func (h *hook) selectsNamespace(ctx context.Context, a *admission.Attributes) (bool, error) {
	if a.Namespace == "" && !a.Resource.IsNamespace() || h.namespaces.Empty() {
		return true, nil
	}
	if obj := a.Object(); a.Resource.IsNamespace() && a.Subresource == "" && obj != nil {
		return h.namespaces.Matches(labels.Set(obj.GetLabels())), nil
	}
	namespace, err := a.Cluster.Get(ctx, a.Cluster.Resource("", "namespaces"), "", a.Namespace)
	if err != nil {
		return false, err
	}
	return h.namespaces.Matches(labels.Set(namespace.GetLabels())), nil
}

// selectsObject judges the object as it will be and as it was; one of them is enough.
func (h *hook) selectsObject(a *admission.Attributes) bool {
	matches := func(obj runtime.Object) bool {
		if obj == nil {
			return false
		}
		m, err := meta.Accessor(obj)
		return err == nil && h.objects.Matches(labels.Set(m.GetLabels()))
	}
	return h.objects.Empty() || matches(a.New) || matches(a.Old)
}

// row is that of the request if a rule names it, else, under policy Equivalent, one of another version of the kind.
func (h *hook) row(a *admission.Attributes, equivalents []*resource.Resource) *resource.Resource {
	asked := a.Served()
	for _, rule := range h.Rules {
		if applies(rule, a, asked) {
			return asked
		}
	}
	if ptr.Deref(h.MatchPolicy, admissionregistrationv1.Equivalent) != admissionregistrationv1.Equivalent {
		return nil
	}
	for _, rule := range h.Rules {
		for _, r := range equivalents {
			if applies(rule, a, r) {
				return r
			}
		}
	}
	return nil
}

func applies(rule admissionregistrationv1.RuleWithOperations, a *admission.Attributes, r *resource.Resource) bool {
	return inScope(ptr.Deref(rule.Scope, admissionregistrationv1.AllScopes), a) &&
		slices.ContainsFunc(rule.Operations, func(o admissionregistrationv1.OperationType) bool { return o == "*" || string(o) == operation(a) }) &&
		anyOr(rule.APIGroups, r.Group) && anyOr(rule.APIVersions, r.Version) &&
		slices.ContainsFunc(rule.Resources, func(name string) bool {
			parent, sub, _ := strings.Cut(name, "/")
			return (parent == "*" || parent == r.Plural) && (sub == "*" || sub == a.Subresource)
		})
}

func inScope(scope admissionregistrationv1.ScopeType, a *admission.Attributes) bool {
	clusterWide := a.Resource.IsNamespace() || a.Namespace == ""
	switch scope {
	case admissionregistrationv1.NamespacedScope:
		return !clusterWide
	case admissionregistrationv1.ClusterScope:
		return clusterWide
	}
	return scope == admissionregistrationv1.AllScopes
}

func anyOr(list []string, want string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, want)
}

// operation is the verb of a as webhooks know it.
func operation(a *admission.Attributes) string { return strings.ToUpper(a.Verb) }

// meets evaluates the match conditions. An error counts by the failure policy.
func (w *Webhooks) meets(ctx context.Context, h *hook, a *admission.Attributes, row *resource.Resource) (bool, error) {
	if len(h.conditions) == 0 {
		return true, nil
	}
	began := time.Now()
	v, err := w.variables(a, row)
	if err != nil {
		return false, h.unless(err)
	}
	holds, errs := h.evaluate(ctx, v)
	err = h.unless(utilerrors.NewAggregate(errs))
	w.metrics.conditions(h, a, time.Since(began), len(errs), !holds && err == nil)
	return holds, err
}

// evaluate evaluates the match conditions. One that is false decides, whatever others say; errs are those of the others.
func (h *hook) evaluate(ctx context.Context, v expression.Variables) (holds bool, errs []error) {
	budget := expression.MatchBudget()
	for _, c := range h.conditions {
		if c.err != nil {
			errs = append(errs, fmt.Errorf("compilation error: %w", c.err))
			continue
		}
		holds, spent, err := c.Holds(ctx, v, budget)
		switch {
		case spent:
			return false, []error{err}
		case err != nil:
			errs = append(errs, err)
		case !holds:
			return false, nil
		}
	}
	return len(errs) == 0, errs
}

// unless is err, unless h lets failures pass.
func (h *hook) unless(err error) error { return onlyIf(!h.ignoresFailures(), err) }

func (w *Webhooks) variables(a *admission.Attributes, row *resource.Resource) (v expression.Variables, err error) {
	v = expression.Variables{User: a.User, Authorizer: w.config.Authorizer,
		Target: expression.Target{Resource: a.Served().GVR(), Subresource: a.Subresource, Namespace: a.Namespace, Name: a.Name}}
	if a.New != nil {
		if v.Object, err = asMap(a.New, a, row); err != nil {
			return v, err
		}
	}
	if a.Old != nil {
		if v.OldObject, err = asMap(a.Old, a, row); err != nil {
			return v, err
		}
	}
	told := request(a, row)
	v.Request, err = runtime.DefaultUnstructuredConverter.ToUnstructured(&told)
	return v, err
}
