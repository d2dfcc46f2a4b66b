package connect

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// objects is a cluster that can be read.
type objects struct {
	resource.Cluster
	all map[string]resource.Object // kind/namespace/name
}

func (o *objects) Resource(group, plural string) *resource.Resource {
	return &resource.Resource{Group: group, Plural: plural}
}

func (o *objects) Get(_ context.Context, r *resource.Resource, namespace, name string) (resource.Object, error) {
	obj, ok := o.all[r.Plural+"/"+namespace+"/"+name]
	if !ok {
		return nil, apierrors.NewNotFound(r.GR(), name)
	}
	return obj, nil
}

func (o *objects) List(_ context.Context, r *resource.Resource, namespace string) ([]resource.Object, error) {
	var list []resource.Object
	for key, obj := range o.all {
		if strings.HasPrefix(key, r.Plural+"/"+namespace+"/") {
			list = append(list, obj)
		}
	}
	return list, nil
}

func (o *objects) put(plural string, obj resource.Object) {
	if o.all == nil {
		o.all = make(map[string]resource.Object)
	}
	o.all[plural+"/"+obj.GetNamespace()+"/"+obj.GetName()] = obj
}

// shell is what the kubelet runs: it says what it was given.
type shell struct{}

func (shell) ExecInContainer(_ context.Context, _, _, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan criremote.TerminalSize, _ time.Duration) error {
	switch cmd[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "drain":
		return drain(in)
	case "count":
		return count(in, out)
	case "size":
		size := <-sizes
		fmt.Fprintf(out, "%dx%d tty=%v", size.Width, size.Height, tty)
		return nil
	case "fail":
		fmt.Fprint(errOut, "no luck")
		return exec.CodeExitError{Err: errors.New("exit status 3"), Code: 3}
	}
	fmt.Fprintf(out, "%s in %s", strings.Join(cmd, " "), container)
	return nil
}

// echo answers on forwarded ports.
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

// kubelet serves what a kubelet serves.
func kubelet() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/default/web/{container}", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		options := &criremote.Options{Stdin: q.Get("input") == "1", Stdout: q.Get("output") == "1", Stderr: q.Get("error") == "1", TTY: q.Get("tty") == "1"}
		criremote.ServeExec(w, r, shell{}, "web", "", r.PathValue("container"), q["command"], options, time.Minute, time.Minute,
			[]string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"})
	})
	mux.HandleFunc("/portForward/default/web", func(w http.ResponseWriter, r *http.Request) {
		criportforward.ServePortForward(w, r, echo{}, "web", "", nil, time.Minute, time.Minute, []string{"portforward.k8s.io"})
	})
	mux.HandleFunc("/containerLogs/default/web/{container}", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("previous") == "true" {
			http.Error(w, "previous terminated container not found", http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%s %s\n", r.PathValue("container"), r.URL.RawQuery)
		if r.URL.Query().Get("sinceSeconds") == "99" {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	return mux
}

// world is a server with a handler, a kubelet and a pod behind it.
type world struct {
	api     *httptest.Server
	objects *objects
	config  *rest.Config
}

func newWorld(t *testing.T, pod http.Handler) *world {
	t.Helper()
	return newWorldWith(t, httptest.NewTLSServer(kubelet()), pod)
}

// newWorldWith is a world with another kubelet.
func newWorldWith(t *testing.T, node *httptest.Server, pod http.Handler) *world {
	t.Helper()
	web := httptest.NewServer(pod)
	t.Cleanup(node.Close)
	t.Cleanup(web.Close)
	routes := map[string]string{"192.0.2.1:10250": node.Listener.Addr().String(), "192.0.2.9:80": web.Listener.Addr().String()}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		to, ok := routes[address]
		if !ok {
			return nil, fmt.Errorf("no route to %s", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}
	o := &objects{}
	o.put("nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}})
	o.put("pods", webPod())
	h := New(Config{Dial: dial, Kubelet: &tls.Config{InsecureSkipVerify: true}, WriteError: writeStatus})
	h.Use(o)
	api := httptest.NewServer(route(h))
	t.Cleanup(api.Close)
	return &world{api: api, objects: o, config: &rest.Config{Host: api.URL}}
}

func webPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{
			{Name: "main", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}},
		Status: corev1.PodStatus{PodIP: "192.0.2.9", PodIPs: []corev1.PodIP{{IP: "192.0.2.9"}}},
	}
}

func writeStatus(w http.ResponseWriter, _ *http.Request, err error) {
	status := apierrors.NewInternalError(err).Status()
	if s := apierrors.APIStatus(nil); errors.As(err, &s) {
		status = s.Status()
	}
	status.Kind, status.APIVersion = "Status", "v1"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}

// route finds the target of /api/v1/namespaces/NS/KIND/NAME/SUB/PATH and of
// nodes, which have no namespace.
func route(h *Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/", 2)
		namespace := ""
		if parts[0] == "namespaces" {
			parts = strings.SplitN(parts[1], "/", 2)
			namespace = parts[0]
		} else {
			parts[1] = strings.Join(parts, "/")
		}
		rest := strings.SplitN(parts[1], "/", 4)
		target := Target{Resource: &resource.Resource{Version: "v1", Plural: rest[0]}, Sub: &resource.Sub{Name: rest[2]}, Namespace: namespace, Name: rest[1]}
		if len(rest) == 4 {
			target.Path = strings.TrimSuffix(rest[3], "/")
		}
		if err := h.ServeConnect(w, r, target); err != nil {
			writeStatus(w, r, err)
		}
	})
}

func (w *world) url(path string, query url.Values) *url.URL {
	u, _ := url.Parse(w.api.URL + "/api/v1/namespaces/default/" + path)
	u.RawQuery = query.Encode()
	return u
}

// executors are the ways clients open sessions.
var executors = map[string]func(*rest.Config, *url.URL) (remotecommand.Executor, error){
	"websocket": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(c, "GET", u.String())
	},
	"spdy": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(c, "POST", u)
	},
}

