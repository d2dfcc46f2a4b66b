//go:build programs

package programs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kyvernoPolicies are one of each way in which Kyverno sees to something: by a webhook that changes, by one that
// refuses, and by policies of the API server that it writes.
const kyvernoPolicies = `
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: owners}
spec:
  rules:
  - name: team
    match: {any: [{resources: {kinds: [ConfigMap], namespaces: [default]}}]}
    mutate: {patchStrategicMerge: {metadata: {labels: {+(team): boats}}}}
  - name: owner
    match: {any: [{resources: {kinds: [ConfigMap], namespaces: [default]}}]}
    validate: {failureAction: Enforce, message: a ConfigMap needs an owner, pattern: {metadata: {labels: {owner: "?*"}}}}
---
apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: sizes}
spec:
  autogen: {validatingAdmissionPolicy: {enabled: true}}
  validationActions: [Deny]
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [secrets]}]}
  validations: [{expression: "!has(object.data) || object.data.size() < 3", message: that is too much}]
---
apiVersion: policies.kyverno.io/v1
kind: MutatingPolicy
metadata: {name: teams}
spec:
  autogen: {mutatingAdmissionPolicy: {enabled: true}}
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [secrets]}]}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: 'Object{metadata: Object.metadata{labels: Object.metadata.labels{team: "boats"}}}'}
`

