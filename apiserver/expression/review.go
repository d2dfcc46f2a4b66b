package expression

import (
	"context"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Question is a condition about a SubjectAccessReview, whose spec it sees as request. It is used by many goroutines at
// once.
type Question struct{ expression *Expression }

// CompileQuestion makes a Question of its text. The error is what validation says of the text.
func CompileQuestion(text string) (*Question, error) {
	x := &Expression{text: text}
	set, err := aboutReviews()
	if err != nil {
		return nil, internal("unexpected error loading CEL environment: %v", err)
	}
	env, err := set.Env(environment.StoredExpressions)
	if err != nil {
		return nil, internal("unexpected error loading CEL environment: %v", err)
	}
	x.compile(env, []*cel.Type{Bool})
	return &Question{x}, x.Err()
}

// Holds evaluates q about the spec of a review. It has kube-apiserver's limit of cost, and ends with ctx.
func (q *Question) Holds(ctx context.Context, spec map[string]any) (bool, error) {
	value, _, err := q.expression.program.ContextEval(ctx, map[string]any{requestVariable: spec})
	if err != nil {
		return false, fmt.Errorf("cel evaluation error: expression '%v' resulted in error: %w", q.expression.text, err)
	}
	return value.Value() == true, nil
}

// aboutReviews is made when it is first needed: that takes some milliseconds.
var aboutReviews = sync.OnceValues(func() (*environment.EnvSet, error) {
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	spec := reviewType()
	return extended(func() (*environment.EnvSet, error) { return base, nil }, []*apiservercel.DeclType{spec}, cel.Variable(requestVariable, spec.CelType()))
})

// reviewType is the spec of a SubjectAccessReview.
func reviewType() *apiservercel.DeclType {
	text := apiservercel.StringType
	requirement := object("kubernetes.SelectorRequirement", nil, fields{"key": text, "operator": text, "values": list(text)})
	selector := func(name string) *apiservercel.DeclType {
		return object(name, nil, fields{"rawSelector": text, "requirements": list(requirement)})
	}
	resource := object("kubernetes.ResourceAttributes", nil, fields{
		"namespace": text, "verb": text, "group": text, "version": text, "resource": text, "subresource": text, "name": text,
		"fieldSelector": selector("kubernetes.FieldSelectorAttributes"), "labelSelector": selector("kubernetes.LabelSelectorAttributes"),
	})
	path := object("kubernetes.NonResourceAttributes", nil, fields{"path": text, "verb": text})
	return object("kubernetes.SubjectAccessReviewSpec", nil, fields{
		"resourceAttributes": resource, "nonResourceAttributes": path,
		"user": text, "groups": list(text), "extra": mapOf(list(text)), "uid": text,
	})
}
