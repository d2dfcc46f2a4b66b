package cluster_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// The policies come first. A server lets in the pod that is called friend alone, and is ready only if the kubelet's probe
// gets in too; nobody lets the pod early out, whose first act is to try.
const policyManifest = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: web}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: early}
spec:
  podSelector: {matchLabels: {app: early}}
  policyTypes: [Egress]
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  clusterIP: 10.97.7.7
  ports: [{port: 80, targetPort: web}]
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/skiff/examples/hello-node:v1
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {port: web}, periodSeconds: 1}
`

const clientManifest = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/skiff/examples/hello-node:v1
---
`

const earlyManifest = `
apiVersion: v1
kind: Pod
metadata: {name: early, labels: {app: early}}
spec:
  nodeName: node-1
  restartPolicy: Never
  containers:
  - name: c
    image: localhost/skiff/examples/hello-node:v1
    command: [node, -e, "SCRIPT"]
`

// reachScript prints whether the server answers at its Service.
const reachScript = `const s = require('net').connect(80, '10.97.7.7', () => { console.log('open'); process.exit() }); s.on('error', () => {}); setTimeout(() => { console.log('closed'); process.exit() }, 1500)`

// TestNetworkPolicy has policies enforced by two nodes, before pods start, while the cluster's process is away, and after.
func TestNetworkPolicy(t *testing.T) {
	images := exampleImages(t)
	c := clustertest.New(t, 2)
	c.Start(t)
	c.Import(t, images[0])
	apply := func(manifest string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "manifest.yaml")
		if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := c.Kubectl(t, "apply", "-f", file); err != nil {
			t.Fatalf("kubectl apply: %s", out)
		}
	}
	is := func(want string) func(string) bool {
		return func(out string) bool { return strings.TrimSpace(out) == want }
	}
	reach := func(pod string) []string { return []string{"exec", pod, "--", "node", "-e", reachScript} }

	apply(policyManifest)
	ready := []string{"get", "pod", "server", `-o=jsonpath={.status.conditions[?(@.type=="Ready")].status}`}
	c.Until(t, is("True"), ready...)
	apply(strings.ReplaceAll(earlyManifest, "SCRIPT", reachScript))
	for name, node := range map[string]string{"friend": "node-2", "stranger": "node-1", "foreigner": "node-2"} {
		apply(strings.NewReplacer("NAME", name, "NODE", node).Replace(clientManifest))
	}
	c.Until(t, is("closed"), "logs", "early")
	check := func() {
		t.Helper()
		c.Until(t, is("open"), reach("friend")...)
		for _, name := range []string{"stranger", "foreigner"} {
			c.Until(t, is("closed"), reach(name)...)
		}
	}
	check()

	c.Kill()
	c.Start(t)
	c.Until(t, is("True"), ready...)
	check()

	if out, err := c.Kubectl(t, "delete", "networkpolicy", "server"); err != nil {
		t.Fatalf("kubectl delete: %s", out)
	}
	for _, name := range []string{"friend", "stranger", "foreigner"} {
		c.Until(t, is("open"), reach(name)...)
	}
	c.Stop(t)
}
