package apiserver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/codec"
)

// benched is a server whose handler is asked as over a connection with a client certificate, without the connection:
// what is measured is the server alone.
type benched struct {
	b      *testing.B
	server *apiserver.Server
	http   http.Handler
	state  *tls.ConnectionState
	conn   context.Context
	client tls.Certificate
}

func serveBench(b *testing.B) *benched {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	sign := func(template, parent *x509.Certificate) []byte {
		template.SerialNumber, template.NotAfter = big.NewInt(1), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
		if err != nil {
			b.Fatal(err)
		}
		return der
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true}
	authority := sign(ca, ca)
	signed := sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "bench", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca)
	leaf, err := x509.ParseCertificate(signed)
	if err != nil {
		b.Fatal(err)
	}
	s := apiservertest.Start(b, func(o *apiserver.Options) {
		o.ClientCA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority})
	})
	makeServiceAccount(b, s)
	return &benched{
		b: b, server: s, http: s.Handler(), state: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, conn: authn.WithConnection(b.Context()),
		client: tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key},
	}
}

// listen has the server answer over connections, as the program does, until the benchmark ends.
func (s *benched) listen() (url string) {
	certificate, err := apiservertest.Authority().Server()
	if err != nil {
		s.b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.server.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert})
	}()
	s.b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			s.b.Error(err)
		}
	})
	return "https://" + l.Addr().String()
}

// floor answers with nothing but net/http, until the benchmark ends.
func floor(b *testing.B, h http.HandlerFunc) (url string) {
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.StartTLS()
	b.Cleanup(server.Close)
	return server.URL
}

// connect is a client with a connection of its own.
func (s *benched) connect() *http.Client {
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{s.client}},
		ForceAttemptHTTP2: true, DisableCompression: true,
	}
	s.b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// counted counts what is written, and keeps nothing.
type counted struct {
	header http.Header
	code   int
	bytes  int64
}

func (a *counted) Header() http.Header  { return a.header }
func (a *counted) WriteHeader(code int) { a.code = code }
func (a *counted) Write(p []byte) (int, error) {
	a.bytes += int64(len(p))
	return len(p), nil
}
func (a *counted) SetReadDeadline(time.Time) error  { return nil }
func (a *counted) SetWriteDeadline(time.Time) error { return nil }

// ask sends a request; an answer of another code ends the benchmark.
func (s *benched) ask(method, path, contentType, accept string, body []byte, want int) int64 {
	r := s.request(method, path, accept, body)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := &counted{header: make(http.Header)}
	s.http.ServeHTTP(w, r)
	if w.code != want {
		s.b.Fatalf("%s %s: %d, want %d", method, path, w.code, want)
	}
	return w.bytes
}

func (s *benched) request(method, path, accept string, body []byte) *http.Request {
	r, err := http.NewRequestWithContext(s.conn, method, "https://server"+path, bytes.NewReader(body))
	if err != nil {
		s.b.Fatal(err)
	}
	r.RequestURI, r.TLS, r.RemoteAddr = path, s.state, "192.0.2.1:1234"
	r.Header.Set("Accept", accept)
	r.Header.Set("User-Agent", "bench/1.0")
	return r
}

func protobufBody(b *testing.B, obj runtime.Object, kind string) []byte {
	b.Helper()
	body, err := codec.Marshal(codec.As(obj, schema.GroupVersionKind{Version: "v1", Kind: kind}), codec.Protobuf)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

// fullPod is what a Deployment's pod commonly has.
func fullPod(name string) *corev1.Pod {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
	pod := benchPod(name)
	pod.Spec.NodeName = "node-1"
	c := &pod.Spec.Containers[0]
	c.Ports[0].Name = "http"
	c.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
	}
	c.ReadinessProbe, c.LivenessProbe = probe, probe
	c.VolumeMounts = []corev1.VolumeMount{{Name: "settings", MountPath: "/etc/shop"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "settings", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "shop"}}}}}
	return pod
}

// statusPatch is what a kubelet sends when a pod runs; n makes it another one each time.
func statusPatch(b *testing.B, n int) []byte {
	b.Helper()
	at := metav1.NewTime(time.Unix(1_700_000_000+int64(n), 0))
	conditions := make([]map[string]any, 0, 3)
	for _, name := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady} {
		conditions = append(conditions, map[string]any{"type": name, "status": "True", "lastTransitionTime": at})
	}
	body, err := json.Marshal(map[string]any{"status": map[string]any{
		"phase": "Running", "podIP": fmt.Sprintf("10.244.0.%d", n%250), "startTime": at, "conditions": conditions,
		"containerStatuses": []map[string]any{{"name": "main", "ready": true, "started": true, "restartCount": n, "image": "registry.example/app:1.2.3", "imageID": "sha256:0",
			"state": map[string]any{"running": map[string]any{"startedAt": at}}}},
	}})
	if err != nil {
		b.Fatal(err)
	}
	return body
}

