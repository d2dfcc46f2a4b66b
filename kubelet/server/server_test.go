package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// host is a kubelet with one pod.
type host struct{ log string }

func (h host) Pods() []*v1.Pod {
	return []*v1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid"},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c"}, {Name: "down"}}},
		Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
			{Name: "c", ContainerID: "containerd://id", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}},
			{Name: "down", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		}},
	}}
}

func (h host) RunningPods(context.Context) ([]*v1.Pod, error) { return h.Pods(), nil }

func (h host) Container(_ context.Context, _ types.UID, name string) (string, error) {
	if name == "c" {
		return "id", nil
	}
	return "", nil
}

func (h host) Sandbox(context.Context, types.UID) (string, error) { return "sandbox", nil }

func (h host) Log(_ context.Context, id string) (string, bool, error) {
	if id != "id" {
		return "", false, errors.New("no such container")
	}
	return h.log, true, nil
}

// runtimeServer is a container runtime with the streaming server that runtimes have.
type runtimeServer struct{ url string }

func newRuntime(t *testing.T) runtimeServer {
	mux := http.NewServeMux()
	mux.HandleFunc("/exec", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		options := &criremote.Options{Stdin: q.Has("in"), Stdout: q.Has("out"), Stderr: q.Has("err"), TTY: q.Has("tty")}
		criremote.ServeExec(w, r, shell{}, "", "", "", q["cmd"], options, time.Minute, time.Minute, criremote.SupportedStreamingProtocols)
	})
	mux.HandleFunc("/portforward", func(w http.ResponseWriter, r *http.Request) {
		criportforward.ServePortForward(w, r, echo{}, "", "", nil, time.Minute, time.Minute, criportforward.SupportedProtocols)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return runtimeServer{server.URL}
}

func (r runtimeServer) Exec(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, int, error) {
	return []byte(strings.Join(cmd, "+") + " in " + id), 0, nil
}

func (r runtimeServer) ExecURL(_ context.Context, e *cri.ExecRequest) (string, error) {
	q := url.Values{"cmd": e.Cmd}
	for name, wanted := range map[string]bool{"in": e.Stdin, "out": e.Stdout, "err": e.Stderr, "tty": e.Tty} {
		if wanted {
			q.Set(name, "")
		}
	}
	return r.url + "/exec?" + q.Encode(), nil
}

func (r runtimeServer) AttachURL(_ context.Context, a *cri.AttachRequest) (string, error) {
	return r.url + "/exec?out&cmd=attached", nil
}

func (r runtimeServer) PortForwardURL(context.Context, *cri.PortForwardRequest) (string, error) {
	return r.url + "/portforward", nil
}

type shell struct{}

func (shell) ExecInContainer(_ context.Context, _, _, _ string, cmd []string, in io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan criremote.TerminalSize, _ time.Duration) error {
	switch cmd[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "fail":
		fmt.Fprint(errOut, "no luck")
		return exec.CodeExitError{Err: errors.New("exit status 3"), Code: 3}
	}
	fmt.Fprint(out, cmd[0])
	return nil
}

type echo struct{}

func (echo) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	line := make([]byte, 5)
	if _, err := io.ReadFull(stream, line); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stream, "%s from %d", line, port)
	return err
}

type noStats struct{}

func (noStats) Summary(context.Context, bool) (*statsapi.Summary, error) {
	return &statsapi.Summary{Node: statsapi.NodeStats{NodeName: "n"}}, nil
}
func (noStats) Resources() prometheus.Gatherer { return prometheus.NewRegistry() }

