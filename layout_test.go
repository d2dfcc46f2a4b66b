package skiff_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/skiff-k8s/skiff/"

// mayImport says which folders of ours the code in a folder may import besides
// itself. The longest matching folder applies. Components never import each
// other: controlplane, cluster and cmd join them.
var mayImport = map[string][]string{
	"apiserver":            {"quota", "serviceaccount"},
	"apiserver/resource":   nil,
	"apiserver/expression": nil,
	"apiserver/deflate":    nil,
	"apiserver/gather":     nil,
	"apiserver/backend":    nil,
	"apiserver/store":      {"apiserver/deflate", "apiserver/backend", "apiserver/resource"},
	"apiserver/encryption": {"apiserver/store"},
	"apiserver/connect":    {"apiserver/reach", "apiserver/request", "apiserver/resource", "spdy"},
	"apiserver/reach":      {"apiserver/resource"},
	"apiserver/tracing":    nil,
	"apiserver/usage":      {"apiserver/resource"},
	"apiserver/audit":      {"apiserver/request"},
	"apiserver/fairness":   {"apiserver/resource", "apiserver/store"},
	"apiserver/rest": {
		"apiserver/admission", "apiserver/audit", "apiserver/codec", "apiserver/heavy", "apiserver/managedfields", "apiserver/request", "apiserver/resource", "apiserver/store", "apiserver/connect", "apiserver/tracing",
	},
	"apiserver/builtin":  {"apiserver/alloc", "apiserver/authn", "apiserver/authz", "apiserver/expression", "apiserver/resource", "apiserver/request"},
	"controllers":        {"quota", "serviceaccount", "apiserver/expression"}, // the language of policies, as a library
	"quota":              nil,
	"guard":              nil,
	"footprint":          nil,
	"family":             nil,
	"serviceaccount":     nil,
	"atomicfile":         nil,
	"spdy":               nil,
	"scheduler":          {},
	"kubelet":            {"atomicfile", "spdy"},
	"proxy":              {},
	"ingress":            {},
	"fakenodes":          {},
	"cluster":            {"atomicfile", "apiserver", "controllers", "scheduler", "kubelet", "proxy", "ingress", "fakenodes", "podnet", "networkpolicy", "controlplane"},
	"cmd":                {"atomicfile", "footprint", "cluster", "apiserver", "controllers", "scheduler", "kubelet", "proxy", "podnet"},
	"controlplane":       {"apiserver", "controllers", "scheduler", "fakenodes"},
	"skifftest":          {"controlplane", "apiserver", "controllers", "fakenodes"},
	"podnet":             {},
	"networkpolicy":      {},
	"conformance":        {"cluster", "apiserver"},
	"bench":              {"cluster", "apiserver/backend/databases", "fakenodes"},
	"bench/ingress":      {"apiserver", "ingress"},
	"bench/proxy":        {"apiserver"},
	"robustness":         {"cluster", "apiserver"},
	"robustness/history": nil, // what can have been does not depend on the server
	"examples":           {"cluster/image"},

	"examples/controller":            nil, // a program that knows a cluster by its API
	"controllers/autoscaling/decide": nil, // what is wanted does not depend on how it is found out
}

// mayNotImport are packages that code below a folder must stay clear of, with
// the reason.
var mayNotImport = []struct{ folder, imported, why string }{
	{"apiserver/store", "net/http", "the store knows objects, not requests"},
	{"apiserver/backend", "k8s.io/", "a backend knows bytes and revisions"},
}

// forbidden are what Skiff replaces: no package of the product may depend on
// them, however indirectly.
var forbidden = []string{
	"k8s.io/kubernetes",
	"k8s.io/apiserver/pkg/server",
	"k8s.io/apiserver/pkg/endpoints",
	"k8s.io/apiserver/pkg/registry",
	"k8s.io/apiserver/pkg/storage",
}

type goPackage struct {
	ImportPath, Doc string
	Imports, Deps   []string
	Name            string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		folder, allowed := rule(path)
		for _, imported := range p.Imports {
			if ours, ok := strings.CutPrefix(imported, module); ok && !within(ours, append(allowed, folder, "family", "guard")...) {
				t.Errorf("%s imports %s", path, ours)
			}
			for _, not := range mayNotImport {
				if within(path, not.folder) && (imported == not.imported || strings.HasPrefix(imported, strings.TrimSuffix(not.imported, "/")+"/")) {
					t.Errorf("%s imports %s: %s", path, imported, not.why)
				}
			}
		}
	}
}

func TestForbiddenDependencies(t *testing.T) {
	for _, p := range packages(t) {
		for _, dep := range p.Deps {
			if within(dep, forbidden...) {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range packages(t) {
		if root := strings.TrimSuffix(module, "/"); p.Doc == "" && p.ImportPath != root {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func rule(path string) (folder string, allowed []string) {
	for f, a := range mayImport {
		if within(path, f) && len(f) > len(folder) {
			folder, allowed = f, a
		}
	}
	return folder, allowed
}

func within(path string, folders ...string) bool {
	for _, f := range folders {
		if path == f || strings.HasPrefix(path, f+"/") {
			return true
		}
	}
	return false
}
