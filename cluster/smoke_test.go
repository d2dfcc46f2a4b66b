package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// exampleImages makes the images of the examples, as make images does.
func exampleImages(t *testing.T) []string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "skiff", "images")
	cmd := exec.Command("go", "run", "./examples/images", "-out", dir, "-cache", dir)
	cmd.Dir = ".."
	var failure bytes.Buffer
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("make the images of the examples: %v\n%s", err, failure.String())
	}
	return strings.Fields(string(out))
}

// TestCluster goes through the first session of the README and more, on two
// nodes with real containers: the scripts in testdata, one after the other.
func TestCluster(t *testing.T) {
	images := exampleImages(t)
	rules := hostRules(t)
	c := clustertest.New(t, 2)
	c.Start(t)
	c.Import(t, images...)
	if c.Traces(t) == "" {
		t.Error("the running cluster has no traces: they are looked for in the wrong place")
	}
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata",
			Setup: func(env *testscript.Env) error {
				env.Setenv("KUBECONFIG", c.Kubeconfig())
				env.Setenv("PATH", clustertest.Tools(t)+":"+os.Getenv("PATH"))
				examples, err := filepath.Abs("../examples")
				env.Setenv("EXAMPLES", examples)
				return err
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){"eventually": eventually},
		})
	})
	c.Stop(t)
	if left := c.Traces(t); left != "" {
		t.Errorf("left on the machine:\n%s", left)
	}
	if after := hostRules(t); after != rules {
		t.Errorf("isolated nodes changed the host's rules:\n%s\nbefore:\n%s", after, rules)
	}
}

// eventually runs a command until its output matches a regular expression:
//
//	eventually 'pattern' command argument…
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually pattern command argument…")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout")
		if err == nil && pattern.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: no match for %s in:\n%s%s", strings.Join(args[1:], " "), args[0], out, ts.ReadFile("stderr"))
		}
	}
}

// TestKill kills the program: its objects are there at the next start, and the
// containers are still the same ones.
func TestKill(t *testing.T) {
	images := exampleImages(t)
	c := clustertest.New(t, 1)
	c.Start(t)
	c.Import(t, images[0])
	checkPinned(t, filepath.Join(c.DataDir, "nodes", "node-1", "run", "containerd.sock"), "localhost/skiff/examples/hello-node:v1")
	if out, err := c.Kubectl(t, "create", "deployment", "hello-node", "--image=localhost/skiff/examples/hello-node:v1"); err != nil {
		t.Fatal(out)
	}
	const fields = "-o=jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{end}"
	running := func(out string) bool { return strings.Contains(out, "containerd://") }
	before := c.Until(t, running, "get", "pods", fields)
	c.Kill()
	c.Start(t)
	time.Sleep(3 * time.Second) // time enough to restart a container, were it so
	if after := c.Until(t, running, "get", "pods", fields); after != before {
		t.Errorf("after kill -9 and a new start: got %s, want %s", after, before)
	}
	// A container that is killed is started again.
	uid, _, _ := strings.Cut(before, " ")
	killProcess(t, uid, "node")
	c.Until(t, func(out string) bool { return strings.HasSuffix(strings.TrimSpace(out), " 1") }, "get", "pods", fields)
	c.Stop(t)
}

