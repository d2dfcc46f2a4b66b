//go:build programs

package programs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/cluster/image"
)

// TestPrograms runs all of them on one cluster, one after the other.
func TestPrograms(t *testing.T) {
	if os.Getenv("SKIFF_PROGRAMS") == "" {
		t.Fatal("SKIFF_PROGRAMS does not name the folder of the programs: run this with make")
	}
	c := &cluster{clustertest.New(t, 1)}
	c.Start(t)
	t.Run("definitions", func(t *testing.T) { testDefinitions(t, c) })
	t.Run("charts", func(t *testing.T) { testCharts(t, c) })
	t.Run("metrics-server", func(t *testing.T) { testMetricsServer(t, c) })
	t.Run("cert-manager", func(t *testing.T) { testCertManager(t, c) })
	t.Run("operator", func(t *testing.T) { testOperator(t, c) })
	t.Run("kyverno", func(t *testing.T) { testKyverno(t, c) })
}

type cluster struct{ *clustertest.Cluster }

// kubectl runs kubectl, which must succeed.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// apply applies manifests.
func (c *cluster) apply(t *testing.T, manifests string) {
	t.Helper()
	if out, err := c.try(t, manifests); err != nil {
		t.Fatalf("kubectl apply: %v\n%s\n%s", err, out, manifests)
	}
}

// try applies manifests and returns what kubectl says.
func (c *cluster) try(t *testing.T, manifests string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	return c.Kubectl(t, "apply", "-f", file)
}

// helm runs a Helm of a version with the arguments; what it prints is returned.
func (c *cluster) helm(t *testing.T, version string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv("SKIFF_PROGRAMS"), version), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		pods, _ := c.Kubectl(t, "get", "pods,jobs,events", "-A")
		t.Fatalf("%s %s: %v\n%s\n%s", version, strings.Join(args, " "), err, out, pods)
	}
	return string(out)
}

// module is the folder of a module that one of third_party needs.
func module(t *testing.T, folder, path string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", path)
	cmd.Dir = filepath.Join("..", "..", "third_party", folder)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod download %s: %v\n%s", path, err, out)
	}
	cmd = exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path)
	cmd.Dir = filepath.Join("..", "..", "third_party", folder)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", path, err)
	}
	return strings.TrimSpace(string(out))
}

// importPrograms makes an image of each program, under its upstream name, and
// gives it to the node.
func (c *cluster) importPrograms(t *testing.T, programs map[string]string) {
	t.Helper()
	var archives []string
	for reference, program := range programs {
		i := image.Image{
			Reference: reference,
			Layers:    []image.Layer{{image.File{From: filepath.Join(os.Getenv("SKIFF_PROGRAMS"), program), To: "program"}}, image.Accounts},
			Config:    v1.Config{Entrypoint: []string{"/program"}, User: "1000:1000"},
		}
		archive, err := i.Ensure(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, archive)
	}
	c.Import(t, archives...)
}

// copyChart copies a chart out of a module, whose files cannot be written.
func copyChart(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		copied := filepath.Join(to, strings.TrimPrefix(path, from))
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			return err
		}
		return os.WriteFile(copied, data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// definitions are the sets of custom resource definitions, each the files of a
// module that a pattern names.
var definitions = []definitionSet{
	{"github.com/argoproj/argo-cd/v3", "manifests/crds/*-crd.yaml"},
	{"github.com/cert-manager/cert-manager", "deploy/crds/*.yaml"},
	{"github.com/kyverno/kyverno", "config/crds/*/*.yaml"},
	{"github.com/open-policy-agent/gatekeeper/v3", "manifest_staging/charts/gatekeeper/crds/*.yaml"},
	{"github.com/prometheus-operator/prometheus-operator", "example/prometheus-operator-crd/*.yaml"},
	{"istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml"},
	{"knative.dev/serving", "config/core/300-resources/*.yaml"},
	{"sigs.k8s.io/cluster-api", "*/config/crd/bases/*.yaml"},
	{"sigs.k8s.io/gateway-api", "config/crd/experimental/gateway*.yaml"},
}

type definitionSet struct{ module, files string }

// read are the files of the set with definitions in them. There are some.
func (s definitionSet) read(t *testing.T) (files []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(module(t, "crds", s.module), s.files))
	for _, file := range all {
		if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte("kind: CustomResourceDefinition")) {
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		t.Fatalf("no definitions of %s: %v", s.module, err)
	}
	return files
}