// world is a running server and who may call it.
type world struct {
	url     string
	admin   *rest.Config // by certificate
	reviews atomic.Int32 // access reviews asked for
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		name, known := strings.CutPrefix(review.Spec.Token, "token-of-")
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: known, User: authenticationv1.UserInfo{Username: name}}
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		w.reviews.Add(1)
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		what := review.Spec.ResourceAttributes
		review.Status.Allowed = review.Spec.User == "admin" || review.Spec.User == "metrics" && what.Subresource == "metrics" ||
			review.Spec.User == "pods" && what.Subresource == "pods"
		return true, review, nil
	})

	authority := newAuthority(t)
	log := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(log, []byte(sample), 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{
		NodeName: "n", Listener: listener, Certificate: authority.serve(t, "n"), ClientCA: authority.pool, Client: client,
		Host: host{log: log}, Runtime: newRuntime(t), Stats: noStats{}, Metrics: prometheus.NewRegistry(),
		Configz: map[string]string{"nodeIP": "1.2.3.4"}, LogDir: filepath.Dir(log),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	w.url = "https://" + listener.Addr().String()
	w.admin = &rest.Config{Host: w.url, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	w.admin.CertData, w.admin.KeyData = authority.pem(t, "admin")
	return w
}

// get is the answer to a request with a token, without if it is "", by certificate if it is "certificate".
func (w *world) get(t *testing.T, method, path, token string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if token == "certificate" {
		rt, err := rest.TransportFor(w.admin)
		if err != nil {
			t.Fatal(err)
		}
		client.Transport = rt
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequest(method, w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" && token != "certificate" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestWhoMayDoWhat(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		name, path, token string
		code              int
		body              string
	}{
		{"nobody", "/pods", "", 401, "Unauthorized"},
		{"bad token", "/pods", "nonsense", 401, "Unauthorized"},
		{"token", "/healthz", "token-of-admin", 200, "ok"},
		{"certificate", "/healthz", "certificate", 200, "ok"},
		{"denied", "/pods", "token-of-metrics", 403, "Forbidden (user=metrics, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"},
		{"only metrics", "/metrics", "token-of-metrics", 200, ""},
		{"only pods", "/configz", "token-of-pods", 403, "Forbidden (user=pods, verb=get, resource=nodes, subresource(s)=[configz proxy])\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, body := w.get(t, "GET", test.path, test.token)
			if code != test.code || body != test.body {
				t.Errorf("got %d %q, want %d %q", code, body, test.code, test.body)
			}
		})
	}
	asked := w.reviews.Load()
	w.get(t, "GET", "/healthz", "token-of-admin")
	if got := w.reviews.Load(); got != asked {
		t.Errorf("a question asked again: got %d more access reviews, want none", got-asked)
	}
}

func TestPlainRequests(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		name, method, path string
		code               int
		body               string
	}{
		{"log", "GET", "/containerLogs/ns/p/c?tailLines=1", 200, "four\n"},
		{"log with a bad option", "GET", "/containerLogs/ns/p/c?tailLines=x", 400, `{"message": "Unable to decode query."}`},
		{"log of no pod", "GET", "/containerLogs/ns/q/c", 404, `pod "q" does not exist`},
		{"log of no container", "GET", "/containerLogs/ns/p/x", 404, `container "x" not found in pod "p"`},
		{"log too early", "GET", "/containerLogs/ns/p/down", 400, `container "down" in pod "p" is waiting to start: ContainerCreating`},
		{"log of the previous", "GET", "/containerLogs/ns/p/c?previous=true", 400, `previous terminated container "c" in pod "p" not found`},
		{"run", "POST", "/run/ns/p/c?cmd=ls+-l", 200, "ls+-l in id"},
		{"run in a container that is down", "POST", "/run/ns/p/down?cmd=ls", 500, `container not found ("down")`},
		{"exec without streams", "POST", "/exec/ns/p/c?command=ls", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"exec without upgrade", "POST", "/exec/ns/p/c?command=ls&output=1", 400, "Upgrade request required"},
		{"exec in no pod", "POST", "/exec/ns/q/c?command=ls&output=1", 404, "pod does not exist"},
		{"exec in an earlier pod", "POST", "/exec/ns/p/other/c?command=ls&output=1", 404, "pod does not exist"},
		{"configz", "GET", "/configz", 200, `{"kubeletconfig":{"nodeIP":"1.2.3.4"}}`},
		{"log file", "GET", "/logs/0.log", 200, sample},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, body := w.get(t, test.method, test.path, "certificate")
			if code != test.code || body != test.body {
				t.Errorf("got %d %q, want %d %q", code, body, test.code, test.body)
			}
		})
	}
	for _, path := range []string{"/pods", "/runningpods/"} {
		_, body := w.get(t, "GET", path, "certificate")
		var list v1.PodList
		if err := json.Unmarshal([]byte(body), &list); err != nil || list.Kind != "PodList" || len(list.Items) != 1 || list.Items[0].Name != "p" {
			t.Errorf("%s: got %s (%v), want a PodList with p", path, body, err)
		}
	}
}

