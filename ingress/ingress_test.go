package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/ingress/route"
)

const (
	namespace = "default"
	// nodeAddress is what Ingresses have in their status. The ports are on the loopback.
	nodeAddress = "192.0.2.1"
)

// world is an API server with an ingress, whose endpoints are servers of the test.
type world struct {
	kubernetes.Interface
	t       *testing.T
	server  *apiserver.Server
	ingress *Ingress

	mu      sync.Mutex
	backs   map[string]string // endpoint: where it really is
	dialed  map[string]int
	ports   map[string]string // port of the node: where it really is
	blocked map[string]bool   // ports of the node that another program has
}

func start(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	server := apiservertest.Start(t, nil)
	admin, err := kubernetes.NewForConfig(apiservertest.Config(server, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Interface: admin, t: t, server: server, backs: map[string]string{}, dialed: map[string]int{}, ports: map[string]string{}, blocked: map[string]bool{}}
	w.grant()
	w.back(markerEndpoint+":8080", echo("marker"))
	w.ingress, _ = w.join("n", nodeAddress, change...)
	return w
}

// join makes a node, with an ingress, until stop is called or the test ends.
func (w *world) join(name, address string, change ...func(*Config)) (i *Ingress, stop func()) {
	w.t.Helper()
	client := w.as("skiff:ingress", user.AllAuthenticated)
	if _, err := w.CoreV1().Nodes().Create(w.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.patchStatus(name, fmt.Sprintf(`{"addresses":[{"type":"InternalIP","address":%q}]}`, address))
	w.condition(name, corev1.ConditionTrue)
	c := Config{Client: client, NodeClient: w.as("system:node:"+name, user.NodesGroup, user.AllAuthenticated), NodeName: name,
		Address: netip.MustParseAddr(address), HTTPPort: 80, HTTPSPort: 443, Dial: w.dial, Listen: w.listen,
		Log: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&c)
	}
	i, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("the ingress of %s ended with %v", name, err)
		}
	})
	w.t.Cleanup(stop)
	return i, stop
}

// as is a client of a user.
func (w *world) as(name string, groups ...string) kubernetes.Interface {
	w.t.Helper()
	config := apiservertest.Config(w.server, name, groups...)
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		w.t.Fatal(err)
	}
	return client
}

// condition says whether a node is ready, as its kubelet or the controller of nodes does.
func (w *world) condition(node string, ready corev1.ConditionStatus) {
	w.t.Helper()
	w.patchStatus(node, fmt.Sprintf(`{"conditions":[{"type":"Ready","status":%q}]}`, ready))
}

func (w *world) patchStatus(node, status string) {
	w.t.Helper()
	patch := fmt.Sprintf(`{"status":%s}`, status)
	if _, err := w.CoreV1().Nodes().Patch(w.t.Context(), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		w.t.Fatal(err)
	}
}

// grant gives the ingress the rights that a cluster gives it, and no others.
func (w *world) grant() {
	w.t.Helper()
	data, err := os.ReadFile("../cluster/rights.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, document := range bytes.Split(data, []byte("\n---\n")) {
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		switch obj := obj.(type) {
		case *rbacv1.ClusterRole:
			_, err = w.RbacV1().ClusterRoles().Create(w.t.Context(), obj, metav1.CreateOptions{})
		case *rbacv1.ClusterRoleBinding:
			_, err = w.RbacV1().ClusterRoleBindings().Create(w.t.Context(), obj, metav1.CreateOptions{})
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	where, ok := w.backs[address]
	w.dialed[address]++
	w.mu.Unlock()
	if !ok {
		return nil, errors.New("connection refused")
	}
	return (&net.Dialer{}).DialContext(ctx, network, where)
}

func (w *world) listen(network, address string) (net.Listener, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.blocked[address] {
		return nil, errors.New("address already in use")
	}
	l, err := net.Listen(network, "127.0.0.1:0")
	if err == nil {
		w.ports[address] = l.Addr().String()
	}
	return l, err
}

// back makes an endpoint of a handler.
func (w *world) back(endpoint string, h http.HandlerFunc) *httptest.Server {
	w.t.Helper()
	s := httptest.NewServer(h)
	w.t.Cleanup(s.Close)
	w.at(endpoint, s.Listener.Addr().String())
	return s
}

func (w *world) at(endpoint, where string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.backs[endpoint] = where
}

// service makes a Service of port 80, and its endpoints: addresses of 10.0.0.0/24 at port 8080.
func (w *world) service(name string, endpoints ...string) {
	w.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	if _, err := w.CoreV1().Services(namespace).Create(w.t.Context(), s, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints:   endpointsOf(endpoints...),
	}
	if _, err := w.DiscoveryV1().EndpointSlices(namespace).Create(w.t.Context(), slice, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// endpointsOf are addresses, those that end in "-" terminating ones that still serve.
func endpointsOf(addresses ...string) (list []discoveryv1.Endpoint) {
	for _, a := range addresses {
		address, ending := strings.CutSuffix(a, "-")
		list = append(list, discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{
			Ready: ptr.To(!ending), Serving: ptr.To(true), Terminating: ptr.To(ending),
		}})
	}
	return list
}

// move gives a Service other endpoints.
func (w *world) move(name string, endpoints ...string) {
	w.t.Helper()
	slice, err := w.DiscoveryV1().EndpointSlices(namespace).Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	slice.Endpoints = endpointsOf(endpoints...)
	if _, err := w.DiscoveryV1().EndpointSlices(namespace).Update(w.t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// route makes an Ingress: paths are "host path service", or with a type after it.
func (w *world) route(name string, annotations map[string]string, paths ...string) *networkingv1.Ingress {
	w.t.Helper()
	ing := newIngress(name, annotations, paths...)
	made, err := w.NetworkingV1().Ingresses(namespace).Create(w.t.Context(), ing, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.effective()
	return made
}

func newIngress(name string, annotations map[string]string, paths ...string) *networkingv1.Ingress {
	ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
	for k, v := range annotations {
		ing.Annotations[route.Prefix+k] = v
	}
	for _, p := range paths {
		f := strings.Fields(p)
		kind := networkingv1.PathTypePrefix
		if len(f) > 3 {
			kind = networkingv1.PathType(f[3])
		}
		ing.Spec.Rules = append(ing.Spec.Rules, networkingv1.IngressRule{Host: f[0], IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: f[1], PathType: &kind, Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: f[2], Port: networkingv1.ServiceBackendPort{Name: "http"}},
			}}},
		}}})
	}
	return ing
}

