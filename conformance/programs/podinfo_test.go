//go:build programs

package programs

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// testPodinfo installs podinfo with all that an application of the web has: pods whose number follows the load and
// which are not all moved at once, a load balancer, an Ingress with TLS, and a Redis beside it. Its tests are pods.
func testPodinfo(t *testing.T, c *cluster, helm string) {
	r := newRelease(c, helm, podinfoChart(t))
	c.kubectl(t, "create", "namespace", r.namespace)
	defer c.kubectl(t, "delete", "namespace", r.namespace)
	roots := c.createCertificate(t, r.namespace, "podinfo-tls", "podinfo.example.com")
	r.install(t)
	service := "http://" + r.address(t, "service/podinfo") + ":9898"
	web := client(roots, r.address(t, "ingress/podinfo"))

	t.Run("is reached", func(t *testing.T) {
		for at, client := range map[string]*http.Client{service: http.DefaultClient, "https://podinfo.example.com": web} {
			if got := fetch(t, client, at+"/api/info"); !strings.Contains(got, `"version": "6.9.2"`) {
				t.Errorf("%s says %s", at, got)
			}
		}
	})
	t.Run("its tests", func(t *testing.T) {
		out := r.do(t, "test", "--timeout", "2m")
		if passed := strings.Count(out, "Phase:          Succeeded"); passed != 3 {
			t.Errorf("%d tests passed, want those of service, gRPC and tokens:\n%s", passed, out)
		}
		r.until(t, func(out string) bool { return !strings.Contains(out, "-test-") }, "pods", "-o", "name")
	})
	t.Run("a test that fails", func(t *testing.T) {
		r.upgrade(t, "--set", "faults.testFail=true")
		if out, err := r.tryTo(t, "test", "--timeout", "2m", "--filter", "name="+r.hook(t, "fault-test")); err == nil || !strings.Contains(out, "Phase:          Failed") {
			t.Errorf("helm test: %v\n%s", err, out)
		}
		pod := strings.TrimSpace(r.until(t, func(out string) bool { return strings.Contains(out, "fault-test") }, "pods", "-o", "name", "--field-selector", "status.phase=Failed"))
		c.kubectl(t, "delete", "--namespace", r.namespace, pod)
	})
	t.Run("evictions", func(t *testing.T) { r.testEvictions(t) })
	t.Run("scales", func(t *testing.T) { r.testScaling(t, service) })
	t.Run("upgrades", func(t *testing.T) { r.testUpgrades(t, web) })
	r.uninstall(t, "secret/podinfo-tls")
}

// podinfoChart is the chart with a tag for an image that has none, which would be asked of a registry each time.
func podinfoChart(t *testing.T) string {
	t.Helper()
	chart := copyChart(t, filepath.Join(module(t, "podinfo", "github.com/stefanprodan/podinfo"), "charts", "podinfo"))
	file := filepath.Join(chart, "templates", "tests", "jwt.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tagged := bytes.ReplaceAll(data, []byte("image: giantswarm/tiny-tools\n"), []byte("image: giantswarm/tiny-tools:v1\n"))
	if bytes.Equal(tagged, data) {
		t.Fatalf("the test has another image than it had:\n%s", data)
	}
	if err := os.WriteFile(file, tagged, 0o644); err != nil {
		t.Fatal(err)
	}
	return chart
}

// hook is the name of a hook of the release whose name has a text in it.
func (r release) hook(t *testing.T, text string) string {
	t.Helper()
	for line := range strings.Lines(r.hooks(t)) {
		if _, name, ok := strings.Cut(line, "name: "); ok && strings.Contains(name, text) {
			return strings.TrimSpace(name)
		}
	}
	t.Fatalf("no hook is named %s", text)
	return ""
}

// hooks are the manifests of the release's hooks.
func (r release) hooks(t *testing.T) string {
	t.Helper()
	return r.helm(t, r.helmVersion, "get", "hooks", r.name, "--namespace", r.namespace)
}

// testEvictions sees that the chart's budget lets one pod go and not another.
func (r release) testEvictions(t *testing.T) {
	r.until(t, is("1"), "poddisruptionbudget", "podinfo", "-o", "jsonpath={.status.disruptionsAllowed}")
	pods := strings.Fields(r.get(t, "pods", "--selector", "app.kubernetes.io/name=podinfo", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(pods) != 2 {
		t.Fatalf("the pods are %q", pods)
	}
	evict := func(pod string) (string, error) {
		return r.create(t, "/api/v1/namespaces/"+r.namespace+"/pods/"+pod+"/eviction",
			`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "`+pod+`", "namespace": "`+r.namespace+`"}}`)
	}
	if out, err := evict(pods[0]); err != nil {
		t.Errorf("the first: %v\n%s", err, out)
	}
	if out, err := evict(pods[1]); err == nil || !strings.Contains(out, "Cannot evict pod as it would violate the pod's disruption budget.") {
		t.Errorf("the second at once: %v\n%s", err, out)
	}
	r.until(t, is("2"), "deployment", "podinfo", "-o", "jsonpath={.status.readyReplicas}")
}

// testScaling sends requests until the autoscaler has as many pods as it may.
func (r release) testScaling(t *testing.T, service string) {
	r.until(t, func(out string) bool { return strings.TrimSpace(out) != "" }, "hpa", "podinfo", "-o", "jsonpath={.status.currentMetrics[0].resource.current.averageUtilization}")
	done := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if response, err := http.Get(service + "/api/info"); err == nil {
					_ = response.Body.Close()
				}
			}
		})
	}
	defer load.Wait()
	defer close(done)
	r.until(t, is("4"), "deployment", "podinfo", "-o", "jsonpath={.status.readyReplicas}")
}

// testUpgrades goes to another message, is taken back from an image that is not to be had, and goes back to the first.
func (r release) testUpgrades(t *testing.T, web *http.Client) {
	says := func(second bool) {
		t.Helper()
		fetchUntil(t, web, "https://podinfo.example.com/api/info", func(page string) bool { return strings.Contains(page, "the second") == second })
	}
	r.upgrade(t, "--set", "ui.message=the second")
	says(true)
	if out, err := r.tryWith(t, "upgrade", r.rollback(), "--timeout", "20s", "--set", "image.tag=nowhere"); err == nil {
		t.Errorf("an upgrade to an image that is not to be had: %s", out)
	}
	says(true)
	if got, want := r.revisions(t), "superseded superseded superseded failed deployed"; got != want {
		t.Errorf("the revisions are %s, want %s", got, want)
	}
	r.do(t, "rollback", "1", "--wait", "--timeout", "2m")
	says(false)
}
