package cluster_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/proxy/nettest"
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
	is := func(want string) func(string) bool {
		return func(out string) bool { return strings.TrimSpace(out) == want }
	}
	reach := func(pod string) []string { return []string{"exec", pod, "--", "node", "-e", reachScript} }

	c.Apply(t, policyManifest)
	ready := []string{"get", "pod", "server", `-o=jsonpath={.status.conditions[?(@.type=="Ready")].status}`}
	c.Until(t, is("True"), ready...)
	c.Apply(t, strings.ReplaceAll(earlyManifest, "SCRIPT", reachScript))
	for name, node := range map[string]string{"friend": "node-2", "stranger": "node-1", "foreigner": "node-2"} {
		c.Apply(t, strings.NewReplacer("NAME", name, "NODE", node).Replace(clientManifest))
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

// acrossManifest has a server on one node, which lets in those with the label that FROM says, and two clients on the other.
const acrossManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: links}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: links}
spec:
  podSelector: {matchLabels: {app: pod-1}}
  ingress: [{from: [{podSelector: {matchLabels: {app: FROM}}}], ports: [{port: 9000}]}]
---
`

// stayManifest lets nothing leave the client.
const stayManifest = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: stay, namespace: links}
spec: {podSelector: {matchLabels: {app: pod-2}}, policyTypes: [Egress]}
`

// TestNetworkPolicyAcross has a policy about a pod of one node and pods of another, which a VXLAN joins, in both families.
// It changes while connections are there: those that are no longer allowed fall silent, and go on when they are again.
func TestNetworkPolicyAcross(t *testing.T) {
	c := dnsCluster{clustertest.NewOf(t, 2, corev1.IPv4Protocol, corev1.IPv6Protocol)}
	c.With("--pod-network", "vxlan")
	c.Start(t)
	letIn := func(from string) { t.Helper(); c.Apply(t, strings.ReplaceAll(acrossManifest, "FROM", from)) }
	letIn("pod-2")
	for name, node := range map[string]int{"pod-1": 1, "pod-2": 2, "pod-3": 2} {
		c.Apply(t, fmt.Sprintf(labeledPod, name, node))
	}
	c.Until(t, func(out string) bool { return strings.Count(out, "True") == 3 }, "get", "pods", "-n", "links",
		"-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
	server, addrs := c.pod(t, "links", "pod-1")
	second, _ := c.pod(t, "links", "pod-2")
	third, _ := c.pod(t, "links", "pod-3")
	if len(addrs) != 2 {
		t.Fatalf("the server has the addresses %q, want two", addrs)
	}
	for _, addr := range addrs {
		server.Echo(t, net.JoinHostPort(addr, "9000"))
		server.Echo(t, net.JoinHostPort(addr, "9001"))
	}

	// open waits until all connections speak.
	open := func(when string, live []*nettest.Conversation) {
		t.Helper()
		for _, c := range live {
			if err := c.Exchange(time.Minute); err != nil {
				t.Errorf("%s, %s does not answer: %v", when, c.Addr, err)
			}
		}
	}
	// closed waits until none does. What is on its way when a policy changes may pass.
	closed := func(when string, live []*nettest.Conversation) {
		t.Helper()
		for _, c := range live {
			begin := time.Now()
			for c.Exchange(refusal) == nil {
				if time.Since(begin) > time.Minute {
					t.Errorf("%s, %s answers", when, c.Addr)
					break
				}
			}
		}
	}
	converse := func(from *nettest.Namespace, port string) (live []*nettest.Conversation) {
		t.Helper()
		for _, addr := range addrs {
			live = append(live, reachable(t, from, net.JoinHostPort(addr, port)))
		}
		return live
	}
	refused := func(when string, from *nettest.Namespace, port string) {
		t.Helper()
		for _, addr := range addrs {
			if _, err := from.Ask(t, net.JoinHostPort(addr, port), refusal); err == nil {
				t.Errorf("%s, %s lets a stranger in at port %s", when, addr, port)
			}
		}
	}
	live := converse(second, "9000")
	open("as allowed", live)
	refused("as allowed", third, "9000")
	refused("as allowed", second, "9001")

	letIn("pod-3")
	closed("no longer let in", live)
	open("let in now", converse(third, "9000"))
	letIn("pod-2")
	open("let in again", live)

	c.Apply(t, stayManifest)
	closed("not let out", live)
	if out, err := c.Kubectl(t, "delete", "networkpolicy", "-n", "links", "stay"); err != nil {
		t.Fatalf("kubectl delete: %s", out)
	}
	open("let out again", live)
	c.Stop(t)
	if left := c.Traces(t); left != "" {
		t.Errorf("left on the machine:\n%s", left)
	}
}

// refusal is how long is waited for what must not come.
const refusal = 500 * time.Millisecond

// reachable connects as soon as that is possible: a node lets the pods of others in when it has seen their addresses.
func reachable(t *testing.T, from *nettest.Namespace, addr string) *nettest.Conversation {
	t.Helper()
	for begin := time.Now(); ; {
		c := from.Converse(t, addr)
		if c.Exchange(10*time.Second) == nil || time.Since(begin) > time.Minute {
			return c
		}
	}
}

// pod is the network of a pod that runs nothing but pause, and its addresses.
func (c dnsCluster) pod(t *testing.T, namespace, name string) (*nettest.Namespace, []string) {
	t.Helper()
	out, err := c.Kubectl(t, "get", "pod", "-n", namespace, name, "-o", "jsonpath={.metadata.uid} {.status.podIPs[*].ip}")
	words := strings.Fields(out)
	if err != nil || len(words) < 2 {
		t.Fatalf("pod %s: %v: %s", name, err, out)
	}
	return nettest.Open(t, "/proc/"+processOf(t, words[0])+"/ns/net"), words[1:]
}

const labeledPod = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: links, labels: {app: %[1]s}}
spec:
  nodeName: node-%[2]d
  terminationGracePeriodSeconds: 1
  containers: [{name: pause, image: "registry.k8s.io/pause:3.10.2", imagePullPolicy: Never}]
`
