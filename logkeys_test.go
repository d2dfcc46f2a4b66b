package skiff_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// logging are the methods of slog that take keys and values.
var logging = []string{"Debug", "Info", "Warn", "Error", "DebugContext", "InfoContext", "WarnContext", "ErrorContext", "Log", "With"}

// TestErrorsHaveOneKey finds lines of the log in which an error is not under "error".
func TestErrorsHaveOneKey(t *testing.T) {
	lines := 0
	for _, folder := range append(guarded, "guard", "skifftest", "examples", "bench") {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if key := keyOfError(n); key != nil {
					lines++
					if key.Value != `"error"` {
						t.Errorf("%s: %s", set.Position(key.Pos()), key.Value)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if lines < 50 {
		t.Errorf("looked at %d lines only", lines)
	}
}

// keyOfError is the key of an error in a call that logs, or nil: a string before err, or one that is called as errors are.
func keyOfError(n ast.Node) *ast.BasicLit {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return nil
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains(logging, method.Sel.Name) {
		return nil
	}
	for i, arg := range call.Args[:max(0, len(call.Args)-1)] {
		key, ok := arg.(*ast.BasicLit)
		if !ok || key.Kind != token.STRING {
			continue
		}
		value, isName := call.Args[i+1].(*ast.Ident)
		if key.Value == `"err"` || key.Value == `"error"` || isName && value.Name == "err" {
			return key
		}
	}
	return nil
}
