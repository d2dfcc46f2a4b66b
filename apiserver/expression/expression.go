// Package expression compiles and evaluates the CEL expressions by which admission and authentication decide. The language,
// its libraries and its costs are those of kube-apiserver. An expression of admission sees object, oldObject, request and
// namespaceObject, and as the place where it stands allows params, variables, authorizer and authorizer.requestResource; one of
// authentication sees claims or user (Identity).
package expression

import (
	"context"
)

// The variables of an expression.
const (
	objectVariable          = "object"
	oldObjectVariable       = "oldObject"
	paramsVariable          = "params"
	variablesVariable       = "variables"
	requestVariable         = "request"
	namespaceVariable       = "namespaceObject"
	authorizerVariable      = "authorizer"
	requestResourceVariable = "authorizer.requestResource"
)

// Condition is an expression that says yes or no. It is used by many goroutines at once.
type Condition struct{ expression *Expression }

// Compile makes the match condition of a webhook of its text. stored: the text has been accepted before, and may use what
// new expressions may not yet. The error is what validation says of the text.
func Compile(text string, stored bool) (*Condition, error) {
	x := NewCompiler(false).Compile(text, Sees{Authorizer: true}, stored, Bool)
	return &Condition{x}, x.Err()
}

// Holds evaluates c. spent means that the budget is used up, and that nothing more may be evaluated; the error says so.
func (c *Condition) Holds(ctx context.Context, v Variables, budget *Budget) (holds, spent bool, err error) {
	result, spent, err := NewCompiler(false).About(v).Value(ctx, c.expression, budget)
	if err != nil {
		return false, spent, err
	}
	return result.Value() == true, false, nil
}
