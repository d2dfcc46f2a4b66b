package apiserver_test

import (
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
	io.Copy(io.Discard, r.Body)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, r.Method+" "+r.RequestURI)
	if r.Header.Get("X-Smuggled") != "" || r.Header.Get("Authorization") != "" {
		b.seen = append(b.seen, fmt.Sprint("with the headers ", r.Header))
	}
	w.WriteHeader(http.StatusOK)
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
			conn.(*net.TCPConn).CloseWrite()
			answers, _ := io.ReadAll(conn) // an error is as good as an end
			if strings.Count(string(answers), "HTTP/1.1 200") > 1 {
				t.Errorf("answers: %s", answers)
			}
			pod.mu.Lock()
			defer pod.mu.Unlock()
			for _, seen := range pod.seen {
				if seen != "POST /a" {
					t.Errorf("the pod gets %s", seen)
				}
			}
			pod.seen = nil
		})
	}
	for _, odd := range []string{"/..%2f..%2fhidden", "/%0d%0aX-Smuggled:%201", "/a%20HTTP/1.1%0d%0aX-Smuggled:%201%0d%0a", "/a?x=%0d%0aX-Smuggled:%201"} {
		ask(t, address, "admin-token", strings.TrimSuffix(path, "/a")+odd, nil)
		pod.mu.Lock()
		// A request from above may arrive only now: its client hung up, and nobody waited.
		seen := slices.DeleteFunc(pod.seen, func(line string) bool { return line == "POST /a" })
		if len(seen) > 1 || len(seen) == 1 && (strings.Contains(seen[0], "with") || strings.ContainsAny(seen[0], "\r\n")) {
			t.Errorf("%s: the pod gets %q", odd, seen)
		}
		pod.seen = nil
		pod.mu.Unlock()
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