// testDefinitions applies the sets as their documentation says, sees that each
// kind can be listed and explained, and takes them away again.
func testDefinitions(t *testing.T, c *cluster) {
	for _, set := range definitions {
		t.Run(set.module, func(t *testing.T) {
			var names []string
			var args []string
			for _, file := range set.read(t) {
				args = append(args, "-f", file)
			}
			out := c.kubectl(t, append([]string{"apply", "--server-side", "-o", "name"}, args...)...)
			for _, name := range strings.Fields(out) {
				if strings.HasPrefix(name, "customresourcedefinition.") {
					names = append(names, name)
				}
			}
			established := "{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=='Established')].status}{'\\n'}{end}"
			c.Until(t, func(out string) bool {
				for _, name := range names {
					if _, crd, _ := strings.Cut(name, "/"); !strings.Contains(out, crd+" True") {
						return false
					}
				}
				return true
			}, "get", "crd", "-o", "jsonpath="+established)
			for _, name := range names {
				_, crd, _ := strings.Cut(name, "/")
				c.kubectl(t, "get", crd, "-A")
				version := c.kubectl(t, "get", name, "-o", "jsonpath={.spec.group}/{.spec.versions[?(@.served==true)].name}")
				group, served, _ := strings.Cut(version, "/")
				resource, _, _ := strings.Cut(crd, ".")
				if out := c.kubectl(t, "explain", resource, "--api-version", group+"/"+strings.Fields(served)[0]); !strings.Contains(out, "KIND:") {
					t.Errorf("kubectl explain %s:\n%s", crd, out)
				}
			}
			t.Logf("%d definitions", len(names))
			c.kubectl(t, append([]string{"delete", "--wait"}, names...)...)
		})
	}
}

// testMetricsServer installs metrics-server by its chart with Helm 3: kubectl top
// asks it through the aggregator, and what the API server says itself when it is gone.
func testMetricsServer(t *testing.T, c *cluster) {
	chart := filepath.Join(module(t, "metrics-server", "sigs.k8s.io/metrics-server"), "charts", "metrics-server")
	c.importPrograms(t, map[string]string{"registry.k8s.io/metrics-server/metrics-server:v0.9.0": "metrics-server"})
	c.helm(t, "helm", "install", "metrics-server", chart, "--namespace", "kube-system", "--wait", "--timeout", "3m",
		"--set", "image.tag=v0.9.0")
	available := "{.status.conditions[?(@.type=='Available')].status}"
	c.Until(t, func(out string) bool { return out == "True" }, "get", "apiservice", "v1beta1.metrics.k8s.io", "-o", "jsonpath="+available)
	t.Log(c.Until(t, func(out string) bool { return strings.Contains(out, "node-1") }, "top", "nodes"))
	t.Log(c.Until(t, func(out string) bool { return strings.Contains(out, "metrics-server") }, "top", "pods", "-n", "kube-system"))
	c.helm(t, "helm", "uninstall", "metrics-server", "--namespace", "kube-system", "--wait")
	// Without it the group is served as before.
	t.Log(c.Until(t, func(out string) bool { return strings.Contains(out, "node-1") }, "top", "nodes"))
}

