package webhook_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// network leads all connections to one server and notes where they were meant to go.
type network struct {
	mu     sync.Mutex
	server *httptest.Server
	dialed []string
}

func (n *network) dial(ctx context.Context, kind, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, address)
	to := n.server.Listener.Addr().String()
	n.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, kind, to)
}

func (n *network) last() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.dialed) == 0 {
		return ""
	}
	return n.dialed[len(n.dialed)-1]
}

// certificate is a new one for a name, which vouches for itself.
func certificate(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// behind starts a server whose Services lead to s, which shows certificates for a name.
func behind(t *testing.T, handler http.Handler, names ...tls.Certificate) (kubernetes.Interface, *network) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.TLS = &tls.Config{Certificates: names}
	s.StartTLS()
	t.Cleanup(s.Close)
	n := &network{server: s}
	c, err := kubernetes.NewForConfig(apiservertest.Config(apiservertest.Start(t, func(o *apiserver.Options) { o.Dial = n.dial }), "admin"))
	if err != nil {
		t.Fatal(err)
	}
	return c, n
}

func service(t *testing.T, c kubernetes.Interface, spec corev1.ServiceSpec, addresses ...string) {
	t.Helper()
	if _, err := c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "s-1", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080)}, {Name: ptr.To("hooks"), Port: ptr.To[int32](8443)}}}
	for i, a := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(i == 0)}})
	}
	if _, err := c.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func toService(bundle []byte, port int32) func(*admissionregistrationv1.ValidatingWebhook) {
	return func(w *admissionregistrationv1.ValidatingWebhook) {
		w.ClientConfig = admissionregistrationv1.WebhookClientConfig{CABundle: bundle,
			Service: &admissionregistrationv1.ServiceReference{Namespace: "default", Name: "s", Path: ptr.To("/check"), Port: ptr.To(port)}}
	}
}

var named = corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "hooks", Port: 443}}}

// A Service is reached by a ready endpoint, on the port its port of the number has there, under its own name.
func TestService(t *testing.T) {
	shown, bundle := certificate(t, "s.default.svc")
	c, n := behind(t, answering(t, allow), shown)
	service(t, c, named, "10.1.2.3", "10.1.2.4")
	validating(t, c, nil, toService(bundle, 443))
	if _, err := create(t.Context(), c, "a"); err != nil || n.last() != "10.1.2.3:8443" {
		t.Errorf("got %v by %s, want no error, by 10.1.2.3:8443", err, n.last())
	}
}