// testKyverno installs Kyverno by its chart with Helm 3. It makes its certificates and writes its webhook
// configurations while it runs: for policies, and then for what the policies are about. The hooks of the chart are
// Jobs, which take the configurations away before the release goes, and go themselves when they have succeeded.
func testKyverno(t *testing.T, c *cluster) {
	dir := module(t, "kyverno", "github.com/kyverno/kyverno")
	version := "v" + strings.SplitN(filepath.Base(dir), "@v", 2)[1]
	sets, err := filepath.Glob(filepath.Join(dir, "config", "crds", "*"))
	if err != nil || len(sets) == 0 {
		t.Fatalf("no definitions: %v", err)
	}
	for _, set := range sets {
		c.kubectl(t, "apply", "--server-side", "-f", set)
	}
	c.importPrograms(t, map[string]string{
		"reg.kyverno.io/kyverno/kyverno:" + version:           filepath.Join("kyverno", "kyverno"),
		"reg.kyverno.io/kyverno/kyvernopre:" + version:        filepath.Join("kyverno", "kyverno-init"),
		"reg.kyverno.io/kyverno/readiness-checker:" + version: filepath.Join("kyverno", "readiness-checker"),
	})
	c.helm(t, "helm", "install", "kyverno", kyvernoChart(t, dir), "--namespace", "kyverno", "--create-namespace", "--wait", "--timeout", "4m",
		"--set", "crds.install=false,backgroundController.enabled=false,cleanupController.enabled=false,reportsController.enabled=false,"+
			"features.admissionReports.enabled=false,features.generateMutatingAdmissionPolicy.enabled=true,webhooksCleanup.image.registry=reg.kyverno.io")

	c.Until(t, func(out string) bool { return strings.Contains(out, "clusterpolicies") }, "get", "validatingwebhookconfigurations", "-o", "jsonpath={.items[*].webhooks[*].rules[*].resources}")
	const bad = "{apiVersion: kyverno.io/v1, kind: ClusterPolicy, metadata: {name: bad}, spec: {rules: [{name: both, match: {any: [{resources: {kinds: [ConfigMap]}}]}, " +
		"validate: {message: m, pattern: {data: {a: b}}}, mutate: {patchStrategicMerge: {data: {a: b}}}}]}}"
	if out, err := c.try(t, bad); err == nil || !strings.Contains(out, `admission webhook "validate-policy.kyverno.svc" denied the request`) {
		t.Errorf("a rule that does two things: %v\n%s", err, out)
	}
	c.apply(t, kyvernoPolicies)
	c.kubectl(t, "wait", "--for=condition=Ready", "clusterpolicy/owners", "--timeout=90s")
	for _, kind := range []string{"mutatingwebhookconfiguration", "validatingwebhookconfiguration"} {
		c.Until(t, func(out string) bool { return strings.Contains(out, "configmaps") }, "get", kind, "-o", "jsonpath={.items[*].webhooks[*].rules[*].resources}")
	}
	configMap := func(name, labels string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: default, labels: {%s}}}", name, labels)
	}
	if out, err := c.try(t, configMap("nobodys", "")); err == nil || !strings.Contains(out, "a ConfigMap needs an owner") || !strings.Contains(out, "validate.kyverno.svc") {
		t.Errorf("a ConfigMap without an owner: %v\n%s", err, out)
	}
	c.apply(t, configMap("mine", "owner: me"))
	c.apply(t, configMap("ours", "owner: us, team: ships"))
	for name, team := range map[string]string{"mine": "boats", "ours": "ships"} {
		if out := c.kubectl(t, "get", "configmap", name, "-o", "jsonpath={.metadata.labels.team}"); out != team {
			t.Errorf("the team of %s is %q, want %q", name, out, team)
		}
	}

	c.Until(t, func(out string) bool { return strings.Contains(out, "vpol-sizes") }, "get", "validatingadmissionpolicybindings", "-o", "name")
	c.Until(t, func(out string) bool { return strings.Contains(out, "mpol-teams") }, "get", "mutatingadmissionpolicybindings", "-o", "name")
	const large = "{apiVersion: v1, kind: Secret, metadata: {name: large, namespace: default}, stringData: {a: b, c: d, e: f}}"
	if out, err := c.try(t, large); err == nil || !strings.Contains(out, "ValidatingAdmissionPolicy 'vpol-sizes'") || !strings.Contains(out, "that is too much") {
		t.Errorf("a Secret of three entries: %v\n%s", err, out)
	}

	c.apply(t, "{apiVersion: v1, kind: Secret, metadata: {name: small, namespace: default}}")
	if out := c.kubectl(t, "get", "secret", "small", "-o", "jsonpath={.metadata.labels.team}"); out != "boats" {
		t.Errorf("the team of the Secret is %q, want boats", out)
	}

	c.kubectl(t, "delete", "clusterpolicy/owners", "validatingpolicy/sizes", "mutatingpolicy/teams")
	c.Until(t, func(out string) bool { return !strings.Contains(out, "configmaps") }, "get", "validatingwebhookconfigurations,mutatingwebhookconfigurations",
		"-o", "jsonpath={.items[*].webhooks[*].rules[*].resources}")
	c.Until(t, func(out string) bool { return !strings.Contains(out, "pol-") }, "get",
		"validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingadmissionpolicies,mutatingadmissionpolicybindings", "-o", "name")
	c.apply(t, configMap("nobodys", ""))
	c.apply(t, large)

	c.helm(t, "helm", "uninstall", "kyverno", "--namespace", "kyverno", "--wait", "--timeout", "4m")
	left := c.kubectl(t, "get", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "-o", "name") + c.kubectl(t, "get", "jobs", "--namespace", "kyverno", "-o", "name")
	if strings.Contains(left, "kyverno") {
		t.Errorf("what the hooks are to take away is still there:\n%s", left)
	}
}

// kyvernoChart is the chart without the parts that come from elsewhere, which are off.
func kyvernoChart(t *testing.T, dir string) string {
	t.Helper()
	chart := copyChart(t, filepath.Join(dir, "charts", "kyverno"))
	about := filepath.Join(chart, "Chart.yaml")
	data, err := os.ReadFile(about)
	if err != nil {
		t.Fatal(err)
	}
	data, _, found := bytes.Cut(data, []byte("  - name: kyverno-api\n"))
	if !found {
		t.Fatalf("the chart has other parts than it had:\n%s", data)
	}
	if err := os.WriteFile(about, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return chart
}
