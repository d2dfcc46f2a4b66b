package expression

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

var nobody = authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionNoOpinion, "", nil
})

func about() Variables {
	return Variables{
		Object: map[string]any{"metadata": map[string]any{"name": "x"}, "data": map[string]any{"a": "b"}}, Params: map[string]any{"n": int64(3)},
		Request: map[string]any{"operation": "CREATE"}, User: &user.DefaultInfo{Name: "u"}, Authorizer: nobody,
	}
}

// Whatever an expression says, it compiles or not, and evaluates or not, at a bounded cost.
func FuzzExpression(f *testing.F) {
	for _, text := range []string{
		"object.data.a == 'b'", "params.n + variables.v > 3", "authorizer.group('').resource('pods').check('get').allowed()", "[1, 2].map(x, [x, x])",
		"Object{metadata: Object.metadata{labels: {'a': object.data.a}}}", "[JSONPatch{op: 'add', path: '/a', value: {'b': [1, 2.5, true, null]}}]",
		"quantity('1Gi').isGreaterThan(quantity('1'))", "'a'.matches('(a+)+$')", "request.options.x[0]", "namespaceObject.metadata.name", "variables.v.v", "\"\\u{1}\"",
		strings.Repeat("[", 300), strings.Repeat("(", 300) + "1", strings.Repeat("-", 1000) + "1",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 2000 {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c := NewCompiler(true)
		c.Variable("v", text, Sees{Params: true, Authorizer: true}, false)
		for _, x := range []*Expression{
			c.Compile(text, Sees{Params: true, Authorizer: true}, false, Any),
			c.Compile(text, Sees{Params: true, Authorizer: true, Patches: true}, false, Object, Patches),
			c.Compile("variables.v", Sees{Params: true, Authorizer: true}, false, Any),
		} {
			if _, _, err := c.About(about()).Value(ctx, x, PolicyBudget()); ctx.Err() != nil {
				t.Fatalf("%q takes too long: %v", text, err)
			}
		}
	})
}

// An evaluation ends with the request it is for.
func TestEvaluationEndsWithItsRequest(t *testing.T) {
	x := NewCompiler(false).Compile("[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, a + b + c < 100)))", Sees{}, false, Bool)
	if err := x.Err(); err != nil {
		t.Fatal(err)
	}
	if value, _, err := NewCompiler(false).About(about()).Value(t.Context(), x, PolicyBudget()); err != nil || value.Value() != true {
		t.Fatalf("got %v, %v, want true", value, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := NewCompiler(false).About(about()).Value(ctx, x, PolicyBudget()); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got %v, want an interruption", err)
	}
}

// BenchmarkCompile says what a policy costs to make ready, and what it holds.
func BenchmarkCompile(b *testing.B) {
	for _, composes := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "with variables"}[composes]
		b.Run(name, func(b *testing.B) {
			held := make([]*Compiler, 0, b.N)
			programs := make([]*Expression, 0, b.N)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				c, sees := NewCompiler(composes), Sees{Authorizer: true}
				text := "object.data.a == 'b'"
				if composes {
					c.Variable("a", "object.data.a", sees, true)
					text = "variables.a == 'b'"
				}
				held, programs = append(held, c), append(programs, c.Compile(text, sees, true, Bool))
				c.Seal()
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/float64(len(held)), "held-B/op")
			runtime.KeepAlive(programs)
		})
	}
}
