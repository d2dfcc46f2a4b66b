//go:build programs

package programs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tooLarge are sets of which a chart has a part alone: a release is a Secret, which may have 1 MiB, in any cluster.
var tooLarge = map[string]bool{"github.com/kyverno/kyverno": true, "github.com/prometheus-operator/prometheus-operator": true}

// testCharts installs each set of definitions as a chart has them: in its folder of definitions, which Helm installs
// and leaves alone from then on, or as templates, which are upgraded and uninstalled. One is done with Helm 3 and the
// other with Helm 4, which applies on the server, in turns.
func testCharts(t *testing.T, c *cluster) {
	helms := []string{"helm", "helm4"}
	for i, set := range definitions {
		t.Run(set.module, func(t *testing.T) {
			files := set.read(t)
			if tooLarge[set.module] {
				files = files[:4]
			}
			t.Run("folder with "+helms[i%2], func(t *testing.T) { c.testFolder(t, helms[i%2], files) })
			t.Run("templates with "+helms[(i+1)%2], func(t *testing.T) { c.testTemplates(t, helms[(i+1)%2], files) })
		})
	}
}

func (c *cluster) testFolder(t *testing.T, helm string, files []string) {
	chart := makeChart(t, "crds", files)
	c.helm(t, helm, "install", "set", chart, "--wait")
	names := c.defined(t)
	if len(names) < len(files) {
		t.Fatalf("%d definitions of %d files:\n%s", len(names), len(files), strings.Join(names, "\n"))
	}
	c.checkKnown(t)
	c.helm(t, helm, "upgrade", "set", chart, "--wait", "--set", "version=two")
	if out := c.kubectl(t, "get", "configmap", "chart", "-o", "jsonpath={.data.version}"); out != "two" {
		t.Errorf("after the upgrade the version is %q", out)
	}
	c.helm(t, helm, "uninstall", "set", "--wait")
	if left := c.defined(t); len(left) != len(names) {
		t.Errorf("%d definitions of %d are left; Helm leaves them all", len(left), len(names))
	}
	c.kubectl(t, append([]string{"delete", "--wait"}, names...)...)
}

// checkKnown sees that Helm told the chart of the kinds which it had just defined: templates ask which there are.
func (c *cluster) checkKnown(t *testing.T) {
	t.Helper()
	known := strings.Fields(c.kubectl(t, "get", "configmap", "chart", "-o", "jsonpath={.data.known}"))
	kinds := c.kubectl(t, "get", "crd", "-o", "jsonpath={range .items[*]}{.spec.group}/{.spec.versions[?(@.storage==true)].name}/{.spec.names.kind} {end}")
	for _, kind := range append(strings.Fields(kinds), "autoscaling/v2/HorizontalPodAutoscaler") {
		if !slices.Contains(known, kind) {
			t.Errorf("a chart is not told of %s", kind)
		}
	}
}

func (c *cluster) testTemplates(t *testing.T, helm string, files []string) {
	chart := makeChart(t, "templates", files)
	c.helm(t, helm, "install", "set", chart, "--wait")
	names := c.defined(t)
	if len(names) < len(files) {
		t.Fatalf("%d definitions of %d files:\n%s", len(names), len(files), strings.Join(names, "\n"))
	}
	c.helm(t, helm, "upgrade", "set", chart, "--wait", "--set", "version=two")
	versions := strings.Fields(c.kubectl(t, append([]string{"get", "-o", "jsonpath={.items[*].metadata.annotations.example\\.com/version}"}, names...)...))
	if want := strings.Fields(strings.Repeat("two ", len(names))); len(names) > 1 && strings.Join(versions, " ") != strings.Join(want, " ") {
		t.Errorf("after the upgrade the versions are %q", versions)
	}
	kept := strings.Count(c.kubectl(t, "get", "crd", "-o", "jsonpath={.items[*].metadata.annotations.helm\\.sh/resource-policy}"), "keep")
	c.helm(t, helm, "uninstall", "set", "--wait")
	left := c.defined(t)
	if len(left) != kept {
		t.Errorf("%d are to be kept; there are still:\n%s", kept, strings.Join(left, "\n"))
	}
	if len(left) > 0 {
		c.kubectl(t, append([]string{"delete", "--wait"}, left...)...)
	}
}

// defined are the definitions there are, as kubectl names them.
func (c *cluster) defined(t *testing.T) []string {
	t.Helper()
	return strings.Fields(c.kubectl(t, "get", "crd", "-o", "name"))
}

// makeChart makes a chart with a ConfigMap, and with files of definitions in a folder of it. Templates have the version
// of the chart's values in an annotation.
func makeChart(t *testing.T, folder string, files []string) string {
	t.Helper()
	chart := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(chart, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("Chart.yaml", "{apiVersion: v2, name: set, version: 0.1.0}")
	write("values.yaml", "version: one")
	write("templates/chart.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: chart}\ndata:\n  version: {{ .Values.version }}\n  known: {{ join \" \" .Capabilities.APIVersions | quote }}\n")
	for i, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if folder == "templates" {
			data = template(data)
		}
		write(filepath.Join(folder, fmt.Sprintf("%d-%s", i, filepath.Base(file))), string(data))
	}
	return chart
}

// template makes a template of definitions, which may speak of templates themselves.
func template(data []byte) []byte {
	data = bytes.ReplaceAll(data, []byte("{{"), []byte(`{{ "{{" }}`))
	const version = "\n    example.com/version: {{ .Values.version }}"
	if bytes.Contains(data, []byte("\n  annotations:")) {
		return bytes.ReplaceAll(data, []byte("\n  annotations:"), []byte("\n  annotations:"+version))
	}
	return bytes.ReplaceAll(data, []byte("\nmetadata:"), []byte("\nmetadata:\n  annotations:"+version))
}
