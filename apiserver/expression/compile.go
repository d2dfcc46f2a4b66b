package expression

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// Type is a type of CEL.
type Type = cel.Type

// What an expression may be asked to evaluate to.
var (
	Bool   = cel.BoolType
	String = cel.StringType
	Null   = cel.NullType
	Any    = cel.AnyType
	// Object is what an ApplyConfiguration evaluates to, Patches what a JSONPatch does.
	Object  = types.NewObjectType(mutation.ObjectTypeName)
	Patches = cel.ListType(types.NewObjectType(mutation.JSONPatchTypeName))
)

// Sees are what an expression may name besides object, oldObject, request and namespaceObject.
type Sees struct {
	Params, Authorizer bool
	Patches            bool // the types Object and JSONPatch, and what helps to write them
}

// Expression is compiled, or says why it is not. It is used by many goroutines at once.
type Expression struct {
	text    string
	program cel.Program
	output  *cel.Type
	err     *apiservercel.Error
}

// Err is what is wrong with the text; nil: nothing.
func (x *Expression) Err() error {
	if x.err == nil {
		return nil
	}
	return x.err
}

// Compiler compiles the expressions of one policy, which share its variables. It is used by one goroutine at a time; what
// it has compiled is not bound to that.
type Compiler struct {
	made      map[Sees]func() (*environment.EnvSet, error)
	composed  *apiservercel.DeclType // the type of variables; nil: there are none
	variables []variable
}

type variable struct {
	name string
	*Expression
}

// NewCompiler makes a Compiler. composes says that expressions may name variables. One that does not shares its
// environments with all others, and costs nothing.
func NewCompiler(composes bool) *Compiler {
	if !composes {
		return &Compiler{made: shared}
	}
	c := &Compiler{made: make(map[Sees]func() (*environment.EnvSet, error)), composed: apiservercel.NewObjectType("kubernetes.variables", map[string]*apiservercel.DeclField{})}
	for sees := range shared {
		plain := shared[Sees{Params: sees.Params, Authorizer: sees.Authorizer}]
		c.made[sees] = sync.OnceValues(func() (*environment.EnvSet, error) {
			set, err := extended(plain, []*apiservercel.DeclType{c.composed}, cel.Variable(variablesVariable, c.composed.CelType()))
			if err != nil || !sees.Patches {
				return set, err
			}
			return withPatches(func() (*environment.EnvSet, error) { return set, nil })
		})
	}
	return c
}

// shared are the environments without variables. Each is made when it is first needed: that takes some milliseconds.
var shared = makeShared()

func makeShared() map[Sees]func() (*environment.EnvSet, error) {
	made := make(map[Sees]func() (*environment.EnvSet, error))
	for _, params := range []bool{false, true} {
		for _, authorizer := range []bool{false, true} {
			sees := Sees{Params: params, Authorizer: authorizer}
			made[sees] = sync.OnceValues(sees.environment)
			made[Sees{Params: params, Authorizer: authorizer, Patches: true}] = sync.OnceValues(func() (*environment.EnvSet, error) { return withPatches(made[sees]) })
		}
	}
	return made
}

// environment is that of expressions that make no patches.
func (s Sees) environment() (*environment.EnvSet, error) {
	request, namespace := requestType(), namespaceType()
	options := []cel.EnvOption{
		cel.Variable(objectVariable, cel.DynType),
		cel.Variable(oldObjectVariable, cel.DynType),
		cel.Variable(namespaceVariable, namespace.CelType()),
		cel.Variable(requestVariable, request.CelType()),
	}
	if s.Params {
		options = append(options, cel.Variable(paramsVariable, cel.DynType))
	}
	if s.Authorizer {
		options = append(options, cel.Variable(authorizerVariable, library.AuthorizerType), cel.Variable(requestResourceVariable, library.ResourceCheckType))
	}
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	set, err := extended(func() (*environment.EnvSet, error) { return base, nil }, []*apiservercel.DeclType{namespace, request}, options...)
	if err != nil {
		return nil, err
	}
	return set.Extend(environment.StrictCostOpt)
}

// withPatches adds the types of patches. It is the last step: what is added later would not find them.
func withPatches(plain func() (*environment.EnvSet, error)) (*environment.EnvSet, error) {
	return extended(plain, nil, common.ResolverEnvOption(&mutation.DynamicTypeResolver{}), environment.UnversionedLib(library.JSONPatch))
}

