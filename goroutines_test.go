package skiff_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// guarded are the folders in whose code every goroutine and every handler of events must be started by package
// guard: what runs there shares a process with the API server.
var guarded = []string{"apiserver", "controllers", "scheduler", "kubelet", "proxy", "ingress", "podnet", "quota", "serviceaccount", "spdy", "atomicfile", "controlplane", "cluster", "cmd"}

// TestGoroutinesAreGuarded finds goroutines whose panic would end the process.
func TestGoroutinesAreGuarded(t *testing.T) {
	files := 0
	for _, folder := range guarded {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(filepath.Dir(path), "test") {
				return err
			}
			files++
			for _, where := range unguarded(t, path, nil) {
				t.Errorf("%s", where)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 100 {
		t.Errorf("looked at %d files only", files)
	}
}

// unguarded lists what in a file starts goroutines, or has them started, past package guard.
func unguarded(t *testing.T, path string, source any) (where []string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := func(n ast.Node, what string) { where = append(where, set.Position(n.Pos()).String()+": "+what) }
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found(n, "go statement; use guard.Go or guard.Group")
		case *ast.CallExpr:
			selector, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				break
			}
			switch name := selector.Sel.Name; {
			case name == "Go" && len(n.Args) == 1 && !calls(n.Args[0], "guard", "Try"):
				found(n, "goroutine of a group; use guard.Group, or guard.Try")
			case strings.HasPrefix(name, "AddEventHandler") && (len(n.Args) == 0 || !calls(n.Args[0], "clientgo", "Handler")):
				found(n, "handler of events; use clientgo.Handler")
			case name == "AfterFunc" && len(n.Args) == 2 && calls(n.Fun, "time", "AfterFunc"):
				found(n, "goroutine of a timer; use guard.After")
			}
		}
		return true
	})
	return where
}

// calls tells whether an expression is, or calls, a function of a package.
func calls(e ast.Expr, pkg, name string) bool {
	if call, ok := e.(*ast.CallExpr); ok {
		e = call.Fun
	}
	selector, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, ok := selector.X.(*ast.Ident)
	return ok && of.Name == pkg && selector.Sel.Name == name
}

func TestUnguarded(t *testing.T) {
	for code, want := range map[string]int{
		`go f()`:                                     1,
		`go func() {}()`:                             1,
		`wg.Go(f)`:                                   1,
		`s.parts.Go(func() {})`:                      1,
		`group.Go(func() error { return nil })`:      1,
		`group.Go(guard.Try("x", f))`:                0,
		`guard.Go("x", f)`:                           0,
		`g.Go("x", func() { go f() })`:               1,
		`i.AddEventHandler(h)`:                       1,
		`i.AddEventHandlerWithResyncPeriod(h, 0)`:    1,
		`i.AddEventHandler(clientgo.Handler("", h))`: 0,
		`time.AfterFunc(d, f)`:                       1,
		`guard.After(d, "x", f)`:                     0,
		`context.AfterFunc(ctx, f)`:                  0,
	} {
		if got := unguarded(t, "x.go", "package p; func p() { "+code+" }"); len(got) != want {
			t.Errorf("%s: got %q, want %d", code, got, want)
		}
	}
}