// effective waits until all that was written before is in effect. It makes one object of each kind, in the order in which
// they need each other, and asks for what they are together.
func (w *world) effective() {
	w.t.Helper()
	name := fmt.Sprintf("marker-%d", time.Now().UnixNano())
	w.secret(name, corev1.SecretTypeOpaque, map[string][]byte{"auth": []byte("me:{PLAIN}secret")})
	w.service(name, markerEndpoint)
	marker := newIngress(name, map[string]string{"auth-type": "basic", "auth-secret": name}, name+".example / "+name)
	if _, err := w.NetworkingV1().Ingresses(namespace).Create(w.t.Context(), marker, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("an Ingress in effect", func() error {
		res, err := w.try("GET", "http://"+name+".example/", nil, "Authorization: Basic bWU6c2VjcmV0")
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", res.Status)
		}
		return nil
	})
}

const markerEndpoint = "10.0.9.9"

func (w *world) eventually(what string, check func() error) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v", what, err)
		}
	}
}

// real is where a port of the node really is.
func (w *world) real(address string) (string, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	where, ok := w.ports[net.JoinHostPort(nodeAddress, port)]
	if !ok {
		return "", fmt.Errorf("port %s is not open", port)
	}
	return where, nil
}

// client is one that finds every host at the ingress and believes any certificate.
func (w *world) client(http2 bool) *http.Client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			where, err := w.real(address)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, where)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: http2, DisableCompression: true,
	}
	w.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (w *world) try(method, url string, body io.Reader, headers ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(w.t.Context(), method, url, body)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	c := w.client(false)
	defer c.CloseIdleConnections()
	return c.Do(r)
}

// ask returns the answer and its body.
func (w *world) ask(method, url string, body io.Reader, headers ...string) (*http.Response, string) {
	w.t.Helper()
	res, err := w.try(method, url, body, headers...)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, url, err)
	}
	return res, string(text)
}

// echo answers with what the backend sees: the path, and headers by name.
func echo(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", name, r.Method, r.URL.RequestURI())
		fmt.Fprintf(w, "host: %s\n", r.Host)
		for _, h := range slices.Sorted(maps.Keys(r.Header)) {
			fmt.Fprintf(w, "%s: %s\n", strings.ToLower(h), strings.Join(r.Header[h], ", "))
		}
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	}
}

// pair makes a certificate for names.
func pair(t *testing.T, names ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	cert, err := selfSigned(names...)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
}

func (w *world) secret(name string, kind corev1.SecretType, data map[string][]byte) {
	w.t.Helper()
	if _, err := w.CoreV1().Secrets(namespace).Create(w.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, Data: data}, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// informed waits for an event about an Ingress with a text in it.
func (w *world) informed(name, text string) {
	w.t.Helper()
	w.eventually("an event about "+name, func() error {
		list, err := w.CoreV1().Events(namespace).List(w.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		var said []string
		for _, e := range list.Items {
			if said = append(said, e.Message); e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, text) {
				return nil
			}
		}
		return fmt.Errorf("%q, want %q", said, text)
	})
}

// addressed waits until an Ingress has these addresses.
func (w *world) addressed(name string, want ...string) {
	w.t.Helper()
	w.eventually("the addresses of "+name, func() error {
		ing, err := w.NetworkingV1().Ingresses(namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, i := range ing.Status.LoadBalancer.Ingress {
			got = append(got, i.IP)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %v, want %v", got, want)
		}
		return nil
	})
}