// testCertManager installs cert-manager by its chart with Helm 4: its webhook and
// CA injector work, and a Certificate becomes a Secret. The hook of the chart, a
// Job, asks the webhook before Helm says that it is done.
func testCertManager(t *testing.T, c *cluster) {
	dir := module(t, "cert-manager", "github.com/cert-manager/cert-manager")
	version := "v" + strings.SplitN(filepath.Base(dir), "@v", 2)[1]
	chart := copyChart(t, filepath.Join(dir, "deploy", "charts", "cert-manager"))
	about, err := os.ReadFile(filepath.Join(chart, "Chart.template.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// As the project's release makes the chart of its parts.
	about = bytes.ReplaceAll(about, []byte("v0.1.0"), []byte(version))
	if err := os.WriteFile(filepath.Join(chart, "Chart.yaml"), about, 0o644); err != nil {
		t.Fatal(err)
	}
	crds, err := filepath.Glob(filepath.Join(dir, "deploy", "crds", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range crds {
		data, err := os.ReadFile(crd)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(chart, "templates", filepath.Base(crd)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	images := make(map[string]string)
	for _, program := range []string{"controller", "webhook", "cainjector", "ctl"} {
		images["quay.io/jetstack/cert-manager-"+program+":"+version] = filepath.Join("cert-manager", program)
	}
	c.importPrograms(t, images)
	c.helm(t, "helm4", "install", "cert-manager", chart, "--namespace", "cert-manager", "--create-namespace", "--wait", "--timeout", "4m")
	c.apply(t, `
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: self}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: boats, namespace: default}
spec:
  secretName: boats-tls
  dnsNames: [boats.default.svc]
  issuerRef: {name: self, kind: ClusterIssuer}
`)
	c.kubectl(t, "wait", "--for=condition=Ready", "certificate/boats", "--timeout=90s")
	if out := c.kubectl(t, "get", "secret", "boats-tls", "-o", "jsonpath={.type} {.data.tls\\.crt}"); !strings.HasPrefix(out, "kubernetes.io/tls LS0tLS1CRUdJTi") {
		t.Errorf("the Secret is %s", out)
	}
	out, err := c.try(t, "{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: bad, namespace: default}, spec: {secretName: bad, issuerRef: {name: self}}}")
	if err == nil || !strings.Contains(out, `admission webhook "webhook.cert-manager.io" denied the request`) {
		t.Errorf("a Certificate without names: %v\n%s", err, out)
	}
}

// testOperator runs the program of third_party/operator, with a certificate of
// cert-manager: its webhooks default, refuse, warn and convert, and its controller
// follows.
func testOperator(t *testing.T, c *cluster) {
	c.importPrograms(t, map[string]string{"localhost/boats:v1": "operator"})
	data, err := os.ReadFile(filepath.Join("testdata", "operator.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c.apply(t, string(data))
	c.kubectl(t, "rollout", "status", "deployment/boats", "--timeout=2m")
	boat := func(version, name, spec string) string {
		return fmt.Sprintf("{apiVersion: example.com/%s, kind: Boat, metadata: {name: %s, namespace: default}, spec: %s}", version, name, spec)
	}
	c.Until(t, func(string) bool { // the CA is injected by and by
		_, err := c.try(t, boat("v1beta1", "old", `{sails: "2"}`))
		return err == nil
	}, "get", "crd", "boats.example.com")
	c.apply(t, boat("v1", "new", "{}"))
	for name, sails := range map[string]string{"old": "2", "new": "1"} {
		c.Until(t, func(out string) bool { return out == sails }, "get", "boats.v1.example.com", name, "-o", "jsonpath={.status.sails}")
		if out := c.kubectl(t, "get", "boats.v1beta1.example.com", name, "-o", "jsonpath={.apiVersion} {.spec.sails}"); out != "example.com/v1beta1 "+sails {
			t.Errorf("%s as v1beta1: %s", name, out)
		}
		if out := c.kubectl(t, "get", "configmap", name, "-o", "jsonpath={.data.sails}"); out != sails {
			t.Errorf("the ConfigMap of %s: %s", name, out)
		}
	}
	if out, err := c.try(t, boat("v1", "many", "{sails: 7}")); err == nil || !strings.Contains(out, "a boat of 7 sails capsizes") {
		t.Errorf("seven sails: %v\n%s", err, out)
	}
	if out, err := c.try(t, boat("v1", "four", "{sails: 4}")); err != nil || !strings.Contains(out, "Warning: that many sails need a crew") {
		t.Errorf("four sails: %v\n%s", err, out)
	}
	c.kubectl(t, "annotate", "boat", "old", "example.com/moored=true")
	if out, err := c.Kubectl(t, "delete", "boat", "old"); err == nil || !strings.Contains(out, "boat old is moored") {
		t.Errorf("a moored boat is deleted: %v\n%s", err, out)
	}
	c.kubectl(t, "delete", "boat", "new", "--cascade=foreground")
	if out, err := c.Kubectl(t, "get", "configmap", "new"); err == nil {
		t.Errorf("what the boat owned is still there:\n%s", out)
	}
}