const podsPath = "/api/v1/namespaces/default/pods"

// measured does something again and again, and reports the processor time besides: it is what a busy machine blurs least.
func measured(b *testing.B, do func()) {
	b.ReportAllocs()
	before := processorTime(b)
	for b.Loop() {
		do()
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// processorTime is that of this process, for itself and in the kernel.
func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkServe is what a request costs the server, connection and client left out.
func BenchmarkServe(b *testing.B) {
	b.Run("create configmap", func(b *testing.B) {
		s, n := serveBench(b), 0
		measured(b, func() {
			n++
			body := protobufBody(b, configMap(fmt.Sprint("c-", n)), "ConfigMap")
			s.ask(http.MethodPost, "/api/v1/namespaces/default/configmaps", inProtobuf, inProtobuf, body, http.StatusCreated)
		})
	})
	b.Run("create pod", func(b *testing.B) {
		s, n := serveBench(b), 0
		measured(b, func() {
			n++
			s.ask(http.MethodPost, podsPath, inProtobuf, inProtobuf, protobufBody(b, fullPod(fmt.Sprint("p-", n)), "Pod"), http.StatusCreated)
		})
	})
	b.Run("get pod", func(b *testing.B) {
		s := servePods(b, 1)
		measured(b, func() { s.ask(http.MethodGet, podsPath+"/p-0", "", inProtobuf, nil, http.StatusOK) })
	})
	b.Run("patch status of pod", func(b *testing.B) {
		s, n := servePods(b, 1), 0
		measured(b, func() {
			n++
			s.ask(http.MethodPatch, podsPath+"/p-0/status", "application/strategic-merge-patch+json", inProtobuf, statusPatch(b, n), http.StatusOK)
		})
	})
	b.Run("renew lease", func(b *testing.B) { // the commonest write of all: each node's, every ten seconds
		const path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
		s, n := serveBench(b), 0
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Namespace: "kube-node-lease"}}
		renew := func(method, path string) { // as its kubelet does, which keeps what was answered
			n++
			lease.Spec = coordinationv1.LeaseSpec{
				HolderIdentity: ptr.To("node-1"), LeaseDurationSeconds: ptr.To[int32](40), RenewTime: &metav1.MicroTime{Time: time.Unix(1_700_000_000+int64(n), 0)},
			}
			body, err := codec.Marshal(codec.As(lease, coordinationv1.SchemeGroupVersion.WithKind("Lease")), codec.Protobuf)
			if err != nil {
				b.Fatal(err)
			}
			r := s.request(method, path, inProtobuf, body)
			r.Header.Set("Content-Type", inProtobuf)
			answer := httptest.NewRecorder()
			s.http.ServeHTTP(answer, r)
			lease = new(coordinationv1.Lease)
			in := codec.Input{Media: codec.Protobuf, Kind: coordinationv1.SchemeGroupVersion.WithKind("Lease")}
			if err := codec.Decode(answer.Body.Bytes(), in, lease); err != nil || lease.ResourceVersion == "" {
				b.Fatal(answer.Code, err)
			}
		}
		renew(http.MethodPost, path)
		measured(b, func() { renew(http.MethodPut, path+"/node-1") })
	})
	b.Run("create and delete pod", func(b *testing.B) {
		s, n := serveBench(b), 0
		measured(b, func() {
			name := fmt.Sprint("p-", n)
			n++
			s.ask(http.MethodPost, podsPath, inProtobuf, inProtobuf, protobufBody(b, fullPod(name), "Pod"), http.StatusCreated)
			s.ask(http.MethodDelete, podsPath+"/"+name+"?gracePeriodSeconds=0", "", inProtobuf, nil, http.StatusOK)
		})
	})
	b.Run("list 5000 pods", func(b *testing.B) {
		s := servePods(b, 5000)
		const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"
		for _, c := range []struct{ name, accept, query string }{
			{"JSON", inJSON, ""}, {"protobuf", inProtobuf, ""}, {"table", asTable, ""},
			{"by a label of 500", inProtobuf, "?labelSelector=tenth%3Dyes"}, {"by node", inProtobuf, "?fieldSelector=spec.nodeName%3Dnode-1"},
		} {
			s.ask(http.MethodGet, podsPath+c.query, "", c.accept, nil, http.StatusOK) // what is kept is made
			b.Run(c.name, func(b *testing.B) {
				measured(b, func() { b.SetBytes(s.ask(http.MethodGet, podsPath+c.query, "", c.accept, nil, http.StatusOK)) })
			})
		}
	})
}

