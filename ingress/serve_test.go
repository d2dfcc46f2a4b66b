package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestIngressOfAnApplication serves what a manifest has that people write: a host, paths, rewrite-target and TLS.
func TestIngressOfAnApplication(t *testing.T) {
	var log lockedBuffer
	w := start(t, func(c *Config) { c.AccessLog = &log })
	w.back("10.0.0.1:8080", echo("web"))
	w.service("web", "10.0.0.1")
	certPEM, keyPEM := pair(t, "app.example")
	w.secret("tls", corev1.SecretTypeTLS, map[string][]byte{"tls.crt": certPEM, "tls.key": keyPEM})
	ing := newIngress("app", map[string]string{"rewrite-target": "/"}, "app.example /guestbook web")
	ing.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"app.example"}, SecretName: "tls"}}
	made, err := w.NetworkingV1().Ingresses(namespace).Create(t.Context(), ing, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.addressed("app", nodeAddress)
	if made.Spec.IngressClassName == nil || *made.Spec.IngressClassName != ClassName {
		w.eventually("the class", func() error {
			_, err := w.NetworkingV1().IngressClasses().Get(t.Context(), ClassName, metav1.GetOptions{})
			return err
		})
	}
	w.effective()

	res, _ := w.ask("GET", "http://app.example/guestbook?a=1", nil)
	if res.StatusCode != http.StatusPermanentRedirect || res.Header.Get("Location") != "https://app.example/guestbook?a=1" {
		t.Errorf("plain: got %s to %s", res.Status, res.Header.Get("Location"))
	}
	res, body := w.ask("GET", "https://app.example/guestbook?a=1", nil)
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(body, "web GET /?a=1\nhost: app.example\n") {
		t.Errorf("got %s %s", res.Status, body)
	}
	if got := res.TLS.PeerCertificates[0].DNSNames; len(got) != 1 || got[0] != "app.example" {
		t.Errorf("the certificate is of %v", got)
	}
	for _, url := range []string{"https://other.example/", "https://app.example/"} {
		res, body := w.ask("GET", url, nil)
		if res.StatusCode != http.StatusNotFound || body != "default backend - 404" {
			t.Errorf("%s: got %s %s", url, res.Status, body)
		}
	}

	// The certificate is renewed.
	certPEM, keyPEM = pair(t, "app.example", "more.example")
	patch := fmt.Sprintf(`{"stringData":{"tls.crt":%q,"tls.key":%q}}`, certPEM, keyPEM)
	if _, err := w.CoreV1().Secrets(namespace).Patch(t.Context(), "tls", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the new certificate", func() error {
		res, err := w.try("GET", "https://app.example/guestbook", nil)
		if err != nil {
			return err
		}
		res.Body.Close()
		if got := res.TLS.PeerCertificates[0].DNSNames; len(got) != 2 {
			return fmt.Errorf("the certificate is of %v", got)
		}
		return nil
	})
	// Half a pair is not shown, and said.
	if _, err := w.CoreV1().Secrets(namespace).Patch(t.Context(), "tls", types.MergePatchType, []byte(`{"data":{"tls.key":""}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.informed("app", "it has no tls.key")

	metrics := httptest.NewRecorder()
	promhttp.HandlerFor(w.ingress.Metrics(), promhttp.HandlerOpts{}).ServeHTTP(metrics, httptest.NewRequest("GET", "/metrics", nil))
	if want := `skiff_ingress_requests_total{code="308",ingress="app",namespace="default"} 1` + "\n"; !strings.Contains(metrics.Body.String(), want) {
		t.Errorf("the metrics have no %s", want)
	}
	if line := log.String(); !strings.Contains(line, `"GET /guestbook?a=1 HTTP/1.1" 308 `) || !strings.Contains(line, `"app.example" default/app 0.`) {
		t.Errorf("the log has %s", line)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// TestEndpointsAreFollowed moves a Service among endpoints while it is asked: no request fails, and none goes to an
// endpoint that has been gone for long.
func TestEndpointsAreFollowed(t *testing.T) {
	w := start(t)
	for i := 1; i <= 3; i++ {
		w.back(fmt.Sprintf("10.0.0.%d:8080", i), echo(fmt.Sprint("e", i)))
	}
	w.service("web", "10.0.0.1")
	w.route("web", nil, "a.example / web")
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var asked atomic.Int64
	c := w.client(false)
	for range 4 {
		running.Go(func() {
			for ctx.Err() == nil {
				res, err := c.Post("http://a.example/", "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Errorf("while endpoints move: %v", err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("while endpoints move: %s %s %v", res.Status, body, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	servedBy := func(want string) {
		t.Helper()
		w.eventually("answers of "+want, func() error {
			if _, body := w.ask("GET", "http://a.example/", nil); !strings.HasPrefix(body, want) {
				return fmt.Errorf("got %.10s", body)
			}
			return nil
		})
	}
	for i := range 6 {
		next := i%3 + 1
		w.move("web", fmt.Sprintf("10.0.0.%d", next))
		servedBy(fmt.Sprint("e", next))
	}
	w.move("web", "10.0.0.1-", "10.0.0.2")
	servedBy("e2")
	w.move("web", "10.0.0.1-")
	servedBy("e1")
	stop()
	running.Wait()
	if asked.Load() == 0 {
		t.Error("nobody asked")
	}
	w.move("web")
	w.eventually("503", func() error {
		if res, _ := w.ask("GET", "http://a.example/", nil); res.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("got %s", res.Status)
		}
		return nil
	})
	w.route("missing", nil, "missing.example / nothing")
	if res, _ := w.ask("GET", "http://missing.example/", nil); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a Service that is not there: got %s", res.Status)
	}
	w.informed("missing", "there is no Service default/nothing; its paths are answered with 503")
}

// TestAnotherEndpointIsTried has endpoints that take no connection, and one that hangs up when it has read.
func TestAnotherEndpointIsTried(t *testing.T) {
	w := start(t)
	w.back("10.0.0.3:8080", echo("alive"))
	w.service("web", "10.0.0.1", "10.0.0.2", "10.0.0.3")
	w.route("web", nil, "a.example / web")
	for range 6 {
		if res, body := w.ask("POST", "http://a.example/", strings.NewReader("whole")); res.StatusCode != http.StatusOK || !strings.HasSuffix(body, "whole") {
			t.Errorf("got %s %s", res.Status, body)
		}
	}
	var read atomic.Int64
	w.back("10.0.0.4:8080", func(rw http.ResponseWriter, r *http.Request) {
		read.Add(1)
		panic(http.ErrAbortHandler)
	})
	w.service("rude", "10.0.0.4", "10.0.0.3")
	w.route("rude", nil, "b.example / rude")
	bad := 0
	for range 4 {
		if res, _ := w.ask("POST", "http://b.example/", strings.NewReader("x")); res.StatusCode == http.StatusBadGateway {
			bad++
		}
	}
	if bad != 2 || read.Load() != 2 {
		t.Errorf("%d of 4 failed, %d were read: what an endpoint has read must not be sent again", bad, read.Load())
	}
	w.service("dead", "10.0.0.1")
	w.route("dead", nil, "c.example / dead")
	if res, _ := w.ask("GET", "http://c.example/", nil); res.StatusCode != http.StatusBadGateway {
		t.Errorf("no endpoint takes connections: got %s", res.Status)
	}
}

// TestStreams sends bodies both ways at once, by HTTP/1.1, by HTTP/2, and to a backend that speaks HTTP/2 without TLS.
func TestStreams(t *testing.T) {
	w := start(t)
	pingPong := func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex()
		rw.Header().Set("Content-Type", "application/grpc")
		rw.Header().Set("Trailer", "Grpc-Status")
		rw.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(rw).Flush()
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			fmt.Fprintf(rw, "%s %s\n", r.Proto, lines.Text())
			_ = http.NewResponseController(rw).Flush()
		}
		rw.Header().Set("Grpc-Status", "0")
	}
	w.back("10.0.0.1:8080", pingPong)
	h2c := httptest.NewUnstartedServer(http.HandlerFunc(pingPong))
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	t.Cleanup(h2c.Close)
	w.at("10.0.0.2:8080", h2c.Listener.Addr().String())
	w.service("web", "10.0.0.1")
	w.service("grpc", "10.0.0.2")
	w.route("web", map[string]string{"proxy-body-size": "0"}, "a.example / web")
	w.route("grpc", map[string]string{"backend-protocol": "GRPC"}, "grpc.example / grpc")
	for _, test := range []struct {
		url, backend string
		http2        bool
	}{{"http://a.example/", "HTTP/1.1", false}, {"https://a.example/", "HTTP/1.1", true}, {"https://grpc.example/", "HTTP/2.0", true}} {
		out, in := io.Pipe()
		r, _ := http.NewRequestWithContext(t.Context(), "POST", test.url, out)
		res, err := w.client(test.http2).Do(r)
		if err != nil {
			t.Fatalf("%s: %v", test.url, err)
		}
		if test.http2 != (res.ProtoMajor == 2) {
			t.Errorf("%s: the client speaks %s", test.url, res.Proto)
		}
		answers := bufio.NewScanner(res.Body)
		for i := range 3 {
			fmt.Fprintf(in, "%d\n", i)
			if !answers.Scan() || answers.Text() != fmt.Sprintf("%s %d", test.backend, i) {
				t.Fatalf("%s: got %q %v", test.url, answers.Text(), answers.Err())
			}
		}
		in.Close()
		if answers.Scan() || answers.Err() != nil || res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%s: the end is %q %v, trailer %v", test.url, answers.Text(), answers.Err(), res.Trailer)
		}
		res.Body.Close()
	}
}

// TestUpgrade switches protocols, as WebSocket does.
func TestUpgrade(t *testing.T) {
	w := start(t)
	w.back("10.0.0.1:8080", func(rw http.ResponseWriter, r *http.Request) {
		conn, both, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		both.Flush()
		_, _ = io.Copy(conn, both)
	})
	w.service("web", "10.0.0.1")
	w.route("web", map[string]string{"proxy-read-timeout": "3600"}, "a.example / web")
	where, err := w.real("x:80")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", where)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v %v", res, err)
	}
	for _, text := range []string{"hello\n", "again\n"} {
		fmt.Fprint(conn, text)
		if got, err := in.ReadString('\n'); got != text {
			t.Errorf("got %q %v", got, err)
		}
	}
}

// raw sends bytes to the port without TLS and returns the status line of the answer, and all of it.
func (w *world) raw(text string) (status, all string) {
	w.t.Helper()
	where, err := w.real("x:80")
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := net.Dial("tcp", where)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, text)
	data, _ := io.ReadAll(conn)
	status, _, _ = strings.Cut(string(data), "\r\n")
	return strings.TrimPrefix(status, "HTTP/1.1 "), string(data)
}

// TestHeadersCannotBeForged sends what a backend might believe.
func TestHeadersCannotBeForged(t *testing.T) {
	w := start(t)
	w.back("10.0.0.1:8080", echo("web"))
	w.service("web", "10.0.0.1")
	w.route("web", map[string]string{"x-forwarded-prefix": "/p"}, "a.example / web")
	_, body := w.ask("GET", "http://a.example/x", nil, "X-Forwarded-For: 1.2.3.4", "X-Real-IP: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil",
		"X_Forwarded_For: 1.2.3.4", "X-Forwarded-Prefix: /evil", "Forwarded: for=1.2.3.4", "Connection: X-Real-IP, X-Forwarded-Proto", "X-Request-ID: mine")
	for _, want := range []string{"x-forwarded-for: 127.0.0.1\n", "x-real-ip: 127.0.0.1\n", "x-forwarded-proto: http\n", "x-forwarded-host: a.example\n",
		"x-forwarded-port: 80\n", "x-forwarded-prefix: /p\n", "x-original-forwarded-for: 1.2.3.4\n", "x-request-id: mine\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("the backend does not see %q:\n%s", want, body)
		}
	}
	for _, not := range []string{"x_forwarded_for", "\nforwarded:", "evil"} {
		if strings.Contains(body, not) {
			t.Errorf("the backend sees %q:\n%s", not, body)
		}
	}
	// Whoever reads one length and whoever the other would see two requests in one.
	for name, text := range map[string]string{
		"two lengths":            "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nxxxxx",
		"an unknown encoding":    "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\nxxxx",
		"a space before a colon": "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length : 4\r\n\r\nxxxx",
		"a folded line":          "GET / HTTP/1.1\r\nHost: a.example\r\n X: y\r\n\r\n",
		"two hosts":              "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
		"no host":                "GET / HTTP/1.1\r\n\r\n",
		"a huge header":          "GET / HTTP/1.1\r\nHost: a.example\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"a long path":            "GET /" + strings.Repeat("x", 9<<10) + " HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n",
		"a path out of the root": "GET /a/../../b HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n",
		"CONNECT":                "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\nConnection: close\r\n\r\n",
	} {
		if status, _ := w.raw(text); !strings.HasPrefix(status, "4") && !strings.HasPrefix(status, "501") {
			t.Errorf("%s: got %s", name, status)
		}
	}
	status, all := w.raw("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
	if strings.Contains(all, "smuggled") || strings.Count(all, "HTTP/1.1 200") > 1 {
		t.Errorf("a second request was found in the first: %s\n%s", status, all)
	}
}

// TestPathsCannotEscape asks for a path in ways that a rule for it might miss.
func TestPathsCannotEscape(t *testing.T) {
	w := start(t)
	w.back("10.0.0.1:8080", echo("public"))
	w.back("10.0.0.2:8080", echo("admin"))
	w.service("public", "10.0.0.1")
	w.service("admin", "10.0.0.2")
	w.route("app", nil, "a.example / public", "a.example /admin admin")
	w.route("rewritten", map[string]string{"rewrite-target": "/files/$1"}, "b.example /f(.*) public ImplementationSpecific")
	for path, want := range map[string]string{
		"/admin": "admin", "/x/../admin": "admin", "/%61dmin": "admin", "//admin": "admin", "/x/%2e%2e/admin": "admin", "/./admin/": "admin", "/admin%2Fx": "admin",
	} {
		if _, all := w.raw("GET " + path + " HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"); !strings.Contains(all, "\r\n\r\n"+want) && !strings.Contains(all, "\n"+want+" GET") {
			t.Errorf("%s: got %s", path, all)
		}
	}
	for path, want := range map[string]string{"/f..": "400", "/f../../../etc/passwd": "400", "/f%2e%2e/%2e%2e/x": "404", "/fok": "200", "/f%2E%2E/x": "400", "/fa%0d%0aX:y": "200"} {
		status, all := w.raw("GET " + path + " HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(status, want) || strings.Contains(all, "GET /etc") || strings.Contains(all, "/..") || strings.Contains(all, "\nx: y") {
			t.Errorf("%s: got %s", path, all)
		}
	}
}

// TestLimits sends more, and slower, than is taken.
func TestLimits(t *testing.T) {
	w := start(t)
	w.back("10.0.0.1:8080", echo("web"))
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	w.back("10.0.0.2:8080", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			fmt.Fprint(rw, "half")
			_ = http.NewResponseController(rw).Flush()
		}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	w.service("web", "10.0.0.1")
	w.service("slow", "10.0.0.2")
	w.route("web", map[string]string{"proxy-body-size": "1k", "proxy-send-timeout": "1"}, "a.example / web")
	w.route("default", nil, "default.example / web")
	w.route("slow", map[string]string{"proxy-read-timeout": "1"}, "slow.example / slow")
	for _, test := range []struct {
		host string
		size int
		code int
	}{{"a.example", 1024, 200}, {"a.example", 1025, 413}, {"default.example", 1 << 20, 200}, {"default.example", 1<<20 + 1, 413}} {
		for _, chunked := range []bool{false, true} {
			var body io.Reader = bytes.NewReader(make([]byte, test.size))
			if chunked {
				body = io.MultiReader(body)
			}
			res, err := w.try("POST", "http://"+test.host+"/", body)
			if err != nil { // the connection was cut before all was sent
				if test.code == 200 {
					t.Errorf("%d bytes to %s: %v", test.size, test.host, err)
				}
				continue
			}
			res.Body.Close()
			if res.StatusCode != test.code {
				t.Errorf("%d bytes to %s, chunked %v: got %s", test.size, test.host, chunked, res.Status)
			}
		}
	}
	if res, _ := w.ask("GET", "http://slow.example/", nil); res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a backend that says nothing: got %s", res.Status)
	}
	res, err := w.try("GET", "http://slow.example/half", nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); err == nil || string(body) != "half" {
		t.Errorf("a backend that stops: got %q %v", body, err)
	}
	res.Body.Close()
	if status, _ := w.raw("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhalf"); !strings.HasPrefix(status, "408") {
		t.Errorf("a client that stops: got %s", status)
	}
}

// TestSlowHeaders has a client that never ends its header: it is cut off.
func TestSlowHeaders(t *testing.T) {
	w := start(t)
	w.route("web", nil, "a.example / web")
	begun := time.Now()
	if status, _ := w.raw("GET / HTTP/1.1\r\nHost: a.example\r\nX: "); strings.HasPrefix(status, "200") || time.Since(begun) < headerTime/2 {
		t.Errorf("got %q after %v", status, time.Since(begun))
	}
}

// TestPortsAreTheNodes has other programs and Services at the ports: the Ingress has no address as long as they have
// them, and says so.
func TestPortsAreTheNodes(t *testing.T) {
	w := start(t, func(c *Config) { c.HTTPSPort = 0 })
	w.mu.Lock()
	w.blocked[nodeAddress+":80"] = true
	w.mu.Unlock()
	if _, err := w.NetworkingV1().Ingresses(namespace).Create(t.Context(), newIngress("web", nil, "a.example / web"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.informed("web", "port 80 is that of another program")
	w.mu.Lock()
	w.blocked[nodeAddress+":80"] = false
	w.mu.Unlock()
	w.addressed("web", nodeAddress)

	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "lb"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := w.CoreV1().Services(namespace).Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CoreV1().Services(namespace).Patch(t.Context(), "lb", types.MergePatchType, []byte(`{"status":{"loadBalancer":{"ingress":[{"ip":"`+nodeAddress+`"}]}}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	w.informed("web", "port 80 is that of default/lb")
	w.addressed("web")
	if err := w.CoreV1().Services(namespace).Delete(t.Context(), "lb", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.addressed("web", nodeAddress)

	// Another's class, and after that nothing is left to serve: the port is closed.
	other := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: networkingv1.IngressClassSpec{Controller: "example.com/other"}}
	if _, err := w.NetworkingV1().IngressClasses().Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	where, err := w.real("x:80")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.NetworkingV1().Ingresses(namespace).Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"ingressClassName":"other"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.addressed("web")
	w.eventually("a closed port", func() error {
		conn, err := net.Dial("tcp", where)
		if err == nil {
			conn.Close()
			return fmt.Errorf("open")
		}
		return nil
	})
}

// TestClasses says which Ingresses are served.
func TestClasses(t *testing.T) {
	w := start(t)
	w.back("10.0.0.1:8080", echo("web"))
	w.service("web", "10.0.0.1")
	w.route("first", nil, "first.example / web")
	class := func(name, controller string, isDefault bool) {
		t.Helper()
		c := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: fmt.Sprint(isDefault)}}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
		if _, err := w.NetworkingV1().IngressClasses().Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create := func(name string, change func(*networkingv1.Ingress)) {
		t.Helper()
		ing := newIngress(name, nil, name+".example / web")
		change(ing)
		if _, err := w.NetworkingV1().Ingresses(namespace).Create(t.Context(), ing, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	class("nginx", ControllerName, false)
	class("other", "example.com/other", false)
	named := func(class string) func(*networkingv1.Ingress) {
		return func(i *networkingv1.Ingress) { i.Spec.IngressClassName = &class }
	}
	annotated := func(class string) func(*networkingv1.Ingress) {
		return func(i *networkingv1.Ingress) { i.Annotations[classAnnotation] = class }
	}
	create("byname", named("nginx"))
	create("byannotation", annotated("skiff"))
	create("foreign", named("other"))
	create("foreignannotation", annotated("other"))
	create("nowhere", named("none"))
	w.effective()
	for name, want := range map[string]int{"first": 200, "byname": 200, "byannotation": 200, "foreign": 404, "foreignannotation": 404, "nowhere": 404} {
		if res, _ := w.ask("GET", "http://"+name+".example/", nil); res.StatusCode != want {
			t.Errorf("%s: got %s", name, res.Status)
		}
	}
	// Another controller becomes the default: it has the Ingresses that name none. Of two defaults the younger counts, and
	// times have no fractions of a second.
	if _, err := w.NetworkingV1().IngressClasses().Patch(t.Context(), ClassName, types.MergePatchType, []byte(`{"metadata":{"annotations":{"`+networkingv1.AnnotationIsDefaultIngressClass+`":"false"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	class("theirs", "example.com/theirs", true)
	create("late", func(*networkingv1.Ingress) {})
	create("marker", annotated("skiff"))
	w.eventually("the last", func() error {
		if res, _ := w.ask("GET", "http://marker.example/", nil); res.StatusCode != 200 {
			return fmt.Errorf("got %s", res.Status)
		}
		return nil
	})
	if res, _ := w.ask("GET", "http://late.example/", nil); res.StatusCode != 404 {
		t.Errorf("an Ingress of the new default class: got %s", res.Status)
	}
}

// TestNothingIsForwardedToTheNodeItself dials as the product does.
func TestNothingIsForwardedToTheNodeItself(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, address := range []string{l.Addr().String(), "localhost" + l.Addr().String()[len("127.0.0.1"):], "169.254.169.254:80", "0.0.0.0:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "[fe80::1]:80"} {
		if err := onlyOthers("tcp", address, nil); err == nil && !strings.HasPrefix(address, "localhost") {
			t.Errorf("%s is dialed", address)
		}
	}
	dial := connect(nil)
	for _, address := range []string{l.Addr().String(), "localhost" + l.Addr().String()[len("127.0.0.1"):]} {
		if conn, err := dial(t.Context(), "tcp", address); err == nil {
			conn.Close()
			t.Errorf("%s takes a connection", address)
		}
	}
	if err := onlyOthers("tcp", "10.0.0.1:80", nil); err != nil {
		t.Error(err)
	}
}
