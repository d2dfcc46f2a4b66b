package main

import (
	"cmp"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/family"
)

// quick are a dozen tests of the suite, of every tier whose parts exist.
var quick = []string{
	"[sig-api-machinery] Watchers should observe add, update, and delete watch notifications on configmaps [Conformance]",
	"[sig-network] Ingress API should support creating Ingress API operations [Conformance]",
	"[sig-api-machinery] Garbage collector should delete pods created by rc when not orphaning [Conformance]",
	"[sig-apps] Deployment RollingUpdateDeployment should delete old pods and create new ones [Conformance]",
	"[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should have a working scale subresource [Conformance]",
	"[sig-auth] ServiceAccounts should mount an API token into pods [Conformance]",
	"[sig-cli] Kubectl logs logs should be able to retrieve and filter logs [Conformance]",
	"[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly [NodeConformance] [Conformance]",
	"[sig-node] Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars [NodeConformance] [Conformance]",
	"[sig-storage] Projected configMap should be consumable from pods in volume with mappings [NodeConformance] [Conformance]",
	"[sig-network] DNS should provide DNS for services [Conformance]",
	"[sig-network] Services should be able to create a functioning NodePort service [Conformance]",
	"[sig-architecture] Conformance Tests should have at least two untainted nodes [Conformance]",
}

// TestQuick runs a dozen of the official tests on two nodes with real
// containers.
func TestQuick(t *testing.T) {
	images := os.Getenv("SKIFF_IMAGES")
	if images == "" {
		t.Fatal("SKIFF_IMAGES is not set: run the tests with make test")
	}
	all := allTests()
	var tests []test
	for _, name := range quick {
		i := slices.IndexFunc(all, func(t test) bool { return t.name == name })
		if i < 0 {
			t.Fatalf("the suite has no test %q", name)
		}
		tests = append(tests, all[i])
	}
	s := settings{
		skiff: clustertest.Build(t), tools: clustertest.Tools(t), images: images, procs: 3,
		dir: shortDir(t), isolated: true,
		// Ranges of its own: other clusters may be up on this machine.
		listen: freeAddress(t), podCIDRs: family.MustParse("10.247.0.0/16"), nodeCIDRs: family.MustParse("172.30.3.0/24"),
	}
	stop, err := s.start(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	err = s.test(t.Context(), tests)
	if err := cmp.Or(err, stop()); err != nil {
		t.Fatal(err)
	}
	found, err := outcomes(filepath.Join(s.dir, "reports"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		if o := found[plainName(test.name)]; o.result != passed {
			t.Errorf("%s: %s: %s", test.name, cmp.Or(o.result, notRun), o.reason)
		}
	}
	if t.Failed() {
		log, err := os.ReadFile(filepath.Join(s.dir, "e2e.log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the suite said:\n%s", log[max(0, len(log)-20000):])
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// shortDir is a folder with a name short enough for the sockets below it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "skiff-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is still mounted or used: %v", err)
		}
	})
	return dir
}

func TestChoose(t *testing.T) {
	for name, test := range map[string]struct {
		settings settings
		want     int
		fails    bool
	}{
		"everything":                  {want: 446},
		"one tier":                    {settings: settings{tier: "multinode"}, want: 2},
		"two tiers":                   {settings: settings{tier: "multinode,dra"}, want: 6},
		"tier and focus":              {settings: settings{tier: "multinode", focus: "untainted"}, want: 1},
		"a tier and one that is not":  {settings: settings{tier: "multinode,nodes"}, fails: true},
		"nothing matches":             {settings: settings{focus: "no such test"}, fails: true},
		"focus, but for some":         {settings: settings{focus: "Pods", skip: "Pods"}, fails: true},
		"a focus that does not parse": {settings: settings{focus: "("}, fails: true},
		"a skip that does not parse":  {settings: settings{skip: "("}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := choose(test.settings)
			if len(got) != test.want || (err != nil) != test.fails {
				t.Errorf("got %d tests and %v, want %d", len(got), err, test.want)
			}
		})
	}
}

func TestParseTests(t *testing.T) {
	list := `The following spec names can be used with 'ginkgo run --focus/skip':
    k8s.io/kubernetes@v1.36.3/test/e2e/a.go:27: [sig-apps] Deployment: should be [Serial] made
    k8s.io/kubernetes@v1.36.3/test/e2e/a.go:58: [sig-node] Pods should be updated [NodeConformance] [Conformance]
    k8s.io/kubernetes@v1.36.3/test/e2e/b.go:1: something without a group
`
	want := []test{{name: "[sig-apps] Deployment: should be [Serial] made", tier: "beyond", group: "apps", serial: true}}
	if got := parseTests(list); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestPlainName(t *testing.T) {
	reported := "[It] [sig-node] Pods should be updated [NodeConformance] [Conformance] [sig-node, NodeConformance, Conformance]"
	if got, want := plainName(reported), "[sig-node] Pods should be updated [NodeConformance] [Conformance]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, test := range allTests() {
		if !regexp.MustCompile(`\[Conformance\]`).MatchString(test.name) {
			t.Errorf("%q in the list is no conformance test", test.name)
		}
	}
}