func TestExecOverSPDY(t *testing.T) {
	w := newWorld(t)
	run := func(command, stdin string) (string, string, error) {
		query := url.Values{"command": {command}, "output": {"1"}, "error": {"1"}}
		options := remotecommand.StreamOptions{}
		var out, errOut bytes.Buffer
		options.Stdout, options.Stderr = &out, &errOut
		if stdin != "" {
			query.Set("input", "1")
			options.Stdin = strings.NewReader(stdin)
		}
		target, err := url.Parse(w.url + "/exec/ns/p/c?" + query.Encode())
		if err != nil {
			t.Fatal(err)
		}
		executor, err := remotecommand.NewSPDYExecutor(w.admin, "POST", target)
		if err != nil {
			t.Fatal(err)
		}
		err = executor.StreamWithContext(t.Context(), options)
		return out.String(), errOut.String(), err
	}
	if out, _, err := run("cat", "echo me"); out != "echo me" || err != nil {
		t.Errorf("cat: got %q, %v", out, err)
	}
	_, errOut, err := run("fail", "")
	var code exec.CodeExitError
	if errOut != "no luck" || !errors.As(err, &code) || code.Code != 3 {
		t.Errorf("fail: got %q, %v; want exit code 3", errOut, err)
	}
}

// A client that sends what no session needs is cut off before the runtime, which queues what it is sent, sees
// it.
func TestSessionBeyondLimits(t *testing.T) {
	w := newWorld(t)
	transport, upgrader, err := spdy.RoundTripperFor(w.admin)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(w.url + "/exec/ns/p/c?command=cat&input=1&output=1")
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", target).Dial("v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	opened := make(chan struct{})
	go func() {
		// They pack to a thousandth.
		if _, err := conn.CreateStream(http.Header{"Streamtype": {strings.Repeat("0", 900<<10)}}); err == nil {
			close(opened)
		}
	}()
	select {
	case <-conn.CloseChan():
	case <-opened:
		t.Error("a stream with such headers was opened")
	}
}

func TestExecOverWebSocket(t *testing.T) {
	w := newWorld(t)
	rt, err := rest.TransportFor(w.admin)
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := websocket.Dial(t.Context(), w.url+"/exec/ns/p/c?output=1&error=1&command=hello", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: rt}, Subprotocols: []string{"v4.channel.k8s.io"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	var out, status string
	for {
		_, message, err := conn.Read(t.Context())
		if err != nil {
			break
		}
		switch message[0] {
		case 1:
			out += string(message[1:])
		case 3:
			status += string(message[1:])
		}
	}
	if out != "hello" || !strings.Contains(status, `"status":"Success"`) {
		t.Errorf("got %q and status %s, want hello and Success", out, status)
	}
}

func TestPortForward(t *testing.T) {
	w := newWorld(t)
	transport, upgrader, err := spdy.RoundTripperFor(w.admin)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(w.url + "/portForward/ns/p")
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", target)
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(dialer, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "hello")
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "hello from 80" {
		t.Errorf("got %q, %v; want hello from 80", got, err)
	}
	conn.Close()
	close(stop)
	<-ended
}

// TestRunEndsStreams sees that a log that is followed does not keep the server from ending: newWorld's
// cleanup waits for Run.
func TestRunEndsStreams(t *testing.T) {
	w := newWorld(t)
	rt, err := rest.TransportFor(w.admin)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: rt}).Get(w.url + "/containerLogs/ns/p/c?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	first := make([]byte, 4)
	if _, err := io.ReadFull(response.Body, first); err != nil || string(first) != "one\n" {
		t.Errorf("got %q, %v; want the first line at once", first, err)
	}
}

// authority issues certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.certificate)
	return a
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	certificate, key := a.pem(t, name)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func (a *authority) serve(t *testing.T, name string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair := a.issue(t, name)
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
}

func (a *authority) pem(t *testing.T, name string) (certificate, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rawKey})
}
