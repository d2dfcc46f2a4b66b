package podnet

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// cluster is an API server with nodes.
type cluster struct{ admin, proxy kubernetes.Interface }

func newCluster(t *testing.T) cluster {
	t.Helper()
	server := apiservertest.Start(t, nil)
	admin, err := kubernetes.NewForConfig(apiservertest.Config(server, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	// The proxy's right to list nodes is all that it takes.
	proxy, err := kubernetes.NewForConfig(apiservertest.Config(server, "system:kube-proxy", "system:authenticated"))
	if err != nil {
		t.Fatal(err)
	}
	return cluster{admin: admin, proxy: proxy}
}

func (c cluster) add(t *testing.T, n Node) {
	t.Helper()
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	for _, pods := range n.Pods {
		object.Spec.PodCIDR = n.Pods[0].String()
		object.Spec.PodCIDRs = append(object.Spec.PodCIDRs, pods.String())
	}
	made, err := c.admin.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range n.Addresses {
		made.Status.Addresses = append(made.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	if _, err := c.admin.CoreV1().Nodes().UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// until waits until the routes on a machine are as wanted.
func until(t *testing.T, ns *nettest.Namespace, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if got = strings.TrimSpace(strings.ReplaceAll(ns.Run(t, "ip", "route", "show", "proto", "83"), " \n", "\n")); got == want {
			return
		}
	}
	t.Fatalf("got routes\n%s\nwant\n%s", got, want)
}

// TestRun follows Node objects: nodes come, move and go, the process is started again, and without the API nothing
// is taken away.
func TestRun(t *testing.T) {
	c := newCluster(t)
	ns := nettest.New(t)
	nettest.Join(t, ns, "eth0", "192.0.2.1/24", nettest.New(t), "eth0", "192.0.2.254/24")
	shares := make(chan Share, 10)
	start := func(client kubernetes.Interface) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go ns.Do(t, func() {
			done <- Run(ctx, Config{
				Client: client, Node: "node-1", Address: netip.MustParseAddr("192.0.2.1"), Ranges: pods, Log: slog.New(slog.DiscardHandler),
				Joined: func(s Share) error { shares <- s; return nil },
			})
		})
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		}
	}
	c.add(t, node("node-2", "192.0.2.2", "10.9.2.0/24"))
	stop := start(c.proxy)
	until(t, ns, "unreachable 10.9.0.0/16\n10.9.2.0/24 via 192.0.2.2 dev eth0")
	c.add(t, node("node-1", "192.0.2.1", "10.9.1.0/24"))
	if got := <-shares; !got.equal(Share{Pods: []netip.Prefix{netip.MustParsePrefix("10.9.1.0/24")}, MTU: 1500}) {
		t.Errorf("told of %v", got)
	}
	c.add(t, node("node-3", "192.0.2.3", "10.9.3.0/24"))
	until(t, ns, "unreachable 10.9.0.0/16\n10.9.2.0/24 via 192.0.2.2 dev eth0\n10.9.3.0/24 via 192.0.2.3 dev eth0")
	move := []byte(`[{"op": "replace", "path": "/status/addresses/0/address", "value": "192.0.2.33"}]`)
	if _, err := c.admin.CoreV1().Nodes().Patch(t.Context(), "node-3", types.JSONPatchType, move, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	until(t, ns, "unreachable 10.9.0.0/16\n10.9.2.0/24 via 192.0.2.2 dev eth0\n10.9.3.0/24 via 192.0.2.33 dev eth0")
	stop()
	// A process that cannot reach the API touches nothing.
	away := &asked{}
	stop = start(away.client(t))
	for away.times.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	stop()
	until(t, ns, "unreachable 10.9.0.0/16\n10.9.2.0/24 via 192.0.2.2 dev eth0\n10.9.3.0/24 via 192.0.2.33 dev eth0")
	// What changed while no process ran is made good.
	if err := c.admin.CoreV1().Nodes().Delete(t.Context(), "node-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	stop = start(c.proxy)
	until(t, ns, "unreachable 10.9.0.0/16\n10.9.3.0/24 via 192.0.2.33 dev eth0")
	if err := c.admin.CoreV1().Nodes().Delete(t.Context(), "node-3", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, ns, "unreachable 10.9.0.0/16")
	stop()
	var err error
	ns.Do(t, func() { err = Remove(pods...) })
	if err != nil {
		t.Error(err)
	}
	until(t, ns, "")
}

// asked is an API that cannot be reached.
type asked struct{ times atomic.Int32 }

func (a *asked) RoundTrip(*http.Request) (*http.Response, error) {
	a.times.Add(1)
	return nil, errors.New("away")
}

func (a *asked) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "https://away", Transport: a, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
