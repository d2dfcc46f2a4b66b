package aggregate_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// authority signs certificates of the tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T, name string, hosts ...string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), DNSNames: hosts,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// cluster is an API server whose front proxy has a certificate, and a network
// in which extension servers have addresses that Services can lead to.
type cluster struct {
	*apiserver.Server
	*authority
	client *kubernetes.Clientset
	http   http.Client
	hosts  sync.Map // listeners by address
}

const token = "token-of-someone"

// addresses are those of documentation: nothing is there.
const address, elsewhere = "192.0.2.10", "192.0.2.11"

func start(t *testing.T) *cluster { return startWith(t, func(*apiserver.Options) {}) }

func startWith(t *testing.T, change func(*apiserver.Options)) *cluster {
	t.Helper()
	c := &cluster{authority: newAuthority(t)}
	proxy := c.issue(t, "front-proxy-client")
	c.Server = apiservertest.Start(t, func(o *apiserver.Options) {
		change(o)
		o.StaticTokens = map[string]user.Info{token: &user.DefaultInfo{Name: "someone", Groups: []string{user.SystemPrivilegedGroup}}}
		o.FrontProxyCA, o.FrontProxyNames = c.pem, []string{"front-proxy-client"}
		o.FrontProxyClient = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return proxy, nil }
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			host, ok := c.hosts.Load(address)
			if !ok {
				return nil, fmt.Errorf("dial tcp %s: connect: connection refused", address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, host.(string))
		}
	})
	config := apiservertest.Config(c.Server, "admin")
	c.client = kubernetes.NewForConfigOrDie(config)
	c.http.Transport = config.Transport
	return c
}

// extension is an extension server that says what it was asked.
type extension struct {
	*httptest.Server
	do, says atomic.Pointer[http.HandlerFunc] // see become and say
	asked    atomic.Int64                     // requests to describe itself
}

// extend starts an extension server at address:443 behind Service
// default/mirror, and registers v1.mirror.example.com.
func (c *cluster) extend(t *testing.T, change func(*apiregistrationv1.APIService)) *extension {
	t.Helper()
	e := &extension{}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(e.serve))
	e.TLS = &tls.Config{Certificates: []tls.Certificate{*c.issue(t, "mirror", "mirror.default.svc")}, ClientAuth: tls.RequestClientCert}
	e.EnableHTTP2 = true
	e.StartTLS()
	t.Cleanup(e.Close)
	c.hosts.Store(address+":9443", e.Listener.Addr().String())
	c.service(t)
	o := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.mirror.example.com"}, Spec: apiregistrationv1.APIServiceSpec{
		Group: "mirror.example.com", Version: "v1", GroupPriorityMinimum: 2000, VersionPriority: 10, CABundle: c.pem,
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "mirror"},
	}}
	if change != nil {
		change(o)
	}
	c.register(t, o)
	return e
}

func (c *cluster) service(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	_, err := c.client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "mirror"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice(), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func slice() *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "mirror-1", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "mirror"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](9443)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}},
	}
}

const services = "/apis/apiregistration.k8s.io/v1/apiservices"

func (c *cluster) register(t *testing.T, o *apiregistrationv1.APIService) {
	t.Helper()
	o.TypeMeta = metav1.TypeMeta{APIVersion: "apiregistration.k8s.io/v1", Kind: "APIService"}
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if code, text := c.do(t, http.MethodPost, services, string(body), nil); code != http.StatusCreated {
		t.Fatalf("create %s: %d %s", o.Name, code, text)
	}
}

func (c *cluster) do(t *testing.T, method, path, body string, header http.Header) (int, string) {
	t.Helper()
	code, _, text := c.ask(t, method, path, body, header)
	return code, text
}

func (c *cluster) ask(t *testing.T, method, path, body string, header http.Header) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://server"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	answer, err := c.http.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer.StatusCode, answer.Header, string(text)
}

// await waits until an APIService has a condition of a reason, and returns it.
func (c *cluster) await(t *testing.T, name, reason string) *apiregistrationv1.APIServiceCondition {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://server"+services+"?watch=1&fieldSelector=metadata.name%3D"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var last *apiregistrationv1.APIServiceCondition
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		var event struct{ Object apiregistrationv1.APIService }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatal(err)
		}
		if last = helper.GetAPIServiceConditionByType(&event.Object, apiregistrationv1.Available); last != nil && last.Reason == reason {
			return last
		}
	}
	t.Fatalf("%s does not become %s; it is %+v", name, reason, last)
	return nil
}

// seen waits until a request is answered as f wants.
func (c *cluster) seen(t *testing.T, path string, header http.Header, f func(code int, body string) bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		code, body := c.do(t, http.MethodGet, path, "", header)
		if f(code, body) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("GET %s is never answered as it should; last: %d %s", path, code, body)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// asked is what an extension server was asked.
type asked struct {
	Method, URI, Host, Name string
	Header                  http.Header
}

const described = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"mirror.example.com/v1","resources":[` +
	`{"name":"mirrors","singularName":"mirror","namespaced":true,"kind":"Mirror","verbs":["get","list"]},` +
	`{"name":"mirrors/status","singularName":"","namespaced":true,"kind":"Mirror","verbs":["get"]}]}`

func (e *extension) serve(w http.ResponseWriter, r *http.Request) {
	about, do := strings.Contains(r.URL.Path, "/mirrors"), e.do.Load()
	if !about {
		e.asked.Add(1)
		do = e.says.Load()
	}
	switch {
	case do != nil:
		(*do)(w, r)
	case about:
		w.Header().Set("Content-Type", "application/json")
		a := asked{Method: r.Method, URI: r.RequestURI, Host: r.Host, Header: r.Header}
		if len(r.TLS.PeerCertificates) > 0 {
			a.Name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		json.NewEncoder(w).Encode(a)
	case r.URL.Path == "/apis/mirror.example.com/v1":
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, described)
	default:
		http.NotFound(w, r)
	}
}

// become changes how objects are served, say how the server describes itself.
func (e *extension) become(f http.HandlerFunc) { e.do.Store(&f) }
func (e *extension) say(f http.HandlerFunc)    { e.says.Store(&f) }
