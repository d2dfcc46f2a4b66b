package apiserver_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/maintain"
)

// strangers have tokens and no roles.
func strangers(o *apiserver.Options) {
	o.StaticTokens = map[string]user.Info{
		"stranger": &user.DefaultInfo{Name: "stranger"}, "other": &user.DefaultInfo{Name: "other"},
	}
}

// hasty is a server whose requests end soon.
func hasty(o *apiserver.Options) {
	strangers(o)
	o.Limits = apiserver.Limits{RequestTimeout: time.Second, AnswerTimeout: 100 * time.Millisecond}
}

// connect opens a connection that is closed with the test. Nothing waits for it
// longer than half a minute.
func connect(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// announce begins a review by the bearer of a token whose body does not come.
func announce(conn net.Conn, token string) {
	fmt.Fprintf(conn, "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", token)
}

// first is the code of the first answer: 100 if the server waits for the body.
func first(t *testing.T, conn net.Conn) int {
	t.Helper()
	line := make([]byte, len("HTTP/1.1 100"))
	if _, err := io.ReadFull(conn, line); err != nil {
		t.Fatal(err)
	}
	code, err := strconv.Atoi(string(line[9:]))
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// TestBodiesThatNeverCome takes all seats that strangers can take.
func TestBodiesThatNeverCome(t *testing.T) {
	s := apiservertest.Start(t, strangers)
	node := clientset(t, apiservertest.Config(s, "system:node:n1", user.NodesGroup))
	lease, err := node.CoordinationV1().Leases("kube-node-lease").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, s)
	attack := func(token string, wait int) {
		for range 100 {
			announce(connect(t, address), token)
		}
		eventually(t, token+" has taken all there is", func() bool { return waiting(t, s) >= wait })
	}
	attack("stranger", 70)
	conn := connect(t, address)
	if announce(conn, "other"); first(t, conn) != http.StatusContinue {
		t.Error("one stranger keeps another one out")
	}
	attack("other", 140)

	if _, err := node.CoordinationV1().Leases("kube-node-lease").Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Errorf("lease of a node: %v", err)
	}
	manager := clientset(t, apiservertest.Config(s, user.KubeControllerManager, user.AllAuthenticated))
	if _, err := manager.CoreV1().Events("default").Create(t.Context(), &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, InvolvedObject: corev1.ObjectReference{Namespace: "default"},
	}, metav1.CreateOptions{}); err != nil {
		t.Errorf("write of a controller: %v", err)
	}
	if _, err := manager.CoordinationV1().Leases("kube-system").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "kube-controller-manager"}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("lease of the controllers: %v", err)
	}
	for path, want := range map[string]int{"/readyz": 200, "/api/v1/nodes?timeout=2s": 429, "/api?timeout=2s": 429} {
		if got, _ := ask(t, address, "stranger", path, nil); got != want {
			t.Errorf("GET %s while all slots are taken = %d, want %d", path, got, want)
		}
	}
}

// waiting is how many requests of ordinary users wait for a seat.
func waiting(t *testing.T, s *apiserver.Server) int {
	t.Helper()
	return gauge(t, s, "apiserver_flowcontrol_current_inqueue_requests", `priority_level="global-default"`)
}

