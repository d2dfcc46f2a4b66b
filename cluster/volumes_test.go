package cluster_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

const statefulManifest = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1000, runAsGroup: 1000}
      containers:
      - name: c
        image: localhost/skiff/examples/hello-node:v1
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

// TestStatefulSetKeepsItsData: claims that name no class get volumes of the default one, what pods write there outlives
// them and the cluster's process, volumes grow, and they are wiped with their claims. The class is its owner's: deleted,
// it is not made again.
func TestStatefulSetKeepsItsData(t *testing.T) {
	images := exampleImages(t)
	c := clustertest.New(t, 1)
	c.Start(t)
	c.Import(t, images[0])
	must := func(args ...string) string {
		t.Helper()
		out, err := c.Kubectl(t, args...)
		if err != nil {
			t.Fatalf("kubectl %s: %s", strings.Join(args, " "), out)
		}
		return out
	}
	is := func(want string) func(string) bool {
		return func(out string) bool { return strings.TrimSpace(out) == want }
	}
	has := func(text string) func(string) bool {
		return func(out string) bool { return strings.Contains(out, text) }
	}
	read := func(pod string) []string {
		return []string{"exec", pod, "--", "node", "-e", "console.log(require('fs').readdirSync('/data').map(f => f + ' ' + require('fs').readFileSync('/data/' + f)).join())"}
	}
	if out := must("get", "storageclass"); !strings.Contains(out, "standard (default)") || !strings.Contains(out, "WaitForFirstConsumer") {
		t.Errorf("got the storage classes\n%s", out)
	}
	manifest := filepath.Join(t.TempDir(), "stateful.yaml")
	if err := os.WriteFile(manifest, []byte(statefulManifest), 0o644); err != nil {
		t.Fatal(err)
	}
	must("apply", "-f", manifest)
	ready := []string{"get", "statefulset", "db", "-o=jsonpath={.status.readyReplicas}"}
	c.Until(t, is("2"), ready...)
	for _, pod := range []string{"db-0", "db-1"} {
		must("exec", pod, "--", "node", "-e", "require('fs').writeFileSync('/data/name', '"+pod+"')")
	}

	uid := must("get", "pod", "db-0", "-o=jsonpath={.metadata.uid}")
	must("delete", "pod", "db-0")
	c.Until(t, func(out string) bool { return out != "" && out != uid }, "get", "pod", "db-0", "-o=jsonpath={.metadata.uid}")
	c.Until(t, is("name db-0"), read("db-0")...)

	must("patch", "pvc", "data-db-0", "--type=merge", `-p={"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	c.Until(t, is("2Gi"), "get", "pvc", "data-db-0", "-o=jsonpath={.status.capacity.storage}")
	name := must("get", "pvc", "data-db-0", "-o=jsonpath={.spec.volumeName}")
	c.Until(t, is("2Gi"), "get", "pv", name, "-o=jsonpath={.spec.capacity.storage}")

	must("delete", "storageclass", "standard")
	c.Stop(t)
	c.Start(t)
	c.Until(t, is("2"), ready...)
	for _, pod := range []string{"db-0", "db-1"} {
		c.Until(t, is("name "+pod), read(pod)...)
	}
	if out := must("get", "storageclass"); !strings.Contains(out, "No resources found") {
		t.Errorf("a deleted class was made again:\n%s", out)
	}

	dirs := func() []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(c.DataDir, "nodes", "node-1", "volumes", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := dirs(); len(found) != 2 {
		t.Errorf("the node has the directories %q, want two", found)
	}
	must("delete", "statefulset", "db")
	must("delete", "pvc", "--all")
	c.Until(t, has("No resources found"), "get", "pv")
	if left := dirs(); len(left) > 0 {
		t.Errorf("left on the node: %q", left)
	}
	c.Stop(t)
}
