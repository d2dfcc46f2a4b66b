package apiserver_test

import (
	"bufio"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// behind is what stands behind a pod, and notes what reaches it.
type behind struct {
	mu   sync.Mutex
	seen []string
}

func (b *behind) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return // it was broken off, some time after its client had an answer
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, r.Method+" "+r.RequestURI)
	if r.Header.Get("X-Smuggled") != "" || r.Header.Get("Authorization") != "" {
		b.seen = append(b.seen, fmt.Sprint("with the headers ", r.Header))
	}
	w.WriteHeader(http.StatusOK)
}

// take returns what has reached the pod when a function has asked it for something more.
func (b *behind) take(more func()) []string {
	more()
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := b.seen
	b.seen = nil
	return seen
}

// saw fails the test unless that is what is wanted.
func (b *behind) saw(t *testing.T, more func(), want []string) {
	t.Helper()
	if seen := b.take(more); !slices.Equal(seen, want) {
		t.Errorf("the pod gets %q, want %q", seen, want)
	}
}

// podAt makes a pod that has an address, and returns the client that made it.
func podAt(t *testing.T, s *apiserver.Server, address string) kubernetes.Interface {
	t.Helper()
	c := clientset(t, apiservertest.Config(s, "admin"))
	must(t)(c.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	pod, err := c.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status = corev1.PodStatus{PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}}
	must(t)(c.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}))
	return c
}

// TestSmuggling hides a second request in one that is passed on to a pod. What follows the first is a request to the API server,
// without a token, or nothing.
func TestSmuggling(t *testing.T) {
	pod := &behind{}
	web := httptest.NewServer(pod)
	defer web.Close()
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.StaticTokens = adminToken
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, web.Listener.Addr().String())
		}
	})
	podAt(t, s, "192.0.2.9")
	address := serve(t, s)
	const path, hidden = "/api/v1/namespaces/default/pods/web/proxy/a", "GET /hidden HTTP/1.1\r\nHost: x\r\nX-Smuggled: 1\r\n\r\n"
	chunked := fmt.Sprintf("0\r\n\r\n%s", hidden)
	// What was hidden comes to the pod before what is asked for afterwards.
	after := func() {
		if code, answer := ask(t, address, "admin-token", strings.TrimSuffix(path, "a")+"after", nil); code != http.StatusOK {
			t.Errorf("the pod is asked no more: %d %s", code, answer)
		}
	}
	for name, more := range map[string]string{
		"length and chunks":        fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s", len(chunked), chunked),
		"two lengths":              fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden),
		"odd encoding":             fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: xchunked\r\n\r\n%s", len(chunked), chunked),
		"space before the colon":   fmt.Sprintf("Transfer-Encoding : chunked\r\nContent-Length: %d\r\n\r\n%s", len(chunked), chunked),
		"folded line":              fmt.Sprintf("Transfer-Encoding:\r\n chunked\r\nContent-Length: %d\r\n\r\n%s", len(chunked), chunked),
		"length with a sign":       fmt.Sprintf("Content-Length: +%d\r\n\r\n%s", len(hidden), hidden),
		"size of a chunk overflow": "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + hidden,
		"refused upgrade":          "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + hidden,
		"refused upgrade to SPDY":  "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n" + hidden,
		"refused upgrade to h2c":   "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + hidden,
		"expectation":              fmt.Sprintf("Expect: 100-continue\r\nContent-Length: 0\r\n\r\n%s", hidden),
		"pipeline":                 "\r\n" + hidden,
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, address)
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\n%s", path, more)
			read := bufio.NewReader(conn)
			first, err := http.ReadResponse(read, nil) // a request whose client has gone goes nowhere
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, first.Body) // an error is as good as an end, here and below
			conn.(*net.TCPConn).CloseWrite()
			if rest, _ := io.ReadAll(read); strings.Contains(string(rest), "HTTP/1.1 200") {
				t.Errorf("what follows is answered: %s", rest)
			}
			if want := []string{"POST /a", "GET /after"}; first.StatusCode == http.StatusOK {
				pod.saw(t, after, want)
			} else {
				pod.saw(t, after, want[1:])
			}
		})
	}
	for _, odd := range []string{"/..%2f..%2fhidden", "/%0d%0aX-Smuggled:%201", "/a%20HTTP/1.1%0d%0aX-Smuggled:%201%0d%0a", "/a?x=%0d%0aX-Smuggled:%201"} {
		code, _ := ask(t, address, "admin-token", strings.TrimSuffix(path, "/a")+odd, nil)
		seen := pod.take(after)
		if len(seen) > 2 || (len(seen) == 2) != (code == http.StatusOK) || strings.Contains(fmt.Sprint(seen), "with") || strings.ContainsAny(fmt.Sprint(seen), "\r\n") {
			t.Errorf("%s: the pod gets %q", odd, seen)
		}
	}
}