// servePods is a server with so many pods, a hundred on each node, every tenth with a label.
func servePods(b *testing.B, n int) *benched {
	s := serveBench(b)
	for i := range n {
		pod := fullPod(fmt.Sprint("p-", i))
		pod.Spec.NodeName = fmt.Sprint("node-", i%50)
		if i%10 == 0 {
			pod.Labels["tenth"] = "yes"
		}
		s.ask(http.MethodPost, podsPath, inProtobuf, inProtobuf, protobufBody(b, pod, "Pod"), http.StatusCreated)
	}
	return s
}

// BenchmarkConnection is what an answer costs over TLS and HTTP/2, client included, beside what the same bytes cost when
// nothing but net/http stands behind them: that is the floor.
func BenchmarkConnection(b *testing.B) {
	s := servePods(b, 5000)
	for name, path := range map[string]string{"pod": podsPath + "/p-0", "5000 pods": podsPath} {
		known := httptest.NewRecorder()
		s.http.ServeHTTP(known, s.request(http.MethodGet, path, inProtobuf, nil))
		for of, listen := range map[string]func(*testing.B) string{
			"skiff": func(b *testing.B) string { return s.listen() },
			"floor": func(b *testing.B) string {
				return floor(b, func(w http.ResponseWriter, r *http.Request) { w.Write(known.Body.Bytes()) })
			},
		} {
			b.Run(name+"/"+of, func(b *testing.B) { fetchAgain(b, s.connect(), listen(b)+path) })
		}
	}
}

// fetchAgain gets a URL over a connection again and again.
func fetchAgain(b *testing.B, client *http.Client, url string) {
	measured(b, func() {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Accept", inProtobuf)
		resp, err := client.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Fatalf("GET %s: %d, %v", url, resp.StatusCode, err)
		}
		b.SetBytes(n)
	})
}

// BenchmarkWatchers is what a change costs that 200 watch on 8 connections over TLS and HTTP/2, clients included, beside what
// the same bytes cost when nothing but net/http stands behind them: that is the floor.
func BenchmarkWatchers(b *testing.B) {
	const watchers, connections = 200, 8
	for _, of := range []string{"skiff", "floor"} {
		b.Run(of, func(b *testing.B) {
			s, n := serveBench(b), 0
			change := func() {
				n++
				body := protobufBody(b, configMap(fmt.Sprint("watched-", n)), "ConfigMap")
				s.ask(http.MethodPost, "/api/v1/namespaces/default/configmaps", inProtobuf, inProtobuf, body, http.StatusCreated)
			}
			listen := s.listen
			if of == "floor" {
				f := &broadcast{next: make(chan struct{})}
				frame := protobufBody(b, configMap("watched-0"), "ConfigMap")
				f.frame = append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
				change, listen = f.tell, func() string { return floor(b, f.serve) }
			}
			url := listen()
			seen := make(chan struct{}, watchers)
			ctx, stop := context.WithCancel(b.Context())
			defer stop()
			var client *http.Client
			for i := range watchers {
				if i%(watchers/connections) == 0 {
					client = s.connect()
				}
				watchAll(ctx, b, client, url+"/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=1", seen)
			}
			measured(b, func() {
				change()
				for range watchers {
					<-seen
				}
			})
		})
	}
}

// broadcast writes the same to all who ask, each time it is told to.
type broadcast struct {
	frame []byte

	mu   sync.Mutex
	next chan struct{} // closed by tell
}

func (f *broadcast) turn() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next
}

func (f *broadcast) serve(w http.ResponseWriter, r *http.Request) {
	next, out := f.turn(), http.NewResponseController(w)
	for {
		if out.Flush() != nil {
			return
		}
		select {
		case <-next:
		case <-r.Context().Done():
			return
		}
		next = f.turn()
		w.Write(f.frame)
	}
}

func (f *broadcast) tell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.next)
	f.next = make(chan struct{})
}

// watchAll watches a path until ctx ends, and says so each time that an event was seen.
func watchAll(ctx context.Context, b *testing.B, client *http.Client, url string, seen chan<- struct{}) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Accept", inProtobuf+";stream=watch")
	resp, err := client.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		b.Fatalf("watch: %d", resp.StatusCode)
	}
	go func() {
		defer resp.Body.Close()
		length := make([]byte, 4) // before each frame
		for {
			if _, err := io.ReadFull(resp.Body, length); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, resp.Body, int64(binary.BigEndian.Uint32(length))); err != nil {
				return
			}
			seen <- struct{}{}
		}
	}()
}
