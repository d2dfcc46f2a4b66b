package expression

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/interpreter"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/library"
)

// Variables are what an expression sees. The maps are objects as JSON decodes them; they are not changed.
type Variables struct {
	Object, OldObject map[string]any // nil: null
	Params            map[string]any // nil: null
	Request           map[string]any
	Namespace         map[string]any
	// User is asked about by authorizer; Target is authorizer.requestResource.
	User       user.Info
	Authorizer authorizer.Authorizer
	Target     Target
}

// Target names what a request is about.
type Target struct {
	Resource                     schema.GroupVersionResource
	Subresource, Namespace, Name string
}

// GetName and the like are what the authorizer library of CEL asks of a target.
func (t Target) GetName() string                          { return t.Name }
func (t Target) GetNamespace() string                     { return t.Namespace }
func (t Target) GetResource() schema.GroupVersionResource { return t.Resource }
func (t Target) GetSubresource() string                   { return t.Subresource }

// activation resolves the names of an evaluation.
type activation struct{ *Evaluation }

var _ cel.Activation = activation{}

func (a activation) Parent() interpreter.Activation { return nil }

func (a activation) ResolveName(name string) (any, bool) {
	switch name {
	case objectVariable:
		return orNull(a.Object), true
	case oldObjectVariable:
		return orNull(a.OldObject), true
	case paramsVariable:
		return orNull(a.Params), true
	case variablesVariable:
		return a.composed, a.composed != nil
	case requestVariable:
		return a.Request, true
	case namespaceVariable:
		return orNull(a.Namespace), true
	case authorizerVariable:
		return library.NewAuthorizerVal(a.User, a.Authorizer), a.Authorizer != nil
	case requestResourceVariable:
		return library.NewResourceAuthorizerVal(a.User, a.Authorizer, a.Target), a.Authorizer != nil
	}
	return nil, false
}

// orNull keeps a nil map from being an empty one.
func orNull(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}
