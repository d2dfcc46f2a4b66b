// Package expression compiles and evaluates the CEL expressions by which admission decides. The language, its libraries
// and its costs are those of kube-apiserver. An expression sees object, oldObject, request, namespaceObject,
// authorizer and authorizer.requestResource.
package expression

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

// The variables of an expression.
const (
	objectVariable          = "object"
	oldObjectVariable       = "oldObject"
	requestVariable         = "request"
	namespaceVariable       = "namespaceObject"
	authorizerVariable      = "authorizer"
	requestResourceVariable = "authorizer.requestResource"
)

// Condition is an expression that says yes or no. It is used by many goroutines at once.
type Condition struct {
	text    string
	program cel.Program
}

// environments are made once, when the first expression is compiled: they take some milliseconds.
var environments = sync.OnceValues(func() (*environment.EnvSet, error) {
	request, namespace := requestType(), namespaceType()
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(
		environment.VersionedOptions{
			IntroducedVersion: version.MajorMinor(1, 0),
			EnvOptions: []cel.EnvOption{
				cel.Variable(objectVariable, cel.DynType),
				cel.Variable(oldObjectVariable, cel.DynType),
				cel.Variable(namespaceVariable, namespace.CelType()),
				cel.Variable(requestVariable, request.CelType()),
				cel.Variable(authorizerVariable, library.AuthorizerType),
				cel.Variable(requestResourceVariable, library.ResourceCheckType),
			},
			DeclTypes: []*apiservercel.DeclType{namespace, request},
		},
		environment.StrictCostOpt,
	)
})

// Compile makes a condition of its text. stored: the text has been accepted before, and may use what new expressions
// may not yet. The error is what validation says of the text.
func Compile(text string, stored bool) (*Condition, error) {
	set, err := environments()
	if err != nil {
		return nil, fmt.Errorf("unexpected error loading CEL environment: %w", err)
	}
	kind := environment.NewExpressions
	if stored {
		kind = environment.StoredExpressions
	}
	env, err := set.Env(kind)
	if err != nil {
		return nil, fmt.Errorf("unexpected error loading CEL environment: %w", err)
	}
	ast, issues := env.Compile(text)
	if issues != nil {
		return nil, errors.New("compilation failed: " + issues.String())
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("must evaluate to %v but got %v", cel.BoolType, ast.OutputType())
	}
	program, err := env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, fmt.Errorf("program instantiation failed: %w", err)
	}
	return &Condition{text: text, program: program}, nil
}

// errBudget ends an evaluation that has cost too much.
var errBudget = &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid,
	Detail: "validation failed due to running out of cost budget, no further validation rules will be run", Cause: apiservercel.ErrOutOfBudget}

// Budget is what the conditions of one webhook may cost together. The zero value is not usable.
type Budget struct{ left int64 }

// MatchBudget is the budget of match conditions.
func MatchBudget() *Budget { return &Budget{left: celconfig.RuntimeCELCostBudgetMatchConditions} }

// Holds evaluates c. spent means that the budget is used up, and that nothing more may be evaluated; the error says so.
func (c *Condition) Holds(ctx context.Context, v Variables, budget *Budget) (holds, spent bool, err error) {
	result, details, err := c.program.ContextEval(ctx, v.activation())
	cost, known := uint64(0), false
	if details != nil {
		if actual := details.ActualCost(); actual != nil {
			cost, known = *actual, true
		}
	}
	if !known {
		return false, true, &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid,
			Detail: fmt.Sprintf("runtime cost could not be calculated for expression: %v, no further expression will be run", c.text), Cause: apiservercel.ErrOutOfBudget}
	}
	if cost > math.MaxInt64 || int64(cost) > budget.left {
		return false, true, errBudget
	}
	budget.left -= int64(cost)
	if err != nil {
		return false, false, &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: fmt.Sprintf("expression '%v' resulted in error: %v", c.text, err)}
	}
	yes, ok := result.Value().(bool)
	return ok && yes, false, nil
}
