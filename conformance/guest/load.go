package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// goPackage is what "go list" says of a package.
type goPackage struct {
	ImportPath, Dir           string
	TestGoFiles, XTestGoFiles []string
}

// load puts what the guest runs into its root folder: /guest/run, and what that
// needs.
func load(ctx context.Context, s settings, root string) error {
	dir := filepath.Join(root, "guest")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, f := range s.files {
		to := filepath.Join(root, f[1])
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := command(ctx, "", "cp", "-aH", f[0], to); err != nil {
			return err
		}
	}
	script := s.command
	if script == "" {
		packages, err := list(ctx, s.packages)
		if err != nil {
			return err
		}
		for _, p := range packages {
			if err := build(ctx, p, dir); err != nil {
				return err
			}
		}
		script = tests(packages, s.arguments)
	}
	return os.WriteFile(filepath.Join(dir, "run"), []byte(script+"\n"), 0o755)
}

// list are the packages that have tests.
func list(ctx context.Context, patterns []string) ([]goPackage, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, patterns...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var found []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p goPackage
		if err := dec.Decode(&p); err != nil {
			return nil, fmt.Errorf("read what go list says: %w", err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no tests in %s", strings.Join(patterns, " "))
	}
	return found, nil
}

// folder is where the test program of a package runs, below /guest.
func (p goPackage) folder() string { return strings.ReplaceAll(p.ImportPath, "/", "_") }

// build makes the test program of a package in a folder of its own, which has the
// package's test data as go test's would.
func build(ctx context.Context, p goPackage, dir string) error {
	to := filepath.Join(dir, p.folder())
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	data := filepath.Join(p.Dir, "testdata")
	if _, err := os.Stat(data); err == nil {
		if err := command(ctx, "", "cp", "-a", data, to); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", filepath.Join(to, "program"), p.ImportPath)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests of %s: %w\n%s", p.ImportPath, err, out)
	}
	return nil
}

// tests is a script that runs all test programs and fails if one of them does.
func tests(packages []goPackage, arguments string) string {
	var script strings.Builder
	script.WriteString("failed=0\n")
	for _, p := range packages {
		fmt.Fprintf(&script, "echo '=== %s'\n(cd %s && ./program %s) || failed=1\n", p.ImportPath, p.folder(), arguments)
	}
	script.WriteString("exit $failed")
	return script.String()
}
