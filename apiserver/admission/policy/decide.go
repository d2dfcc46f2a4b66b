package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/expression"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// note is what an audit annotation says. Without a value and an error it says nothing.
type note struct {
	key, value, err string
	took            time.Duration
}

// decide evaluates the expressions of a policy about what v shows.
func (p *Policies) decide(ctx context.Context, w *write, d *definition, row *resource.Resource, v expression.Variables) ([]decision, []note) {
	switch meets, err := p.meets(ctx, w, d, row, v); {
	case err != nil && d.ignores:
		return nil, nil
	case err != nil:
		return d.undecided(err), nil
	case !meets:
		return nil, nil
	}
	return d.evaluate(ctx, v)
}

// evaluate evaluates the expressions of a policy whose conditions are met.
func (d *definition) evaluate(ctx context.Context, v expression.Variables) ([]decision, []note) {
	p := d.compiled()
	budget := expression.PolicyBudget()
	results, err := p.evaluate(ctx, v, p.validations, budget)
	if err != nil {
		return d.undecided(err), nil
	}
	plain := v
	plain.Authorizer = nil
	messages, messageErr := p.evaluate(ctx, plain, p.messages, budget)
	decisions := make([]decision, len(results))
	for i, r := range results {
		decisions[i] = d.decision(i, r, messages, messageErr)
	}
	said, err := p.evaluate(ctx, plain, p.annotations, expression.PolicyBudget())
	if err != nil {
		return d.undecided(err), nil
	}
	notes := make([]note, len(said))
	for i, s := range said {
		notes[i] = d.note(i, s)
	}
	return decisions, notes
}

// undecided is the one decision of a policy that could not be evaluated.
func (d *definition) undecided(err error) []decision {
	return []decision{d.failure(err.Error(), 0)}
}

func (d *definition) failure(message string, took time.Duration) decision {
	return decision{deny: !d.ignores, failed: true, message: message, took: took}
}

// decision is what came of the validation of an index.
func (d *definition) decision(i int, r evaluated, messages []evaluated, messageErr error) decision {
	switch {
	case r.err != nil:
		return d.failure(r.err.Error(), r.took)
	case errors.Is(messageErr, apiservercel.ErrInternal), errors.Is(messageErr, apiservercel.ErrOutOfBudget):
		return d.failure(fmt.Sprintf("failed messageExpression: %s", messageErr), r.took)
	case r.value == true:
		return decision{took: r.took}
	}
	validation := d.validating.Validations[i]
	message := ""
	if i < len(messages) {
		message = oneLine(messages[i].value, celconfig.MaxEvaluatedMessageExpressionSizeBytes)
	}
	if message == "" {
		message = strings.TrimSpace(validation.Message)
	}
	if message == "" {
		message = "failed expression: " + strings.TrimSpace(validation.Expression)
	}
	return decision{deny: true, message: message, reason: ptr.Deref(validation.Reason, metav1.StatusReasonInvalid), took: r.took}
}

// note is what the audit annotation of an index says.
func (d *definition) note(i int, r evaluated) note {
	n := note{key: d.validating.AuditAnnotations[i].Key, took: r.took}
	switch {
	case r.err != nil && d.ignores:
	case r.err != nil:
		n.err = r.err.Error()
	default:
		text, _ := r.value.(string) // or null
		n.value = strings.TrimSpace(text)
	}
	return n
}
