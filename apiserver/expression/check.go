package expression

import (
	"errors"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Checker tells what is wrong with expressions about objects of a known type. It is used by one goroutine.
type Checker struct {
	env      *cel.Env
	composed *apiservercel.DeclType
}

// Known is a type that an expression's variables may have, by its schema, in which there are no references. The name
// appears in messages. The zero value is any type.
type Known struct {
	Name   string
	Schema *spec.Schema
}

func (k Known) declared() *apiservercel.DeclType {
	if k.Schema == nil {
		return nil
	}
	t := common.SchemaDeclType(&openapi.Schema{Schema: k.Schema}, true)
	if t == nil {
		return nil
	}
	return t.MaybeAssignTypeName(k.Name)
}

// NewChecker makes a Checker for objects of a type. params is nil if expressions may not name params.
func NewChecker(object Known, params *Known) (*Checker, error) {
	c := &Checker{composed: apiservercel.NewObjectType("kubernetes.variables", map[string]*apiservercel.DeclField{})}
	request, namespace := requestType(), namespaceType()
	declared := []*apiservercel.DeclType{namespace, request, c.composed}
	options := []cel.EnvOption{
		cel.Variable(namespaceVariable, namespace.CelType()), cel.Variable(requestVariable, request.CelType()),
		cel.Variable(authorizerVariable, library.AuthorizerType), cel.Variable(variablesVariable, c.composed.CelType()),
	}
	add := func(k Known, variables ...string) {
		t := cel.DynType
		if d := k.declared(); d != nil {
			declared, t = append(declared, d), d.CelType()
		}
		for _, v := range variables {
			options = append(options, cel.Variable(v, t))
		}
	}
	add(object, objectVariable, oldObjectVariable)
	if params != nil {
		add(*params, paramsVariable)
	}
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(
		environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: options, DeclTypes: declared})
	if err == nil {
		c.env, err = set.Env(environment.StoredExpressions)
	}
	return c, err
}

// Variable adds a variable for later expressions.
func (c *Checker) Variable(name, text string) {
	ast, issues := c.env.Compile(text)
	var t *cel.Type
	if issues == nil {
		t = ast.OutputType()
	}
	c.composed.Fields[name] = apiservercel.NewDeclField(name, declared(t), true, nil, nil)
}

// Check is what is wrong with an expression; nil: nothing.
func (c *Checker) Check(text string) error {
	if _, issues := c.env.Compile(text); issues != nil {
		return errors.New(issues.String())
	}
	return nil
}
