package webhook

import (
	"context"
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/expression"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// matches finds the row in whose version h wants to be asked about a, one of equivalents if not the one of the request;
// nil: it does not want to.
func (w *Webhooks) matches(ctx context.Context, h *hook, a *admission.Attributes, equivalents []*resource.Resource) (*resource.Resource, error) {
	if h.selectorErr != nil {
		return nil, apierrors.NewInternalError(h.selectorErr)
	}
	selected, namespaceErr := h.selectors.Namespace(ctx, a)
	if !selected && namespaceErr == nil || !h.selectors.Object(a) {
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

// row is that of the request if a rule names it, else, under policy Equivalent, one of another version of the kind.
func (h *hook) row(a *admission.Attributes, equivalents []*resource.Resource) *resource.Resource {
	asked := a.Served()
	for i := range h.Rules {
		if matching.Applies(&h.Rules[i], a, asked) {
			return asked
		}
	}
	if ptr.Deref(h.MatchPolicy, admissionregistrationv1.Equivalent) != admissionregistrationv1.Equivalent {
		return nil
	}
	for i := range h.Rules {
		for _, r := range equivalents {
			if matching.Applies(&h.Rules[i], a, r) {
				return r
			}
		}
	}
	return nil
}

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
	view := matching.View{Attributes: a, Row: row}
	if v.Object, err = view.Map(a.New); err != nil {
		return v, err
	}
	if v.OldObject, err = view.Map(a.Old); err != nil {
		return v, err
	}
	v.Request, err = view.RequestMap(row.GVR())
	return v, err
}
