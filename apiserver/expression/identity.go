package expression

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/lazy"
)

// Identity is an expression by which it is decided who sends a request. It sees one variable: Claims, those of a token,
// or User, who was made of them. It is used by many goroutines at once.
type Identity struct {
	Text     string
	variable string
	program  cel.Program
	ast      *cel.Ast
}

// What an Identity may see.
const (
	Claims = "claims"
	User   = "user"
)

var identityEnvironments = map[string]func() (*environment.EnvSet, error){
	Claims: sync.OnceValues(func() (*environment.EnvSet, error) {
		return identityEnvironment(Claims, apiservercel.NewMapType(apiservercel.StringType, apiservercel.AnyType, -1))
	}),
	User: sync.OnceValues(func() (*environment.EnvSet, error) { return identityEnvironment(User, userType()) }),
}

func identityEnvironment(variable string, t *apiservercel.DeclType) (*environment.EnvSet, error) {
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	return extended(func() (*environment.EnvSet, error) { return base, nil }, []*apiservercel.DeclType{t}, cel.Variable(variable, t.CelType()))
}

// CompileIdentity compiles an expression about a variable. It must evaluate to result. The error is what validation says
// of the text.
func CompileIdentity(text, variable string, result *cel.Type) (*Identity, error) {
	set, err := identityEnvironments[variable]()
	if err != nil {
		return nil, internal("unexpected error loading CEL environment: %v", err)
	}
	env, err := set.Env(environment.StoredExpressions)
	if err != nil {
		return nil, internal("unexpected error loading CEL environment: %v", err)
	}
	compiled, issues := env.Compile(text)
	if issues != nil {
		return nil, &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: "compilation failed: " + issues.String()}
	}
	if !isOne(compiled.OutputType(), []*cel.Type{result}) {
		return nil, &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: "must evaluate to " + result.String()}
	}
	program, err := env.Program(compiled, cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		return nil, internal("program instantiation failed: %v", err)
	}
	return &Identity{Text: text, variable: variable, program: program, ast: compiled}, nil
}

// Value evaluates x about a value that ClaimsValue or UserValue has made.
func (x *Identity) Value(ctx context.Context, about traits.Mapper) (ref.Val, error) {
	value, _, err := x.program.ContextEval(ctx, only{x.variable, about})
	if err != nil {
		return nil, fmt.Errorf("expression '%s' resulted in error: %w", x.Text, err)
	}
	return value, nil
}

// Reads reports whether x selects a field of its variable.
func (x *Identity) Reads(field string) bool {
	selects := func(e ast.NavigableExpr) bool {
		switch e.Kind() {
		case ast.SelectKind:
			s := e.AsSelect()
			return x.isVariable(s.Operand()) && s.FieldName() == field
		case ast.CallKind:
			c := e.AsCall()
			if c.FunctionName() != operators.OptSelect || c.IsMemberFunction() || len(c.Args()) != 2 {
				return false
			}
			name := c.Args()[1]
			return x.isVariable(c.Args()[0]) && name.Kind() == ast.LiteralKind && name.AsLiteral().Equal(types.String(field)) == types.True
		}
		return false
	}
	return len(ast.MatchDescendants(ast.NavigateAST(x.ast.NativeRep()), selects)) > 0
}

func (x *Identity) isVariable(e ast.Expr) bool {
	return e.Kind() == ast.IdentKind && e.AsIdent() == x.variable
}

// only is an activation with one variable.
type only struct {
	name  string
	value traits.Mapper
}

var _ cel.Activation = only{}

func (o only) Parent() interpreter.Activation { return nil }

func (o only) ResolveName(name string) (any, bool) { return o.value, name == o.name }

// ClaimsValue is what expressions see of the claims of a token. It is used by one goroutine; a claim is decoded when it
// is first asked for.
func ClaimsValue(claims map[string]json.RawMessage) traits.Mapper {
	all := lazy.NewMapValue(types.NewObjectType("kubernetes.claims"))
	for name, raw := range claims {
		all.Append(name, func(*lazy.MapValue) ref.Val {
			var value any
			if err := json.Unmarshal(raw, &value); err != nil {
				return types.NewErr("claim %q failed to unmarshal: %w", name, err)
			}
			return unescaped(types.DefaultTypeAdapter.NativeToValue(value))
		})
	}
	return all
}

// UserValue is what expressions see of a user.
func UserValue(u user.Info) traits.Mapper {
	all := lazy.NewMapValue(types.NewObjectType("kubernetes.UserInfo"))
	for name, value := range map[string]any{"username": u.GetName(), "uid": u.GetUID(), "groups": u.GetGroups(), "extra": u.GetExtra()} {
		all.Append(name, func(*lazy.MapValue) ref.Val { return unescaped(types.DefaultTypeAdapter.NativeToValue(value)) })
	}
	return all
}

// unescaped lets names that are no identifiers be selected in their escaped form, __dot__ for a dot and the like, in
// maps at any depth.
func unescaped(value ref.Val) ref.Val {
	switch v := value.(type) {
	case traits.Mapper:
		return unescapedMap{v}
	case traits.Lister:
		return unescapedList{v}
	}
	return value
}

type unescapedMap struct{ traits.Mapper }

func (m unescapedMap) Find(key ref.Val) (ref.Val, bool) {
	if text, ok := key.(types.String); ok {
		if name, ok := apiservercel.Unescape(string(text)); ok {
			key = types.String(name)
		}
	}
	value, ok := m.Mapper.Find(key)
	return unescaped(value), ok
}

type unescapedList struct{ traits.Lister }

func (l unescapedList) Get(index ref.Val) ref.Val { return unescaped(l.Lister.Get(index)) }
