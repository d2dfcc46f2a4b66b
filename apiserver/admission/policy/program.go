package policy

import (
	"context"
	"strings"
	"time"

	"github.com/google/cel-go/common/types"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/skiff-k8s/skiff/apiserver/expression"
)

// program is a policy's expressions. It is used by many goroutines at once.
type program struct {
	compiler   *expression.Compiler // with the variables
	conditions []*expression.Expression

	validations []*expression.Expression
	messages    []*expression.Expression // nil where there is none
	annotations []*expression.Expression

	mutations []*expression.Expression
}

// newProgram compiles what both kinds of policies have.
func newProgram(params *admissionregistrationv1.ParamKind, variables []admissionregistrationv1.Variable, conditions []admissionregistrationv1.MatchCondition) (*program, expression.Sees) {
	p, sees := &program{compiler: expression.NewCompiler(len(variables) > 0)}, expression.Sees{Params: params != nil, Authorizer: true}
	for _, v := range variables {
		p.compiler.Variable(v.Name, v.Expression, sees, true)
	}
	for _, c := range conditions {
		p.conditions = append(p.conditions, p.compiler.Compile(c.Expression, sees, true, expression.Bool))
	}
	return p, sees
}

func compileValidating(spec *admissionregistrationv1.ValidatingAdmissionPolicySpec) *program {
	p, sees := newProgram(spec.ParamKind, spec.Variables, spec.MatchConditions)
	for _, v := range spec.Validations {
		p.validations = append(p.validations, p.compiler.Compile(v.Expression, sees, true, expression.Bool))
		var message *expression.Expression
		if v.MessageExpression != "" {
			message = p.compiler.Compile(v.MessageExpression, expression.Sees{Params: sees.Params}, true, expression.String)
		}
		p.messages = append(p.messages, message)
	}
	for _, a := range spec.AuditAnnotations {
		p.annotations = append(p.annotations, p.compiler.Compile(a.ValueExpression, sees, true, expression.String, expression.Null))
	}
	p.compiler.Seal()
	return p
}

func compileMutating(spec *admissionregistrationv1.MutatingAdmissionPolicySpec) *program {
	p, sees := newProgram(spec.ParamKind, spec.Variables, spec.MatchConditions)
	sees.Patches = true
	for _, m := range spec.Mutations {
		text, result := "", expression.Patches
		switch {
		case m.JSONPatch != nil:
			text = m.JSONPatch.Expression
		case m.ApplyConfiguration != nil:
			text, result = m.ApplyConfiguration.Expression, expression.Object
		}
		p.mutations = append(p.mutations, p.compiler.Compile(text, sees, true, result))
	}
	p.compiler.Seal()
	return p
}

// meets evaluates the match conditions. One that is false decides, whatever others say. failed is how many could not be
// evaluated.
func (p *program) meets(ctx context.Context, v expression.Variables) (meets bool, failed int, err error) {
	about, budget, meets := p.compiler.About(v), expression.MatchBudget(), true
	var errs []error
	for _, c := range p.conditions {
		value, spent, err := about.Value(ctx, c, budget)
		switch {
		case spent:
			return false, 0, err
		case err != nil:
			errs = append(errs, err)
		case value == types.False:
			meets = false
		}
	}
	if !meets {
		return false, len(errs), nil
	}
	return len(errs) == 0, len(errs), utilerrors.NewAggregate(errs)
}

// evaluated is what came of one expression.
type evaluated struct {
	value any
	err   error
	took  time.Duration
}

// evaluate evaluates expressions in their order. An error means that nothing can be said of any, and not how far it came.
func (p *program) evaluate(ctx context.Context, v expression.Variables, list []*expression.Expression, budget *expression.Budget) ([]evaluated, error) {
	about, results := p.compiler.About(v), make([]evaluated, len(list))
	for i, x := range list {
		if x == nil {
			continue
		}
		began := time.Now()
		value, spent, err := about.Value(ctx, x, budget)
		if spent {
			return nil, err
		}
		results[i] = evaluated{err: err, took: time.Since(began)}
		if err == nil {
			results[i].value = value.Value()
		}
	}
	return results, nil
}

// oneLine is a message without space around it; "" if it has several lines or is too long.
func oneLine(value any, most int) string {
	text, _ := value.(string)
	if text = strings.TrimSpace(text); len(text) > most || strings.Contains(text, "\n") {
		return ""
	}
	return text
}