// ask sends a GET and returns the code and the whole answer.
func ask(t *testing.T, address, token, path string, header http.Header) (int, []byte) {
	t.Helper()
	conn := connect(t, address)
	var request bytes.Buffer
	fmt.Fprintf(&request, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", path)
	if token != "" {
		fmt.Fprintf(&request, "Authorization: Bearer %s\r\n", token)
	}
	header.Write(&request)
	request.WriteString("\r\n")
	if _, err := conn.Write(request.Bytes()); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode, answer
}

// TestBodyThatIsLate: a body has the time of its request, and not that of the answer besides, by which a connection ends.
func TestBodyThatIsLate(t *testing.T) {
	address := serve(t, apiservertest.Start(t, func(o *apiserver.Options) {
		hasty(o)
		o.Limits.AnswerTimeout = time.Minute
	}))
	conn := connect(t, address)
	announce(conn, "stranger")
	if code := first(t, conn); code != http.StatusContinue {
		t.Fatalf("code = %d, want 100", code)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"HTTP/1.1 504 Gateway Timeout\r\n", `"reason":"Timeout"`, `"message":"Timeout: request did not complete within the allotted timeout"`} {
		if !strings.Contains(string(answer), want) {
			t.Errorf("answer = %s, want %s in it", answer, want)
		}
	}
}

// gauge is the sum of a metric over what has all the labels.
func gauge(t *testing.T, s *apiserver.Server, name string, labels ...string) int {
	t.Helper()
	text, err := clientset(t, apiservertest.Config(s, "admin")).RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, m := range regexp.MustCompile(`(?m)^`+name+`{(.*)} (\d+)$`).FindAllStringSubmatch(string(text), -1) {
		value, _ := strconv.Atoi(m[2])
		for _, label := range labels {
			if !strings.Contains(m[1], label) {
				value = 0
			}
		}
		sum += value
	}
	return sum
}

// eventually waits for a condition that must come.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// reader is a client that sends requests and does not read answers.
type reader struct {
	name  string
	begin func(t *testing.T, tcp, tls, path string, count int)
}

var lazyReaders = []reader{
	{"pipelined", func(t *testing.T, address, _, path string, count int) {
		for range count {
			conn := connect(t, address)
			conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\n\r\n", path)
			if _, err := io.WriteString(conn, strings.Repeat(request, 20)); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{"HTTP/2 without a window", func(t *testing.T, _, address, path string, count int) {
		open(t, address, path, count, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	}},
	// The connection itself is stuck, so that no stream can be ended.
	{"HTTP/2 unread", func(t *testing.T, _, address, path string, count int) {
		open(t, address, path, count, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	}},
}

// open sends requests over one connection of HTTP/2 and reads nothing.
func open(t *testing.T, address, path string, count int, setting http2.Setting) {
	t.Helper()
	raw := connect(t, address)
	raw.(*net.TCPConn).SetReadBuffer(4 << 10)
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, conn)
	framer.WriteSettings(setting)
	framer.WriteWindowUpdate(0, 1<<30)
	for i := range count {
		var header bytes.Buffer
		encoder := hpack.NewEncoder(&header)
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", path}, {"authorization", "Bearer admin-token"}} {
			encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: header.Bytes(), EndHeaders: true, EndStream: true})
	}
	if _, err := conn.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// both serves s with and without TLS.
func both(t *testing.T, changes ...func(*apiserver.Options)) (s *apiserver.Server, tcp, tls string) {
	s, config, _ := listen(t, append([]func(*apiserver.Options){func(o *apiserver.Options) { hasty(o); o.StaticTokens = adminToken }}, changes...)...)
	return s, serve(t, s), strings.TrimPrefix(config.Host, "https://")
}

// TestAnswersThatNobodyReads fills the buffers between server and client.
func TestAnswersThatNobodyReads(t *testing.T) {
	const count = 10
	for _, r := range lazyReaders {
		t.Run(r.name, func(t *testing.T) {
			s, tcp, tls := both(t)
			// The GET of metrics is one itself.
			running := func() int {
				return gauge(t, s, "apiserver_current_inflight_requests", `request_kind="readOnly"`) - 1
			}
			r.begin(t, tcp, tls, "/openapi/v2", count)
			eventually(t, "answers that wait", func() bool { return running() > 0 })
			eventually(t, "the end of answers that wait", func() bool { return running() == 0 })
		})
	}
	t.Run("in process", func(t *testing.T) {
		s := apiservertest.Start(t, hasty)
		body, err := clientset(t, apiservertest.Config(s, "lazy")).RESTClient().Get().AbsPath("/openapi/v2").Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		eventually(t, "the end of answers that wait", func() bool {
			return gauge(t, s, "apiserver_current_inflight_requests", `request_kind="readOnly"`) == 1
		})
	})
}

// TestWatchesThatNobodyReads has a watch beside them in which nothing happens.
func TestWatchesThatNobodyReads(t *testing.T) {
	const count = 3
	for _, r := range lazyReaders {
		t.Run(r.name, func(t *testing.T) {
			s, tcp, tls := both(t)
			api := client(t, apiservertest.Config(s, "admin"), inJSON).CoreV1()
			running := func() int { return gauge(t, s, "apiserver_longrunning_requests", `verb="WATCH"`) }
			before := running()
			idle := connect(t, tcp)
			fmt.Fprint(idle, "GET /api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-token\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(idle), nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("watch = %v, %v", resp, err)
			}
			r.begin(t, tcp, tls, "/api/v1/namespaces/kube-system/configmaps?watch=1&resourceVersion=0", count)
			eventually(t, "watches that begin", func() bool { return running() == before+1+count })
			big := configMap("big")
			if _, err := api.ConfigMaps("kube-system").Create(t.Context(), big, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the end of watches that nobody reads", func() bool {
				big.Data = map[string]string{"x": strings.Repeat("x", 900_000), "at": fmt.Sprint(time.Now())}
				if _, err := api.ConfigMaps("kube-system").Update(t.Context(), big, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				return running() == before+1
			})
			if _, err := api.ConfigMaps("default").Create(t.Context(), configMap("late"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.Contains(line, `"late"`) {
				t.Errorf("event of the idle watch = %s, %v", line, err)
			}
		})
	}
}

// TestBackupsThatNobodyReads takes the one place there is for backups.
func TestBackupsThatNobodyReads(t *testing.T) {
	for _, r := range lazyReaders {
		t.Run(r.name, func(t *testing.T) {
			s, tcp, tls := both(t, func(o *apiserver.Options) { o.Limits.AnswerTimeout = 3 * time.Second })
			api := client(t, apiservertest.Config(s, "admin"), inJSON).CoreV1()
			for i := range 10 {
				noise := make([]byte, 900_000)
				rand.Read(noise)
				c := configMap(fmt.Sprint("noise", i))
				c.BinaryData = map[string][]byte{"noise": noise}
				if _, err := api.ConfigMaps("default").Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			code := func() int {
				code, _ := ask(t, tcp, "admin-token", maintain.PathBackup, nil)
				return code
			}
			// Who asks may have the place when the other one comes, which then has to come again.
			eventually(t, "a backup that waits", func() bool {
				r.begin(t, tcp, tls, maintain.PathBackup, 1)
				time.Sleep(50 * time.Millisecond)
				return code() == http.StatusTooManyRequests
			})
			eventually(t, "the end of a backup that nobody reads", func() bool { return code() == http.StatusOK })
		})
	}
}

// TestAnswersRepeatLittle asks at length for what is refused.
func TestAnswersRepeatLittle(t *testing.T) {
	address := serve(t, apiservertest.Start(t, strangers))
	long := strings.Repeat("a", 900_000)
	for name, c := range map[string]struct {
		token, path string
		header      http.Header
		want        int
	}{
		"path of nobody":      {"", "/" + long, nil, 414},
		"path of somebody":    {"stranger", "/api/v1/namespaces/" + long, nil, 414},
		"shorter path":        {"stranger", "/" + long[:30_000], nil, 403},
		"name":                {"stranger", "/api/v1/nodes/" + long[:30_000], nil, 403},
		"unknown resource":    {"stranger", "/apis/" + long[:10_000] + "/v1/" + long[:10_000], nil, 403},
		"timeout":             {"", "/version?timeout=" + long, nil, 400},
		"user to act as":      {"stranger", "/version", http.Header{"Impersonate-User": {long}}, 403},
		"group without user":  {"stranger", "/version", http.Header{"Impersonate-Group": {long}}, 400},
		"id":                  {"", "/version", http.Header{"Audit-Id": {long}}, 200},
		"token":               {long, "/version", nil, 401},
		"old path, no object": {"", "/api/v1/watch?" + long, nil, 500},
	} {
		t.Run(name, func(t *testing.T) {
			code, answer := ask(t, address, c.token, c.path, c.header)
			if code != c.want || len(answer) > 80_000 {
				t.Errorf("code = %d with %d bytes, want %d with few", code, len(answer), c.want)
			}
		})
	}
}

// TestMetricsHaveNoInventedLabels asks for what is not there.
func TestMetricsHaveNoInventedLabels(t *testing.T) {
	s := apiservertest.Start(t, nil)
	api := clientset(t, apiservertest.Config(s, "admin")).RESTClient()
	for _, path := range []string{"/invented", "/api/v1/invented", "/apis/invented/v1/pods", "/apis/apps/invented/deployments", "/api/v1/nodes/n/invented", "/api/v1/namespaces/default/pods"} {
		for _, verb := range []string{"GET", "POST", "INVENTED"} {
			api.Verb(verb).AbsPath(path).DoRaw(t.Context()) // an error, mostly
		}
	}
	text, err := api.Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(bytes.ToLower(text), []byte("invented")); i >= 0 {
		t.Errorf("metrics have %s", text[max(0, i-200):i+50])
	}
	if !bytes.Contains(text, []byte(`resource="pods"`)) {
		t.Error("metrics lack what is served")
	}
}