func TestExec(t *testing.T) {
	for name, executor := range executors {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, http.NotFoundHandler())
			run := func(options remotecommand.StreamOptions, command ...string) error {
				query := url.Values{"command": command, "stdin": {strconv.FormatBool(options.Stdin != nil)}, "stdout": {"true"},
					"stderr": {strconv.FormatBool(options.Stderr != nil)}, "tty": {strconv.FormatBool(options.Tty)}}
				e, err := executor(w.config, w.url("pods/web/exec", query))
				if err != nil {
					t.Fatal(err)
				}
				return e.StreamWithContext(t.Context(), options)
			}
			var out, errOut bytes.Buffer
			if err := run(remotecommand.StreamOptions{Stdout: &out}, "hello", "there"); err != nil || out.String() != "hello there in main" {
				t.Errorf("command: got %q, %v, want %q", out.String(), err, "hello there in main")
			}
			out.Reset()
			typed := strings.Repeat("0123456789", 20000)
			if err := run(remotecommand.StreamOptions{Stdin: strings.NewReader(typed), Stdout: &out}, "cat"); err != nil || out.String() != typed {
				t.Errorf("stdin to stdout: got %d bytes, %v, want %d", out.Len(), err, len(typed))
			}
			out.Reset()
			err := run(remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}, "fail")
			var exit exec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 3 || errOut.String() != "no luck" {
				t.Errorf("failing command: got %v and %q, want exit code 3 and %q", err, errOut.String(), "no luck")
			}
			out.Reset()
			err = run(remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out, Tty: true, TerminalSizeQueue: oneSize()}, "size")
			if err != nil || out.String() != "80x24 tty=true" {
				t.Errorf("terminal: got %q, %v, want %q", out.String(), err, "80x24 tty=true")
			}
		})
	}
}

type sizesOf chan remotecommand.TerminalSize

func (s sizesOf) Next() *remotecommand.TerminalSize {
	if size, ok := <-s; ok {
		return &size
	}
	return nil
}

func oneSize() remotecommand.TerminalSizeQueue {
	s := make(sizesOf, 1)
	s <- remotecommand.TerminalSize{Width: 80, Height: 24}
	close(s)
	return s
}

