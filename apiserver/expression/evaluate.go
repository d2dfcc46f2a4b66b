package expression

import (
	"context"
	"fmt"
	"math"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/lazy"
)

// Budget is what expressions may cost together. The zero value is used up.
type Budget struct{ left int64 }

// MatchBudget is the budget of the match conditions of one webhook, or of one policy for one of its params.
func MatchBudget() *Budget { return &Budget{left: celconfig.RuntimeCELCostBudgetMatchConditions} }

// PolicyBudget is the budget of the expressions of one policy for one of its params.
func PolicyBudget() *Budget { return &Budget{left: celconfig.RuntimeCELCostBudget} }

// take reports whether there was as much left.
func (b *Budget) take(cost uint64) bool {
	if cost > math.MaxInt64 || int64(cost) > b.left {
		return false
	}
	b.left -= int64(cost)
	return true
}

// errBudget ends an evaluation that has cost too much.
var errBudget = &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid,
	Detail: "validation failed due to running out of cost budget, no further validation rules will be run", Cause: apiservercel.ErrOutOfBudget}

// Evaluation evaluates the expressions of one policy about one write. It evaluates a variable when it is first named, and
// no more than once. It is used by one goroutine.
type Evaluation struct {
	Variables
	composed ref.Val // variables; nil: there are none
	context  context.Context
	cost     uint64 // of variables, not yet paid
}

// About begins an evaluation about v.
func (c *Compiler) About(v Variables) *Evaluation {
	e := &Evaluation{Variables: v}
	if len(c.variables) == 0 {
		return e
	}
	all := lazy.NewMapValue(c.composed)
	for _, v := range c.variables {
		all.Append(v.name, func(*lazy.MapValue) ref.Val { return e.variable(v) })
	}
	e.composed = all
	return e
}

// variable is the value of a variable, or an error.
func (e *Evaluation) variable(v variable) ref.Val {
	if v.err != nil {
		return types.NewErr("composited variable %q fails to compile: %v", v.name, v.err)
	}
	value, details, err := v.program.ContextEval(e.context, activation{e})
	if details == nil {
		return types.NewErr("unable to get evaluation details of variable %q", v.name)
	}
	cost := details.ActualCost()
	if cost == nil {
		return types.NewErr("unable to calculate cost of variable %q", v.name)
	}
	if e.cost += *cost; e.cost < *cost {
		e.cost = math.MaxUint64
	}
	if err != nil {
		return types.NewErr("composited variable %q fails to evaluate: %v", v.name, err)
	}
	return value
}

// Value evaluates x. spent means that the budget is used up, or that it cannot be told, and that nothing more may be
// evaluated; the error says so.
func (e *Evaluation) Value(ctx context.Context, x *Expression, budget *Budget) (value ref.Val, spent bool, err error) {
	if x.err != nil {
		return nil, false, &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: fmt.Sprintf("compilation error: %v", x.err), Cause: x.err}
	}
	e.context = ctx
	value, details, err := x.program.ContextEval(ctx, activation{e})
	variables := e.cost
	if e.cost = 0; !budget.take(variables) {
		return nil, true, errBudget
	}
	cost, err2 := costOf(x, details)
	if err2 != nil {
		return nil, true, err2
	}
	if !budget.take(cost) {
		return nil, true, errBudget
	}
	if err != nil {
		return nil, false, &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: fmt.Sprintf("expression '%v' resulted in error: %v", x.text, err)}
	}
	return value, false, nil
}

func costOf(x *Expression, details *cel.EvalDetails) (uint64, error) {
	unknown := func() string {
		return fmt.Sprintf("runtime cost could not be calculated for expression: %v, no further expression will be run", x.text)
	}
	if details == nil {
		return 0, internal("%s", unknown())
	}
	cost := details.ActualCost()
	if cost == nil {
		return 0, &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: unknown(), Cause: apiservercel.ErrOutOfBudget}
	}
	return *cost, nil
}
