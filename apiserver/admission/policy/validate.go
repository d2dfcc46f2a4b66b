package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// validate asks the validating policies. All are asked; of those that refuse, the first one is heard.
func (p *Policies) validate(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) {
		return p.mayRefer(ctx, a)
	}
	policies, err := p.validating.load(ctx, a.Cluster)
	if err != nil || len(policies) == 0 {
		return err
	}
	w := p.newWrite(a)
	var refused []refusal
	for _, d := range policies {
		more, err := p.ask(ctx, w, d)
		if err != nil {
			return err
		}
		refused = append(refused, more...)
	}
	if len(refused) == 0 {
		return nil
	}
	return refused[0].status(a)
}

// refusal is a reason why a write is refused.
type refusal struct {
	policy, binding string // binding may be empty
	message         string
	reason          metav1.StatusReason // empty: Invalid
}

// codes are those of the reasons a policy may give.
var codes = map[metav1.StatusReason]int32{
	metav1.StatusReasonForbidden: http.StatusForbidden, metav1.StatusReasonUnauthorized: http.StatusUnauthorized,
	metav1.StatusReasonRequestEntityTooLarge: http.StatusRequestEntityTooLarge, metav1.StatusReasonInvalid: http.StatusUnprocessableEntity,
}

func (r refusal) status(a *admission.Attributes) error {
	text := fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", r.policy, r.binding, r.message)
	if r.binding == "" {
		text = fmt.Sprintf("ValidatingAdmissionPolicy '%s' denied request: %s", r.policy, r.message)
	}
	if r.reason == "" {
		r.reason = metav1.StatusReasonInvalid
	}
	err := a.Forbidden(errors.New(text))
	err.ErrStatus.Reason, err.ErrStatus.Code = r.reason, codes[r.reason]
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: text})
	return err
}

// misconfigured is the refusal for a policy or a binding that cannot be used; none if the policy lets failures pass.
func (d *definition) misconfigured(b *binding, err error) []refusal {
	if d.ignores {
		return nil
	}
	if b == nil {
		return []refusal{{policy: d.name, message: fmt.Sprintf("failed to configure policy: %v", err)}}
	}
	return []refusal{{policy: d.name, binding: b.name, message: fmt.Sprintf("failed to configure binding: %v", err)}}
}

// ask asks one policy, for all of its bindings.
func (p *Policies) ask(ctx context.Context, w *write, d *definition) ([]refusal, error) {
	row, err := p.matches(ctx, w, d)
	if err != nil {
		return d.misconfigured(nil, err), nil
	}
	if row == nil {
		return nil, nil
	}
	kind, err := p.paramRow(d)
	if err != nil {
		return d.misconfigured(nil, err), nil
	}
	var refused []refusal
	var notes annotations
	for _, b := range d.bindings {
		found, err := p.paramsOf(ctx, w, kind, b)
		if err != nil {
			refused = append(refused, d.misconfigured(b, err)...)
			continue
		}
		for _, one := range found {
			more, err := p.judge(ctx, w, d, b, row, one, &notes)
			if err != nil {
				return nil, err
			}
			refused = append(refused, more...)
		}
	}
	notes.publish(d.name, w.Audit)
	return refused, nil
}

// matches finds the row in whose version d is about a write; nil: it is not about it.
func (p *Policies) matches(ctx context.Context, w *write, d *definition) (*resource.Resource, error) {
	if d.matchErr != nil {
		return nil, d.matchErr
	}
	return d.match.Row(ctx, w.Attributes, p.config.Served)
}

// paramsOf are the params of a binding; none if it is not about the write.
func (p *Policies) paramsOf(ctx context.Context, w *write, kind *resource.Resource, b *binding) ([]param, error) {
	if b.matchErr != nil {
		return nil, b.matchErr
	}
	if b.match != nil {
		row, err := b.match.Row(ctx, w.Attributes, p.config.Served)
		if row == nil || err != nil {
			return nil, err
		}
	}
	return params(ctx, w.Attributes, kind, b)
}

// judge evaluates a policy for one param, and does with what it finds as the binding says.
func (p *Policies) judge(ctx context.Context, w *write, d *definition, b *binding, row *resource.Resource, one param, notes *annotations) ([]refusal, error) {
	v, err := w.about(row)
	if err != nil {
		return d.misconfigured(b, fmt.Errorf("failed to convert object version: %w", err)), nil
	}
	if err := w.readNamespace(ctx); err != nil {
		return nil, err
	}
	decisions, said := p.decide(ctx, w, d, row, w.with(v, one))
	var refused []refusal
	for i, decision := range decisions {
		if !decision.deny {
			if decision.failed {
				p.metrics.checked(d.name, b.name, decision, "allow")
			}
			continue
		}
		refused = append(refused, p.enforce(w, d, b, i, decision)...)
	}
	for _, note := range said {
		switch {
		case note.err != "":
			failure := decision{deny: true, failed: true, message: note.err, took: note.took}
			refused = append(refused, refusal{d.name, b.name, note.err, ""})
			p.metrics.checked(d.name, b.name, failure, "deny")
		case note.value != "":
			notes.add(note.key, note.value)
		}
	}
	return refused, nil
}

// enforce does with a denial as the binding says.
func (p *Policies) enforce(w *write, d *definition, b *binding, index int, it decision) []refusal {
	var refused []refusal
	for _, action := range b.actions {
		switch action {
		case admissionregistrationv1.Deny:
			refused = append(refused, refusal{d.name, b.name, it.message, it.reason})
			p.metrics.checked(d.name, b.name, it, "deny")
		case admissionregistrationv1.Audit:
			w.Audit("validation.policy.admission.k8s.io/validation_failure", failureNote(d, b, index, it.message))
			p.metrics.checked(d.name, b.name, it, "audit")
		case admissionregistrationv1.Warn:
			w.Warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", d.name, b.name, it.message))
			p.metrics.checked(d.name, b.name, it, "warn")
		}
	}
	return refused
}

// failureNote is what the audit log is told of a validation that failed.
func failureNote(d *definition, b *binding, index int, message string) string {
	text, err := json.Marshal([]struct {
		Message           string                                     `json:"message"`
		Policy            string                                     `json:"policy"`
		Binding           string                                     `json:"binding"`
		ExpressionIndex   int                                        `json:"expressionIndex"`
		ValidationActions []admissionregistrationv1.ValidationAction `json:"validationActions"`
	}{{message, d.name, b.name, index, b.actions}})
	if err != nil {
		panic("policy: strings cannot be encoded: " + err.Error())
	}
	return string(text)
}

// annotations are what the bindings of one policy say for the audit log, by key.
type annotations struct {
	keys   []string
	values map[string][]string
}

// maxAnnotation is how long the value of one may be, in bytes.
const maxAnnotation = 10 * 1024

func (n *annotations) add(key, value string) {
	value = value[:min(len(value), maxAnnotation)]
	if n.values == nil {
		n.values = make(map[string][]string)
	}
	if len(n.values[key]) == 0 {
		n.keys = append(n.keys, key)
	}
	if !slices.Contains(n.values[key], value) {
		n.values[key] = append(n.values[key], value)
	}
}

func (n *annotations) publish(policy string, audit func(key, value string)) {
	for _, key := range n.keys {
		audit(policy+"/"+key, strings.Join(n.values[key], ", "))
	}
}

// decision is what came of one validation.
type decision struct {
	deny    bool
	failed  bool // it could not be told
	message string
	reason  metav1.StatusReason
	took    time.Duration
}