// checkPinned checks that the kubelet may not remove an image.
func checkPinned(t *testing.T, socket, name string) {
	t.Helper()
	client, err := runtime.Dial(t.Context(), socket, "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	image, err := client.Image(t.Context(), &cri.ImageSpec{Image: name})
	if err != nil || image == nil || !image.Pinned {
		t.Errorf("an imported image: got %v (%v), want it pinned", image, err)
	}
}

// killProcess kills the process of a name in a pod.
func killProcess(t *testing.T, uid, name string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range processes {
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup")) // it may just have ended
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		if !strings.Contains(string(groups), uid) || strings.TrimSpace(string(comm)) != name {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("pod %s has no process %s", uid, name)
}

// TestNodeDies takes the process of a node away, first for a while: the node turns
// NotReady, its pods are replaced on the other, and its address leaves load
// balancers and Ingresses, though it may be the node that writes their status. The
// cluster outlives it.
func TestNodeDies(t *testing.T) {
	images := exampleImages(t)
	c := clustertest.New(t, 2)
	c.Start(t)
	c.Import(t, images[0])
	manifest := filepath.Join(t.TempDir(), "hello.yaml")
	if err := os.WriteFile(manifest, []byte(impatient), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(t, "apply", "-f", manifest); err != nil {
		t.Fatal(out)
	}
	ready := "-o=jsonpath={range .items[?(@.status.phase=='Running')]}{.spec.nodeName} {end}"
	c.Until(t, func(out string) bool {
		return strings.Contains(out, "node-1") && strings.Contains(out, "node-2")
	}, "get", "pods", ready)
	measured := regexp.MustCompile(`(?m)^node-1 +\d+m .*\nnode-2 +\d+m `)
	c.Until(t, measured.MatchString, "top", "nodes", "--no-headers")
	addresses := func(n int) {
		t.Helper()
		for _, kind := range []string{"service", "ingress"} {
			c.Until(t, func(out string) bool { return len(strings.Fields(out)) == n }, "get", kind, "hello-node", "-o=jsonpath={.status.loadBalancer.ingress[*].ip}")
		}
	}
	addresses(2)
	// Without a shell in between, whose command line would match too.
	signal := func(node, name string) error {
		return exec.Command("pkill", "-"+name, "-f", "node --config "+filepath.Join(c.DataDir, "nodes", node, "node.json")).Run()
	}
	if err := signal("node-2", "STOP"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = signal("node-2", "CONT") }) // or nothing could end it
	c.Until(t, func(out string) bool { return strings.Contains(out, "Unknown") }, "get", "node", "node-2",
		"-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}")
	// What the node said last is not told for long, and that of the other goes on.
	c.Until(t, regexp.MustCompile(`(?m)^node-1 +\d+m .*\nnode-2 +<unknown> +<unknown> `).MatchString, "top", "nodes", "--no-headers")
	c.Until(t, func(out string) bool { return strings.Count(out, "node-1") == 4 }, "get", "pods",
		"-o=jsonpath={range .items[?(@.status.phase=='Running')]}{.spec.nodeName} {.metadata.deletionTimestamp}{'\\n'}{end}")
	addresses(1)
	if err := signal("node-2", "CONT"); err != nil {
		t.Fatal(err)
	}
	c.Until(t, func(out string) bool { return strings.Contains(out, "True") }, "get", "node", "node-2",
		"-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}")
	addresses(2)
	if err := signal("node-1", "KILL"); err != nil { // it wrote the status
		t.Fatal(err)
	}
	addresses(1)
	for begin := time.Now(); !c.Said("node-1: the process of the node ended"); time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("nothing was said of the death of a node")
		}
	}
	if out, err := c.Kubectl(t, "get", "nodes"); err != nil {
		t.Errorf("after the death of a node: %v\n%s", err, out)
	}
	c.Stop(t)
}

const impatient = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello-node}
spec:
  replicas: 4
  selector: {matchLabels: {app: hello-node}}
  template:
    metadata: {labels: {app: hello-node}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:
      - {name: hello-node, image: "localhost/skiff/examples/hello-node:v1"}
---
apiVersion: v1
kind: Service
metadata: {name: hello-node}
spec: {type: LoadBalancer, selector: {app: hello-node}, ports: [{port: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: hello-node}
spec: {defaultBackend: {service: {name: hello-node, port: {number: 8080}}}}
`

// TestRangeOfLoadBalancers gives load balancers addresses of a range of their own: this machine reaches them, though
// all nodes are in namespaces.
func TestRangeOfLoadBalancers(t *testing.T) {
	images := exampleImages(t)
	c := clustertest.New(t, 2)
	first := strings.TrimSuffix(c.NodeCIDR, "0/24") + "20"
	c.With("--load-balancer-addresses", first+"0-"+first+"9")
	c.Start(t)
	c.Import(t, images[0])
	manifest := filepath.Join(t.TempDir(), "hello.yaml")
	if err := os.WriteFile(manifest, []byte(impatient), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(t, "apply", "-f", manifest); err != nil {
		t.Fatal(out)
	}
	c.Until(t, func(out string) bool { return out == first+"0" }, "get", "service", "hello-node", "-o=jsonpath={.status.loadBalancer.ingress[*].ip}")
	c.Until(t, func(out string) bool { return strings.TrimSpace(out) == "4" }, "get", "deployment", "hello-node", "-o=jsonpath={.status.readyReplicas}")
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command("curl", "-sS", "-m", "5", "http://"+first+"0:8080/").CombinedOutput()
		if err == nil && strings.Contains(string(out), "Hello World!") {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("this machine does not reach the load balancer: %v\n%s", err, out)
		}
	}
	c.Stop(t)
	if left := c.Traces(t); left != "" {
		t.Errorf("left on the machine:\n%s", left)
	}
}

// TestListenOnLoopback asks for nodes that could not reach the API.
func TestListenOnLoopback(t *testing.T) {
	out, err := exec.Command(clustertest.Build(t), "up", "--data-dir", t.TempDir(), "--tools", clustertest.Tools(t), "--listen", "127.0.0.1:6443").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "pods could not reach an API that listens on 127.0.0.1:6443") {
		t.Errorf("got %v\n%s", err, out)
	}
}

// TestFailedStart starts on a port that is taken, with a data directory that is
// in use, and with ranges of another cluster: the error says so, and nothing is
// left.
func TestFailedStart(t *testing.T) {
	c := clustertest.New(t, 1)
	c.Start(t)
	dir, err := os.MkdirTemp("", "skiff-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, c.Program, "up", "--isolated", "--data-dir", dir, "--tools", clustertest.Tools(t),
		"--listen", fmt.Sprintf("0.0.0.0:%d", c.Port), "--pod-cidr", "10.99.0.0/16", "--node-cidr", "172.31.99.0/24").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "address already in use") {
		t.Errorf("a second cluster on the port: got %v\n%s", err, out)
	}
	out, err = exec.CommandContext(ctx, c.Program, "up", "--nodes", "0", "--data-dir", c.DataDir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another cluster is running with the data directory") {
		t.Errorf("a second cluster in the data directory: got %v\n%s", err, out)
	}
	out, err = exec.CommandContext(ctx, c.Program, "up", "--isolated", "--data-dir", dir, "--tools", clustertest.Tools(t),
		"--listen", fmt.Sprintf("0.0.0.0:%d", c.Port+100), "--pod-cidr", "10.99.0.0/16", "--node-cidr", c.NodeCIDR).CombinedOutput()
	want := fmt.Sprintf("the node range %s is in use on this machine", c.NodeCIDR)
	if err == nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "skiff down --data-dir "+c.DataDir) {
		t.Errorf("a second cluster with the range of nodes: got %v\n%s", err, out)
	}
	if left := clustertest.Traces(t, dir, "10.99.0.0/16"); left != "" {
		t.Errorf("left by the cluster that did not start:\n%s", left)
	}
	c.Stop(t)
	if left := c.Traces(t); left != "" {
		t.Errorf("left on the machine:\n%s", left)
	}
}

// hostRules are the rules in the host's own namespace, without their counters.
func hostRules(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.Command(save).Output()
		if err != nil {
			t.Fatal(err)
		}
		all.Write(out)
	}
	return regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]`).ReplaceAllString(all.String(), "")
}
