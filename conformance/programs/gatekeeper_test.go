//go:build programs

package programs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// gatekeeperPolicy wants a label of every ConfigMap of a namespace. The kind of the constraint is there when Gatekeeper
// has seen the template.
const gatekeeperPolicy = `
apiVersion: templates.gatekeeper.sh/v1
kind: ConstraintTemplate
metadata: {name: owned}
spec:
  crd: {spec: {names: {kind: Owned}}}
  targets:
  - target: admission.k8s.gatekeeper.sh
    rego: |
      package owned
      violation[{"msg": msg}] {
        not input.review.object.metadata.labels.owner
        msg := "nobody owns it"
      }
`

const gatekeeperConstraint = `{apiVersion: constraints.gatekeeper.sh/v1beta1, kind: Owned, metadata: {name: configmaps}, spec:
  {match: {kinds: [{apiGroups: [""], kinds: [ConfigMap]}], namespaces: [default]}}}`

// testGatekeeper installs Gatekeeper, of which the chart is made of hooks: a Job applies the definitions before it is
// there and before each upgrade, another asks its webhook and labels its namespace after that. They go when they have
// succeeded, with the rights they had. Its policy is judged by its webhook.
func testGatekeeper(t *testing.T, c *cluster, helm string) {
	r := newRelease(c, helm, filepath.Join(module(t, "gatekeeper", "github.com/open-policy-agent/gatekeeper/v3"), "charts", "gatekeeper"))
	r.install(t)
	defer c.kubectl(t, "delete", "namespace", r.namespace)
	t.Run("hooks", func(t *testing.T) { r.testHooks(t) })
	t.Run("objects", func(t *testing.T) {
		r.until(t, is("1"), "poddisruptionbudget", "gatekeeper-controller-manager", "-o", "jsonpath={.status.disruptionsAllowed}")
		r.until(t, is("3"), "resourcequota", "gatekeeper-critical-pods", "-o", "jsonpath={.status.used.pods}")
		r.get(t, "networkpolicy", "gatekeeper-controller-manager")
	})
	t.Run("policy", func(t *testing.T) { testGatekeeperPolicy(t, c) })
	t.Run("upgrade and rollback", func(t *testing.T) {
		c.kubectl(t, "label", "namespace", r.namespace, "admission.gatekeeper.sh/ignore-")
		r.upgrade(t, "--set", "logLevel=DEBUG")
		r.testHooks(t)
		level := []string{"deployment", "gatekeeper-controller-manager", "-o", "jsonpath={.spec.template.spec.containers[0].args}"}
		r.until(t, func(out string) bool { return strings.Contains(out, "--log-level=DEBUG") }, level...)
		r.do(t, "rollback", "1", "--wait", "--timeout", "4m")
		r.until(t, func(out string) bool { return strings.Contains(out, "--log-level=INFO") }, level...)
		if got, want := r.revisions(t), "superseded superseded deployed"; got != want {
			t.Errorf("the revisions are %s, want %s", got, want)
		}
	})
	r.uninstall(t)
	for _, kind := range []string{"validatingwebhookconfigurations", "mutatingwebhookconfigurations", "clusterroles", "clusterrolebindings"} {
		if out := c.kubectl(t, "get", kind, "-o", "name"); strings.Contains(out, "gatekeeper") {
			t.Errorf("left of %s:\n%s", kind, out)
		}
	}
	// A chart's folder of definitions stays, as Helm promises.
	files, err := os.ReadDir(filepath.Join(r.chart, "crds"))
	if err != nil {
		t.Fatal(err)
	}
	left := c.defined(t)
	if len(left) != len(files) {
		t.Errorf("%d definitions are left of %d", len(left), len(files))
	}
	c.kubectl(t, append([]string{"delete", "--wait"}, left...)...)
}

// testHooks sees that the hooks did what they are for, and are gone.
func (r release) testHooks(t *testing.T) {
	t.Helper()
	labels := r.kubectl(t, "get", "namespace", r.namespace, "-o", "jsonpath={.metadata.labels}")
	if !strings.Contains(labels, `"admission.gatekeeper.sh/ignore":"no-self-managing"`) || !strings.Contains(labels, `"pod-security.kubernetes.io/enforce":"restricted"`) {
		t.Errorf("the namespace has the labels %s", labels)
	}
	if out := r.get(t, "jobs,serviceaccounts", "-o", "name"); strings.Contains(out, "job") || strings.Contains(out, "update") || strings.Contains(out, "upgrade") {
		t.Errorf("of the hooks there are still:\n%s", out)
	}
}

// testGatekeeperPolicy sees that Gatekeeper makes a kind of a template, and refuses what a constraint of it does not want.
func testGatekeeperPolicy(t *testing.T, c *cluster) {
	c.apply(t, gatekeeperPolicy)
	c.Until(t, is("True"), "get", "crd", "owned.constraints.gatekeeper.sh", "-o", "jsonpath={.status.conditions[?(@.type=='Established')].status}")
	c.apply(t, gatekeeperConstraint)
	configMap := func(name, labels string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: default, labels: {%s}}}", name, labels)
	}
	c.Until(t, is("true true true"), "get", "owned", "configmaps", "-o", "jsonpath={.status.byPod[*].enforced}")
	if out, err := c.try(t, configMap("nobodys", "")); err == nil || !strings.Contains(out, `admission webhook "validation.gatekeeper.sh" denied the request: [configmaps] nobody owns it`) {
		t.Errorf("a ConfigMap without an owner: %v\n%s", err, out)
	}
	c.apply(t, configMap("mine", "owner: me"))
	c.kubectl(t, "delete", "configmap/mine", "owned/configmaps", "constrainttemplate/owned")
	c.Until(t, func(out string) bool { return !strings.Contains(out, "owned") }, "get", "crd", "-o", "name")
}