func extended(plain func() (*environment.EnvSet, error), declared []*apiservercel.DeclType, options ...cel.EnvOption) (*environment.EnvSet, error) {
	set, err := plain()
	if err != nil {
		return nil, err
	}
	return set.Extend(environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: options, DeclTypes: declared})
}

// Compile makes an expression of its text. stored: the text has been accepted before, and may use what new expressions
// may not yet. It must evaluate to one of results.
func (c *Compiler) Compile(text string, sees Sees, stored bool, results ...*cel.Type) *Expression {
	x := &Expression{text: text}
	env, err := c.env(sees, stored)
	if err != nil {
		x.err = internal("unexpected error loading CEL environment: %v", err)
		return x
	}
	x.compile(env, results)
	return x
}

// compile makes the program of the text, or says why there is none.
func (x *Expression) compile(env *cel.Env, results []*cel.Type) {
	ast, issues := env.Compile(x.text)
	if issues != nil {
		x.err = &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: "compilation failed: " + issues.String(), Cause: apiservercel.NewCompilationError(issues)}
		return
	}
	if !isOne(ast.OutputType(), results) {
		x.err = &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: mustBe(results, ast.OutputType())}
		return
	}
	var err error
	if x.program, err = env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency)); err != nil {
		x.err = internal("program instantiation failed: %v", err)
		return
	}
	x.output = ast.OutputType()
}

// Seal ends compilation and frees what only that needs, which is most of what a compiler holds.
func (c *Compiler) Seal() {
	c.made = nil
}

func (c *Compiler) env(sees Sees, stored bool) (*cel.Env, error) {
	set, err := c.made[sees]()
	if err != nil {
		return nil, err
	}
	if stored {
		return set.Env(environment.StoredExpressions)
	}
	return set.Env(environment.NewExpressions)
}

func isOne(output *cel.Type, results []*cel.Type) bool {
	for _, r := range results {
		if output.IsExactType(r) || Any.IsExactType(r) {
			return true
		}
	}
	return false
}

func mustBe(results []*cel.Type, got *cel.Type) string {
	if len(results) == 1 {
		return fmt.Sprintf("must evaluate to %v but got %v", results[0], got)
	}
	return fmt.Sprintf("must evaluate to one of %v but got %v", results, got)
}

func internal(format string, args ...any) *apiservercel.Error {
	return &apiservercel.Error{Type: apiservercel.ErrorTypeInternal, Detail: fmt.Sprintf(format, args...)}
}

// Variable compiles a variable, which later expressions may name, also if it is wrong: then they fail.
func (c *Compiler) Variable(name, text string, sees Sees, stored bool) *Expression {
	x := c.Compile(text, sees, stored, Any)
	c.composed.Fields[name] = apiservercel.NewDeclField(name, declared(x.output), true, nil, nil)
	c.variables = append(c.variables, variable{name, x})
	return x
}

// declared is a type of CEL as the type of a field.
func declared(t *cel.Type) *apiservercel.DeclType {
	if t == nil {
		return apiservercel.DynType
	}
	if basic := basicTypes[t]; basic != nil {
		return basic
	}
	if !t.HasTrait(traits.ContainerType) || !t.HasTrait(traits.IndexerType) {
		return apiservercel.DynType
	}
	switch p := t.Parameters(); len(p) {
	case 1:
		return apiservercel.NewListType(declared(p[0]), -1)
	case 2:
		return apiservercel.NewMapType(declared(p[0]), declared(p[1]), -1)
	}
	return apiservercel.DynType
}

var basicTypes = map[*cel.Type]*apiservercel.DeclType{
	cel.AnyType: apiservercel.AnyType, cel.BoolType: apiservercel.BoolType, cel.BytesType: apiservercel.BytesType,
	cel.DoubleType: apiservercel.DoubleType, cel.DurationType: apiservercel.DurationType, cel.IntType: apiservercel.IntType,
	cel.NullType: apiservercel.NullType, cel.StringType: apiservercel.StringType, cel.TimestampType: apiservercel.TimestampType,
	cel.UintType: apiservercel.UintType,
}

// IsInternal reports whether an expression could not be compiled for reasons that are not its own.
func IsInternal(err error) bool { return errors.Is(err, apiservercel.ErrInternal) }
