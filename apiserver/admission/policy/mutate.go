package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// invocation is one use of a policy on a write. All are settled before the first one changes the object.
type invocation struct {
	*definition
	binding *binding
	row     *resource.Resource
	param   param
}

// id is what an invocation is known by from one round to the next.
type id struct{ policy, binding, paramNamespace, paramName string }

func (i *invocation) id() id {
	return id{i.name, i.binding.name, i.param.namespace, i.param.name}
}

// memory is what the first round of a write leaves for the second.
type memory struct {
	asked map[id]bool    // invocations to be repeated if the object changes
	again map[id]bool    // invocations that will be
	left  runtime.Object // what the first round made
}

// changed remembers that the object is not what earlier policies saw.
func (m *memory) changed() {
	for i := range m.asked {
		m.again[i] = true
	}
	clear(m.asked)
}

// mutate asks the mutating policies, each about what the one before it made.
func (p *Policies) mutate(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) || a.Verb == "delete" {
		return nil
	}
	policies, err := p.mutating.load(ctx, a.Cluster)
	if err != nil || len(policies) == 0 {
		return err
	}
	w := p.newWrite(a)
	var failures []failure
	var due []invocation
	for _, d := range policies {
		found, failed := p.invocations(ctx, w, d)
		due, failures = append(due, found...), append(failures, failed...)
	}
	more, err := p.invoke(ctx, w, due)
	if err != nil {
		return err
	}
	return refuse(a, append(failures, more...))
}

// failure is a policy that could not do what it says.
type failure struct {
	*definition
	binding *binding // may be nil
	err     error
	reason  metav1.StatusReason // may be empty: Forbidden
}

func (f failure) text() string {
	if f.binding == nil {
		return fmt.Sprintf("policy %q denied request: %v", f.name, f.err)
	}
	return fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", f.name, f.binding.name, f.err)
}

// refuse is the error for failures of policies that do not let them pass.
func refuse(a *admission.Attributes, failures []failure) error {
	var refusal *apierrors.StatusError
	for _, f := range failures {
		if f.ignores {
			continue
		}
		if refusal == nil {
			refusal = a.Forbidden(errors.New("admission request denied by policy"))
			refusal.ErrStatus.Message = f.text()
			if f.reason != "" {
				refusal.ErrStatus.Reason = f.reason
			}
		}
		refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{Message: f.text()})
	}
	if refusal == nil {
		return nil
	}
	return refusal
}

// invocations are the uses of a policy on a write, for all of its bindings.
func (p *Policies) invocations(ctx context.Context, w *write, d *definition) (due []invocation, failures []failure) {
	row, err := p.matches(ctx, w, d)
	if row == nil && err == nil {
		return nil, nil
	}
	misconfigured := func(b *binding, err error) {
		what := "policy"
		if b != nil {
			what = "binding"
		}
		failures = append(failures, failure{d, b, fmt.Errorf("failed to configure %s: %w", what, err), ""})
	}
	var kind *resource.Resource
	if err == nil {
		kind, err = p.paramRow(d)
	}
	if err != nil {
		misconfigured(nil, err)
		return nil, failures
	}
	for _, b := range d.bindings {
		found, err := p.paramsOf(ctx, w, kind, b)
		if err != nil {
			misconfigured(b, err)
			continue
		}
		for _, one := range found {
			due = append(due, invocation{d, b, row, one})
		}
	}
	return due, failures
}

// invoke lets policies change the object, one after the other.
func (p *Policies) invoke(ctx context.Context, w *write, due []invocation) ([]failure, error) {
	if len(due) == 0 {
		return nil, nil
	}
	m, _ := w.Recall(mutatingName).(*memory)
	if m == nil {
		m = &memory{asked: make(map[id]bool), again: make(map[id]bool)}
		w.Remember(mutatingName, m)
	}
	if w.Round > 0 && !equality.Semantic.DeepEqual(m.left, w.New) {
		m.changed()
	}
	if err := w.readNamespace(ctx); err != nil {
		return nil, err
	}
	var failures []failure
	touched := false
	for i := range due {
		did, failed, err := p.perform(ctx, w, &due[i], m)
		if err != nil {
			return nil, err
		}
		touched, failures = touched || did, append(failures, failed...)
	}
	if touched { // also if nothing came of it, as kube-apiserver has it
		m.changed()
		w.Again = true
	}
	if w.New != nil {
		m.left = w.New.DeepCopyObject()
	}
	return failures, nil
}

// perform lets one policy change the object, by each of its mutations. did reports whether any of them could be applied.
func (p *Policies) perform(ctx context.Context, w *write, i *invocation, m *memory) (did bool, failures []failure, err error) {
	v, err := w.about(i.row)
	if err != nil {
		return false, []failure{{i.definition, nil, fmt.Errorf("failed to configure policy: %w", err), ""}}, nil
	}
	switch meets, err := p.meets(ctx, w, i.definition, i.row, w.with(v, i.param)); {
	case err != nil:
		return false, []failure{{i.definition, i.binding, err, metav1.StatusReasonInvalid}}, nil
	case !meets, w.Round > 0 && !m.again[i.id()]:
		return false, nil, nil
	}
	before := w.New
	if before != nil {
		before = before.DeepCopyObject()
	}
	for n := range i.mutating.Mutations {
		if w.New == nil {
			continue
		}
		began := time.Now()
		err := p.change(ctx, w, i, n)
		p.metrics.mutated(i.name, i.binding.name, time.Since(began), err)
		var status *apierrors.StatusError
		switch {
		case errors.As(err, &status):
			return false, nil, status
		case err != nil:
			failures = append(failures, failure{i.definition, i.binding, err, metav1.StatusReasonInvalid})
		default:
			did = true
		}
	}
	if !equality.Semantic.DeepEqual(before, w.New) {
		m.changed()
		w.Again = true
	}
	if i.mutating.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy {
		m.asked[i.id()] = true
	}
	return did, failures, nil
}
