package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// healthNetwork is a machine with addresses of both families, one on a link to a client and one more.
func healthNetwork(t *testing.T) (node, client *nettest.Namespace) {
	node, client = nettest.New(t), nettest.New(t)
	nettest.Join(t, node, "client", "192.0.2.1/24", client, "eth0", "192.0.2.9/24")
	node.Run(t, "ip", "address", "add", "fd00:9::1/64", "dev", "client", "nodad")
	client.Run(t, "ip", "address", "add", "fd00:9::9/64", "dev", "eth0", "nodad")
	node.Run(t, "ip", "address", "add", "198.51.100.1/32", "dev", "lo")
	client.Run(t, "ip", "route", "add", "default", "via", "192.0.2.1")
	return node, client
}

// get asks from a namespace. Without an answer the status is 0.
func get(t *testing.T, from *nettest.Namespace, url string) (status int, header http.Header, body string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
		from.Do(t, func() { conn, err = net.DialTimeout(network, address, 20*time.Second) })
		return conn, err
	}}
	answer, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		return 0, nil, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(text)
}

// TestHealthCheckPorts asks at health check ports as load balancers do. The words are kube-proxy's.
func TestHealthCheckPorts(t *testing.T) {
	node, client := healthNetwork(t)
	healthy := true
	h := &healthServer{health: func() ProxyHealth { return ProxyHealth{Healthy: healthy} }}
	t.Cleanup(h.close)
	become := func(want map[string]Health) {
		t.Helper()
		var err error
		node.Do(t, func() { err = h.update(want) })
		if err != nil {
			t.Fatal(err)
		}
	}
	everywhere := []string{"192.0.2.1", "198.51.100.1", "[fd00:9::1]"}
	ask := func(when string, port string, want int, words string, weight string) {
		t.Helper()
		for _, at := range everywhere {
			status, header, body := get(t, client, "http://"+at+":"+port+"/anything")
			if status != want || body != words || header.Get("X-Load-Balancing-Endpoint-Weight") != weight ||
				header.Get("Content-Type") != "application/json" || header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s, at %s: got %d %v\n%s\nwant %d, weight %s\n%s", when, at, status, header, body, want, weight, words)
			}
		}
	}
	become(map[string]Health{"ns/web": {Port: 30999, Local: 2}, "ns/none": {Port: 30998}})
	ask("two endpoints", "30999", http.StatusOK, "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}", "2")
	ask("none", "30998", http.StatusServiceUnavailable, "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"none\"\n\t},\n\t\"localEndpoints\": 0,\n\t\"serviceProxyHealthy\": true\n}", "0")
	healthy = false
	ask("a proxy that is behind", "30999", http.StatusServiceUnavailable, "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": false\n}", "2")
	become(nil)
	if status, _, body := get(t, client, "http://192.0.2.1:30999/"); status != 0 || !strings.Contains(body, "connection refused") {
		t.Errorf("a Service that has gone: got %d %s", status, body)
	}

	h.nodePorts = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	become(map[string]Health{"ns/web": {Port: 30999, Local: 2}})
	if status, _, body := get(t, client, "http://198.51.100.1:30999/"); status != http.StatusServiceUnavailable {
		t.Errorf("an address at which node ports answer: got %d %s", status, body)
	}
	if status, _, body := get(t, client, "http://192.0.2.1:30999/"); status != 0 || !strings.Contains(body, "connection refused") {
		t.Errorf("another: got %d %s", status, body)
	}
}

// TestHealthOfTheProxy asks at the port of the proxy itself.
func TestHealthOfTheProxy(t *testing.T) {
	node, client := healthNetwork(t)
	var health ProxyHealth
	stays := true
	h := &healthServer{listen: "192.0.2.1:10256", health: func() ProxyHealth { return health }, eligible: func() bool { return stays }}
	t.Cleanup(h.close)
	for range 2 { // that it is open is no error
		var err error
		node.Do(t, func() { err = h.open() })
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name           string
		healthy, stays bool
		healthz, livez int
	}{
		{"all is well", true, true, http.StatusOK, http.StatusOK},
		{"behind", false, true, http.StatusServiceUnavailable, http.StatusServiceUnavailable},
		{"the node leaves", true, false, http.StatusServiceUnavailable, http.StatusOK},
	} {
		health.Healthy, stays = test.healthy, test.stays
		for path, want := range map[string]int{"/healthz": test.healthz, "/livez": test.livez, "/other": http.StatusNotFound} {
			status, _, body := get(t, client, "http://192.0.2.1:10256"+path)
			if status != want {
				t.Errorf("%s, %s: got %d, want %d: %s", test.name, path, status, want, body)
			}
			if want == http.StatusNotFound {
				continue
			}
			var got ProxyHealth
			err := json.Unmarshal([]byte(body), &got)
			if err != nil || got.Healthy != test.healthy || (got.NodeEligible == nil) != (path == "/livez") || got.NodeEligible != nil && *got.NodeEligible != test.stays {
				t.Errorf("%s, %s: got %s (%v)", test.name, path, body, err)
			}
		}
	}
}

func TestEligible(t *testing.T) {
	gone := metav1.Now()
	for _, test := range []struct {
		name string
		node *corev1.Node
		want bool
	}{
		{"unknown", nil, false},
		{"there", &corev1.Node{}, true},
		{"deleted", &corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &gone}}, false},
		{"about to be deleted", &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}}}}, false},
		{"cordoned", &corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true, Taints: []corev1.Taint{{Key: corev1.TaintNodeUnschedulable}}}}, true},
	} {
		if got := eligible(test.node); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// moody is a Backend that fails while it is told to.
type moody struct{ fails atomic.Bool }

func (m *moody) Apply(context.Context, *Table) error {
	if m.fails.Load() {
		return errors.New("no")
	}
	return nil
}

func (*moody) Intact(context.Context) (bool, error) { return true, nil }
func (*moody) Remove(context.Context) error         { return nil }

// TestChangesThatWait: a proxy that cannot bring its rules up to date is healthy for a minute more, and again as soon as it can.
func TestChangesThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, backend := fake.NewClientset(), &moody{}
		p, err := New(Config{Client: client, NodeName: "n", Backend: backend, Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		healthy := func(when string, want bool) ProxyHealth {
			t.Helper()
			synctest.Wait()
			got := p.healthNow()
			if got.Healthy != want || got.Status[corev1.IPv4Protocol].Healthy != want {
				t.Errorf("%s: got %+v, want %v", when, got, want)
			}
			return got
		}
		time.Sleep(time.Second)
		healthy("at the start", true)
		backend.fails.Store(true)
		applied := *p.applied.Load()
		for i := range 2 { // the second does not count for more than the first
			if _, err := client.CoreV1().Services("ns").Create(ctx, numbered(i), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(29 * time.Second)
			healthy("a change waits", true)
		}
		time.Sleep(3 * time.Second)
		if got := healthy("for longer than a minute", false); !got.LastUpdated.Equal(applied) {
			t.Errorf("last updated: got %v, want %v", got.LastUpdated, applied)
		}
		backend.fails.Store(false)
		time.Sleep(retry)
		healthy("all is applied", true)
		time.Sleep(time.Hour)
		healthy("nothing changes", true)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
