package cluster_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// TestPodNetwork has two nodes whose pods reach each other by a VXLAN, without the machine between them knowing the
// way; then the cluster is killed and started with routes, for the same pods.
func TestPodNetwork(t *testing.T) {
	c := dnsCluster{clustertest.New(t, 2)}
	c.With("--pod-network", "vxlan")
	c.Start(t)
	manifest := filepath.Join(t.TempDir(), "pods.yaml")
	if err := os.WriteFile(manifest, []byte(fmt.Sprintf(lonelyPod, 1)+fmt.Sprintf(lonelyPod, 2)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(t, "apply", "-f", manifest); err != nil {
		t.Fatal(out)
	}
	c.Until(t, func(out string) bool { return strings.Count(out, "True") == 2 }, "get", "pods", "-n", "links",
		"-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
	var pods []*nettest.Namespace
	var addresses []string
	for _, name := range []string{"pod-1", "pod-2"} {
		pod, own := c.pod(t, "links", name)
		address := own[0]
		pod.ListenTCP(t, address+":9000", name)
		pods, addresses = append(pods, pod), append(addresses, address)
	}
	for _, pod := range pods {
		if got := pod.Run(t, "ip", "link", "show", "eth0"); !strings.Contains(got, "mtu 1450") {
			t.Errorf("a pod's link: got %s, want an MTU of 1450", got)
		}
	}
	across := func(how string) {
		t.Helper()
		for i, pod := range pods {
			if got, err := pod.Ask(t, addresses[1-i]+":9000", 10*time.Second); err != nil {
				t.Errorf("%s, %s asks the other: got %q, %v", how, addresses[i], got, err)
			}
		}
	}
	by := func(want string) {
		t.Helper()
		node := c.node(t, "node-1")
		var got string
		for begin := time.Now(); !strings.Contains(got, want); time.Sleep(50 * time.Millisecond) {
			if time.Since(begin) > 30*time.Second {
				t.Fatalf("the way to the other node's pods: got %s, want %s", got, want)
			}
			got = node.Run(t, "sh", "-c", "ip route get "+addresses[1]+" || true") // it fails while there is none
		}
	}
	by("dev skiff.vxlan")
	across("by VXLAN")
	if out, err := exec.Command("ip", "route", "flush", "proto", "83", "root", c.PodCIDR).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	across("by VXLAN, without routes between")

	c.Kill()
	across("after a kill")
	c.With("--pod-network", "route")
	c.Start(t)
	by("dev eth0")
	across("by routes")
	if links := c.node(t, "node-1").Run(t, "ip", "-o", "link"); strings.Contains(links, "skiff.vxlan") {
		t.Errorf("with routes there is still a VXLAN:\n%s", links)
	}
	c.Stop(t)
	out, err := exec.Command("ip", "route", "show", "root", c.PodCIDR).CombinedOutput()
	if left := c.Traces(t) + string(out); err != nil || left != "" {
		t.Errorf("left on the machine: %v\n%s", err, left)
	}
}

const lonelyPod = `
apiVersion: v1
kind: Namespace
metadata: {name: links}
---
apiVersion: v1
kind: Pod
metadata: {name: pod-%[1]d, namespace: links}
spec:
  nodeName: node-%[1]d
  containers: [{name: pause, image: "registry.k8s.io/pause:3.10.2", imagePullPolicy: Never}]
---
`