// TestProxyLeadsNowhereElse has pods, nodes and endpoints whose addresses are those of this machine, of the link, or of what a
// cloud tells its machines.
func TestProxyLeadsNowhereElse(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "127.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:169.254.169.254"} {
		t.Run(address, func(t *testing.T) {
			var dialed atomic.Int64
			s := apiservertest.Start(t, func(o *apiserver.Options) {
				o.Dial = func(context.Context, string, string) (net.Conn, error) {
					dialed.Add(1)
					return nil, io.EOF
				}
			})
			c := clientset(t, apiservertest.Config(s, "admin"))
			must(t)(c.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
			must(t)(c.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: deploymentOf("i").Spec.Template.Spec}, metav1.CreateOptions{}))
			must(t)(c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}))
			must(t)(c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}))
			// Each of these may be refused already.
			status := fmt.Sprintf(`{"status":{"podIP":%q,"podIPs":[{"ip":%[1]q}]}}`, address)
			c.CoreV1().Pods("default").Patch(t.Context(), "web", "application/merge-patch+json", []byte(status), metav1.PatchOptions{}, "status")
			c.CoreV1().Nodes().Patch(t.Context(), "n", "application/merge-patch+json", fmt.Appendf(nil, `{"status":{"addresses":[{"type":"InternalIP","address":%q}]}}`, address), metav1.PatchOptions{}, "status")
			family := discoveryv1.AddressTypeIPv4
			if strings.Contains(address, ":") {
				family = discoveryv1.AddressTypeIPv6
			}
			c.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Name: "s", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}}, AddressType: family,
				Ports:     []discoveryv1.EndpointPort{{Port: ptr.To[int32](80), Name: ptr.To("")}},
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"}}},
			}, metav1.CreateOptions{})
			for _, path := range []string{"/api/v1/namespaces/default/pods/web:80/proxy/", "/api/v1/nodes/n/proxy/", "/api/v1/nodes/http:n:80/proxy/", "/api/v1/namespaces/default/services/s:80/proxy/"} {
				if _, err := c.RESTClient().Get().AbsPath(path).DoRaw(t.Context()); err == nil {
					t.Errorf("%s leads somewhere", path)
				}
			}
			if n := dialed.Load(); n > 0 {
				t.Errorf("it was dialed %d times", n)
			}
		})
	}
}

// TestProxyLeadsToPodsAlone has endpoints that say that a pod is where it is not.
func TestProxyLeadsToPodsAlone(t *testing.T) {
	var mu sync.Mutex
	var dialed []string
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			dialed = append(dialed, address)
			return nil, io.EOF
		}
	})
	c := podAt(t, s, "192.0.2.9")
	pod := func(namespace, name string) *corev1.ObjectReference {
		return &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: name}
	}
	for name, e := range map[string]struct {
		address string
		target  *corev1.ObjectReference
		leads   bool
	}{
		"itself": {"192.0.2.9", pod("default", "web"), true}, "elsewhere": {"192.0.2.7", pod("default", "web"), false}, "nobody": {"192.0.2.9", nil, false},
		"missing": {"192.0.2.9", pod("default", "none"), false}, "stranger": {"192.0.2.9", pod("kube-system", "web"), false},
		"node": {"192.0.2.9", &corev1.ObjectReference{Kind: "Node", Namespace: "default", Name: "web"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			must(t)(c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}))
			must(t)(c.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
				Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](80), Name: ptr.To("")}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{e.address}, TargetRef: e.target}},
			}, metav1.CreateOptions{}))
			if _, err := c.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces/default/services/" + name + ":80/proxy/").DoRaw(t.Context()); !apierrors.IsServiceUnavailable(err) {
				t.Errorf("answer %v, want that the service is not available", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if got := len(dialed) > 0; got != e.leads {
				t.Errorf("dialed %q, want anything: %t", dialed, e.leads)
			}
			dialed = nil
		})
	}
}

// TestWebhookThatCallsItself has a webhook that makes, whenever it is asked about an object, another one of the kind.
func TestWebhookThatCallsItself(t *testing.T) {
	s := apiservertest.Start(t, nil)
	grant(t, s, "hook", []rbacv1.PolicyRule{{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}})
	hook := clientset(t, apiservertest.Config(s, "hook", "system:authenticated"))
	var asked, running atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		running.Add(1)
		defer running.Add(-1)
		io.Copy(io.Discard, r.Body) // else its context does not end with the call
		_, err := hook.CoreV1().ConfigMaps("default").Create(r.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "again-"}}, metav1.CreateOptions{})
		http.Error(w, fmt.Sprint(err), http.StatusInternalServerError)
	}))
	defer server.Close()
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	admin := clientset(t, apiservertest.Config(s, "admin"))
	must(t)(admin.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "itself"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "itself.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), TimeoutSeconds: ptr.To[int32](1),
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr.To(address.String()), CABundle: bundle(server)},
			Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"CREATE"},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
		}},
	}, metav1.CreateOptions{}))
	_, err = admin.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("first"), metav1.CreateOptions{})
	if !apierrors.IsInternalError(err) {
		t.Errorf("the first object: %v", err)
	}
	if asked.Load() < 2 {
		t.Errorf("the webhook was asked %d times: it does not call itself", asked.Load())
	}
	if _, err := admin.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	eventually(t, "the end of the calls", func() bool { return running.Load() == 0 })
	t.Logf("the webhook was asked %d times", asked.Load())
}

// bundle is the certificate of a server of httptest, which is its own authority.
func bundle(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}