func TestExecOldWebSocket(t *testing.T) {
	w := newWorld(t, http.NotFoundHandler())
	u := w.url("pods/web/exec", url.Values{"command": {"hi"}, "stdout": {"1"}, "stderr": {"1"}})
	u.Scheme = "ws"
	conn, _, err := websocket.Dial(t.Context(), u.String(), &websocket.DialOptions{
		Subprotocols: []string{"channel.k8s.io"}, HTTPHeader: http.Header{"Origin": {"http://elsewhere"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	var got []byte
	for {
		_, message, err := conn.Read(t.Context())
		if err != nil {
			break
		}
		if len(message) > 0 && message[0] == channelOut {
			got = append(got, message[1:]...)
		}
	}
	if string(got) != "hi in main" {
		t.Errorf("got %q, want %q", got, "hi in main")
	}
}

func TestPortForward(t *testing.T) {
	w := newWorld(t, http.NotFoundHandler())
	u := w.url("pods/web/portforward", nil)
	roundTripper, upgrader, err := spdy.RoundTripperFor(w.config)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(u, w.config)
	if err != nil {
		t.Fatal(err)
	}
	direct := spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, u)
	forward := func(name string, f func(stop, ready chan struct{}) (*portforward.PortForwarder, error)) {
		t.Run(name, func(t *testing.T) {
			stop, ready := make(chan struct{}), make(chan struct{})
			fw, err := f(stop, ready)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- fw.ForwardPorts() }()
			<-ready
			ports, err := fw.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				conn, err := net.Dial("tcp", net.JoinHostPort("localhost", strconv.Itoa(int(ports[0].Local))))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(conn, "hello")
				got, _ := io.ReadAll(conn)
				conn.Close()
				if string(got) != "hello from 8080" {
					t.Errorf("got %q, want %q", got, "hello from 8080")
				}
			}
			close(stop)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	forward("websocket", func(stop, ready chan struct{}) (*portforward.PortForwarder, error) {
		return portforward.New(tunnel, []string{":8080"}, stop, ready, io.Discard, io.Discard)
	})
	forward("spdy", func(stop, ready chan struct{}) (*portforward.PortForwarder, error) {
		return portforward.New(direct, []string{":8080"}, stop, ready, io.Discard, io.Discard)
	})
}

func get(t *testing.T, u *url.URL) (int, http.Header, string) {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(body)
}

func TestLog(t *testing.T) {
	w := newWorld(t, http.NotFoundHandler())
	two := webPod()
	two.Name = "two"
	two.Spec.InitContainers = []corev1.Container{{Name: "init"}}
	two.Spec.Containers = append(two.Spec.Containers, corev1.Container{Name: "side"})
	w.objects.put("pods", two)
	waiting := webPod()
	waiting.Name, waiting.Spec.NodeName = "waiting", ""
	w.objects.put("pods", waiting)
	for _, c := range []struct {
		name, pod string
		query     url.Values
		code      int
		body      string
	}{
		{"all", "web", nil, 200, "main \n"},
		{"options", "web", url.Values{"follow": {"true"}, "tailLines": {"5"}, "timestamps": {"false"}}, 200, "main follow=true&tailLines=5\n"},
		{"kubelet refuses", "web", url.Values{"previous": {"true"}}, 400, `"previous terminated container not found\n"`},
		{"not scheduled", "waiting", nil, 204, ""},
		{"several containers", "two", nil, 400, `"a container name must be specified for pod two, choose one of: [init main side]"`},
		{"no such container", "web", url.Values{"container": {"x"}}, 400, `"container x is not valid for pod web"`},
		{"no such pod", "nope", nil, 404, `pods \"nope\" not found`},
		{"negative", "web", url.Values{"tailLines": {"-1"}}, 422, `tailLines: Invalid value: -1: must be greater than or equal to 0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, body := get(t, w.url("pods/"+c.pod+"/log", c.query))
			if code != c.code || !strings.Contains(body, c.body) {
				t.Errorf("got %d %q, want %d with %q", code, body, c.code, c.body)
			}
		})
	}
}

func TestNoHost(t *testing.T) {
	w := newWorld(t, http.NotFoundHandler())
	waiting := webPod()
	waiting.Spec.NodeName = ""
	w.objects.put("pods", waiting)
	code, _, body := get(t, w.url("pods/web/exec", url.Values{"command": {"x"}}))
	if want := "pod web does not have a host assigned"; code != 400 || !strings.Contains(body, want) {
		t.Errorf("got %d %q, want 400 with %q", code, body, want)
	}
}

func TestProxy(t *testing.T) {
	pod := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, `<a href="/rewriteme">x</a> <a href="rel">y</a> <a href="http://other/z">z</a>`)
		case "/moved":
			http.Redirect(w, r, "/there/?a=b", http.StatusFound)
		default:
			fmt.Fprintf(w, "%s %s %s auth=%q uri=%s", r.Method, r.URL, r.Host, r.Header.Get("Authorization"), r.Header.Get("X-Forwarded-Uri"))
		}
	})
	w := newWorld(t, pod)
	w.objects.put("services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 8000}}}})
	w.objects.put("endpointslices", &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc-1", Labels: map[string]string{discoveryv1.LabelServiceName: "svc"}},
		Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](80)}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"192.0.2.66"}},
			{Addresses: []string{"192.0.2.9"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"}},
		},
	})
	base := "/api/v1/namespaces/default/"
	host := strings.TrimPrefix(w.api.URL, "http://")
	for _, c := range []struct {
		name, path string
		code       int
		body       string
		location   string
	}{
		{"pod", "pods/web/proxy/some/path?q=1", 200, "GET /some/path?q=1 " + host + ` auth="" uri=` + base + "pods/web/proxy/some/path", ""},
		{"port and slash", "pods/web:80/proxy/dir/", 200, "GET /dir/ " + host + ` auth="" uri=` + base + "pods/web:80/proxy/dir/", ""},
		{"no slash", "pods/http:web:80/proxy?method=GET", 301, "", base + "pods/http:web:80/proxy/?method=GET"},
		{"links", "pods/web/proxy/page", 200, `<a href="` + base + `pods/web/proxy/rewriteme">x</a> <a href="rel">y</a> <a href="http://other/z">z</a>`, ""},
		{"redirect", "pods/web/proxy/moved", 302, "", base + "pods/web/proxy/there/?a=b"},
		{"service by number", "services/svc:8000/proxy/a", 200, "GET /a ", ""},
		{"service by name", "services/http:svc:http/proxy/a", 200, "GET /a ", ""},
		{"service without port", "services/svc/proxy/a", 503, `no endpoints available for service \"svc\"`, ""},
		{"unknown port", "services/svc:99/proxy/a", 503, `no service port 99 found for service \"svc\"`, ""},
		{"unreachable", "pods/web:81/proxy/a", 503, "error trying to reach service: no route to 192.0.2.9:81", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, _ := url.Parse(w.api.URL + base + c.path)
			code, header, body := get(t, u)
			if code != c.code || !strings.Contains(body, c.body) || header.Get("Location") != c.location {
				t.Errorf("got %d %q at %q,\nwant %d with %q at %q", code, body, header.Get("Location"), c.code, c.body, c.location)
			}
		})
	}
	t.Run("kubelet", func(t *testing.T) {
		u, _ := url.Parse(w.api.URL + "/api/v1/nodes/n1/proxy/containerLogs/default/web/main?x=y")
		code, _, body := get(t, u)
		if code != 200 || body != "main x=y\n" {
			t.Errorf("got %d %q, want 200 %q", code, body, "main x=y\n")
		}
	})
	t.Run("method and body", func(t *testing.T) {
		req, _ := http.NewRequest(http.MethodPut, w.api.URL+base+"pods/web/proxy", strings.NewReader("x"))
		req.Header.Set("Authorization", "Bearer secret")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if want := `PUT / ` + host + ` auth=""`; !strings.HasPrefix(string(body), want) {
			t.Errorf("got %q, want %q…", body, want)
		}
	})
}