func TestServiceUnreachable(t *testing.T) {
	shown, bundle := certificate(t, "s.default.svc")
	foreign, foreignBundle := certificate(t, "other.default.svc")
	const prefix = `Internal error occurred: failed calling webhook "v.example.com": failed to call webhook: Post "https://s.default.svc:443/check?timeout=10s": `
	for _, c := range []struct {
		name   string
		spec   corev1.ServiceSpec
		ready  []string
		bundle []byte
		shows  tls.Certificate
		port   int32
		want   string
		dialed string
	}{
		{"no endpoint", named, nil, bundle, shown, 443, prefix + `no endpoints available for service "s"`, ""},
		{"no port", named, []string{"10.1.2.3"}, bundle, shown, 444, strings.ReplaceAll(prefix, ":443", ":444") + `no service port 444 found for service "s"`, ""},
		{"another certificate", named, []string{"10.1.2.3"}, foreignBundle, shown, 443, prefix + "tls: failed to verify certificate: x509: certificate signed by unknown authority", "10.1.2.3:8443"},
		{"another name", named, []string{"10.1.2.3"}, foreignBundle, foreign, 443, prefix + "tls: failed to verify certificate: x509: certificate is valid for other.default.svc, not s.default.svc", "10.1.2.3:8443"},
		{"no bundle", named, []string{"10.1.2.3"}, nil, shown, 443, prefix + "tls: failed to verify certificate: x509: certificate signed by unknown authority", "10.1.2.3:8443"},
		{"external name", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "hooks.example"}, nil, bundle, shown, 443, "", "hooks.example:443"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, n := behind(t, answering(t, allow), c.shows)
			service(t, client, c.spec, c.ready...)
			validating(t, client, nil, toService(c.bundle, c.port))
			_, err := create(t.Context(), client, "a")
			if got := text(err); got != c.want || n.last() != c.dialed {
				t.Errorf("got %q by %q\nwant %q by %q", got, n.last(), c.want, c.dialed)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A bundle that is changed counts from the answer to the change on, for new connections and for those that are kept.
func TestBundleRotates(t *testing.T) {
	old, oldBundle := certificate(t, "s.default.svc")
	next, nextBundle := certificate(t, "s.default.svc")
	c, n := behind(t, answering(t, allow), old)
	service(t, c, named, "10.1.2.3")
	validating(t, c, nil, toService(oldBundle, 443))
	trust := func(bundle []byte) {
		t.Helper()
		configurations := c.AdmissionregistrationV1().ValidatingWebhookConfigurations()
		v, err := configurations.Get(t.Context(), "v", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		v.Webhooks[0].ClientConfig.CABundle = bundle
		if _, err := configurations.Update(t.Context(), v, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	try := func(name string, trusted bool) {
		t.Helper()
		if _, err := create(t.Context(), c, name); (err == nil) != trusted {
			t.Errorf("%s: got %v, want trusted %t", name, err, trusted)
		}
	}
	try("old", true)
	trust(nextBundle)
	try("old-not-trusted", false)
	trust(bytes.Join([][]byte{oldBundle, nextBundle}, nil))
	try("both", true)
	replaced := httptest.NewUnstartedServer(answering(t, allow))
	replaced.TLS = &tls.Config{Certificates: []tls.Certificate{next}}
	replaced.StartTLS()
	t.Cleanup(replaced.Close)
	n.mu.Lock()
	n.server = replaced
	n.mu.Unlock()
	trust(nextBundle) // what trusted another bundle keeps its connection to itself
	try("new", true)
	trust(oldBundle)
	try("new-not-trusted", false)
}

// A redirect is followed as far as the certificate vouches for where it leads, and never to what has none.
func TestRedirects(t *testing.T) {
	shown, bundle := certificate(t, "s.default.svc")
	reached := 0
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	t.Cleanup(plain.Close)
	answer := answering(t, allow)
	for _, c := range []struct{ name, to, want, dialed string }{
		{"within", "/elsewhere", "", "10.1.2.3:8443"},
		{"to another host with the certificate", "https://10.9.9.9:7443/elsewhere", "", "10.9.9.9:7443"},
		{"to what has no certificate", plain.URL, "a webhook may not lead to http", "10.1.2.3:8443"},
		{"around", "/check", "stopped after 10 redirects", "10.1.2.3:8443"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, n := behind(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/check" {
					http.Redirect(w, r, c.to, http.StatusTemporaryRedirect)
					return
				}
				answer.ServeHTTP(w, r)
			}), shown)
			service(t, client, named, "10.1.2.3")
			validating(t, client, nil, toService(bundle, 443))
			_, err := create(t.Context(), client, "a")
			if (err == nil) != (c.want == "") || !strings.Contains(text(err), c.want) || n.last() != c.dialed || reached > 0 {
				t.Errorf("got %v by %s, the other server reached %d times; want %q by %s", err, n.last(), reached, c.want, c.dialed)
			}
		})
	}
}

// An answer has its bounds, in size and, by the patch in it, in work.
func TestLargeAnswers(t *testing.T) {
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chunk := bytes.Repeat([]byte(" "), 1<<20)
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	patching := func(patch string) http.Handler {
		return answering(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(patch), PatchType: ptr.To(admissionv1.PatchTypeJSONPatch)}
		})
	}
	operation := `{"op":"add","path":"/data/c","value":"d"}`
	for _, c := range []struct {
		name string
		hook http.Handler
		want string
	}{
		{"endless", endless, "the answer is larger than 12582912 bytes"},
		{"a large object", patching(`[{"op":"add","path":"/data/b","value":"` + strings.Repeat("x", 5<<20) + `"}]`), "Too long"},
		{"many operations", patching("[" + strings.Repeat(operation+",", 10000) + operation + "]"), "The allowed maximum operations in a JSON patch is 10000, got 10001"},
		{"copies", patching(`[{"op":"add","path":"/data/b","value":"` + strings.Repeat("x", 200<<10) + `"}` +
			strings.Repeat(`,{"op":"copy","from":"/data/b","path":"/data/c"}`, 20) + `]`), "Unable to complete the copy, the accumulated size increase of copy is 3276832, exceeding the limit 3145728"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewTLSServer(c.hook)
			t.Cleanup(s.Close)
			client := start(t)
			mutating(t, client, s)
			_, err := create(t.Context(), client, "a")
			if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 40<<10 {
				t.Errorf("got %d bytes: %.300v\nwant %s", len(text(err)), err, c.want)
			}
		})
	}
}
