//go:build programs

package programs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// release is one of a chart, in a namespace of its own, by a Helm of a version.
type release struct {
	*cluster
	helmVersion, name, namespace, chart string
	// values are the file of those that the chart gets in place of its own.
	values string
	// args are Helm's options that go with the values.
	args []string
}

// newRelease names a release and its namespace after the chart, whose values are in testdata.
func newRelease(c *cluster, helm, chart string) release {
	name := filepath.Base(chart)
	return release{cluster: c, helmVersion: helm, name: name, namespace: name, chart: chart, values: filepath.Join("testdata", "values", name+".yaml")}
}

// install installs it, which must make all of it ready, and says how long that took.
func (r release) install(t *testing.T, args ...string) {
	t.Helper()
	start := time.Now()
	r.with(t, "install", append([]string{"--create-namespace", "--wait", "--timeout", "4m"}, args...)...)
	t.Logf("%s is ready after %.0f s", r.name, time.Since(start).Seconds())
}

// upgrade upgrades it to its values and those of the arguments.
func (r release) upgrade(t *testing.T, args ...string) {
	t.Helper()
	r.with(t, "upgrade", append([]string{"--wait", "--timeout", "4m"}, args...)...)
}

// with runs one of Helm's commands that want a chart and values.
func (r release) with(t *testing.T, verb string, args ...string) {
	t.Helper()
	if out, err := r.tryWith(t, verb, args...); err != nil {
		r.tellOf(t)
		t.Fatalf("%s %s %s %s: %v\n%s", r.helmVersion, verb, r.name, strings.Join(args, " "), err, out)
	}
}

// tryWith is with for what may fail.
func (r release) tryWith(t *testing.T, verb string, args ...string) (string, error) {
	t.Helper()
	return r.tryTo(t, verb, slices.Concat([]string{r.chart, "--values", r.values}, r.args, args)...)
}

// do runs one of Helm's commands on the release, which must succeed.
func (r release) do(t *testing.T, verb string, args ...string) string {
	t.Helper()
	out, err := r.tryTo(t, verb, args...)
	if err != nil {
		r.tellOf(t)
		t.Fatalf("%s %s %s %s: %v\n%s", r.helmVersion, verb, r.name, strings.Join(args, " "), err, out)
	}
	return out
}

// tryTo is do for what may fail.
func (r release) tryTo(t *testing.T, verb string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv("SKIFF_PROGRAMS"), r.helmVersion), slices.Concat([]string{verb, r.name}, args, []string{"--namespace", r.namespace})...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.Kubeconfig(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// rollback is the option with which an upgrade that fails is taken back.
func (r release) rollback() string {
	if r.helmVersion == "helm" {
		return "--atomic"
	}
	return "--rollback-on-failure"
}

// revisions are the states of the release's revisions, as Helm tells them, oldest first.
func (r release) revisions(t *testing.T) string {
	t.Helper()
	var revisions []struct{ Status string }
	if err := json.Unmarshal([]byte(r.do(t, "history", "--output", "json")), &revisions); err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, revision := range revisions {
		states = append(states, revision.Status)
	}
	return strings.Join(states, " ")
}

// get runs kubectl get in the release's namespace.
func (r release) get(t *testing.T, args ...string) string {
	t.Helper()
	return r.kubectl(t, append([]string{"get", "--namespace", r.namespace}, args...)...)
}

// until waits for what kubectl get prints of the release's namespace.
func (r release) until(t *testing.T, done func(out string) bool, args ...string) string {
	t.Helper()
	return r.Until(t, done, append([]string{"get", "--namespace", r.namespace}, args...)...)
}

// uninstall takes the release away. Nothing stays in its namespace but what every namespace has and what is named.
func (r release) uninstall(t *testing.T, stays ...string) {
	t.Helper()
	r.do(t, "uninstall", "--wait", "--timeout", "4m")
	const kinds = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,ingresses,networkpolicies,poddisruptionbudgets,persistentvolumeclaims,resourcequotas"
	stays = append(stays, "configmap/kube-root-ca.crt", "serviceaccount/default")
	r.until(t, func(out string) bool {
		return !slices.ContainsFunc(strings.Fields(out), func(object string) bool { return !slices.Contains(stays, object) })
	}, kinds, "-o", "name")
	for _, object := range stays {
		r.get(t, object)
	}
}

// tellOf says what the namespace has, for who looks for the reason of a failure.
func (r release) tellOf(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"get", "all,persistentvolumeclaims,events"}, {"describe", "pods"}, {"logs", "--all-containers", "--prefix", "--tail", "20", "--selector", "app.kubernetes.io/instance=" + r.name}} {
		out, _ := r.Kubectl(t, append(args, "--namespace", r.namespace)...)
		t.Logf("kubectl %s:\n%s", strings.Join(args, " "), out)
	}
}

// is waits for a text, but for the space around it.
func is(want string) func(string) bool {
	return func(out string) bool { return strings.TrimSpace(out) == want }
}
