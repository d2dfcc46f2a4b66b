package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// rig is a manager whose exec probes do what the test says, and what came of it.
type rig struct {
	*Manager
	mu      sync.Mutex
	exit    map[string]int // exit code by command
	tries   []string       // command@seconds since the rig was made
	events  []string
	changes []Change
}

func newRig(t *testing.T) *rig {
	r := &rig{exit: map[string]int{}}
	begun := time.Now()
	r.Manager = New(Config{
		Exec: func(_ context.Context, _ string, cmd []string, _ time.Duration) ([]byte, int, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.tries = append(r.tries, fmt.Sprintf("%s@%d", cmd[0], int(time.Since(begun).Seconds())))
			return []byte("said " + cmd[0]), r.exit[cmd[0]], nil
		},
		Event: func(_ *v1.Pod, container, eventType, reason, message string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, strings.Join([]string{container, eventType, reason, message}, " "))
		},
	})
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case c := <-r.Changes():
				r.mu.Lock()
				r.changes = append(r.changes, c)
				r.mu.Unlock()
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() {
		r.Close()
		close(stop)
		<-done
	})
	return r
}

func (r *rig) set(command string, exit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exit[command] = exit
}

// counts are the counted tries by result.
func (r *rig) counts(t *testing.T) string {
	t.Helper()
	families, err := r.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, family := range families {
		for _, metric := range family.Metric {
			for _, label := range metric.Label {
				if label.GetName() == "result" {
					all = append(all, fmt.Sprintf("%s %.0f", label.GetValue(), metric.GetCounter().GetValue()))
				}
			}
		}
	}
	return strings.Join(all, ", ")
}

// seen is what came of it until now.
func (r *rig) seen() (tries, events []string, changes []Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.tries)), slices.Clone(r.events), slices.Clone(r.changes)
}

// at lets the fake clock run to this many seconds after begun.
func at(begun time.Time, seconds float64) {
	time.Sleep(time.Until(begun.Add(time.Duration(seconds * float64(time.Second)))))
	synctest.Wait()
}

func execProbe(command string, initial, period, failures int32) *v1.Probe {
	return &v1.Probe{
		ProbeHandler:        v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{command}}},
		InitialDelaySeconds: initial, PeriodSeconds: period, FailureThreshold: failures, SuccessThreshold: 1, TimeoutSeconds: 1,
	}
}

var pod = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid"}}

func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begun := newRig(t), time.Now()
		c := &v1.Container{Name: "c", ReadinessProbe: execProbe("ready", 5, 10, 2)}
		r.Start(pod, c, "id", "", begun)
		at(begun, 4.5)
		if r.Ready("id") || !r.Started("id") {
			t.Errorf("before the initial delay: got ready %v, started %v; want false, true", r.Ready("id"), r.Started("id"))
		}
		at(begun, 5.5)
		if !r.Ready("id") {
			t.Error("after the first success: got not ready")
		}
		r.set("ready", 1)
		at(begun, 15.5)
		if !r.Ready("id") {
			t.Error("after one failure of two: got not ready")
		}
		at(begun, 25.5)
		if r.Ready("id") {
			t.Error("after two failures: got ready")
		}
		if got, want := r.counts(t), "failed 2, successful 1"; got != want {
			t.Errorf("counts: got %s, want %s", got, want)
		}
		r.Stop("id")
		at(begun, 100)
		if got := r.counts(t); got != "" {
			t.Errorf("counts of a container that is gone: got %s", got)
		}
		tries, events, changes := r.seen()
		if want := []string{"ready@15", "ready@25", "ready@5"}; !slices.Equal(tries, want) {
			t.Errorf("tries: got %v, want %v", tries, want)
		}
		if want := []string{"c Warning Unhealthy Readiness probe failed: said ready", "c Warning Unhealthy Readiness probe failed: said ready"}; !slices.Equal(events, want) {
			t.Errorf("events: got %q, want %q", events, want)
		}
		if len(changes) != 2 || !changes[0].Success || changes[1].Success {
			t.Errorf("changes: got %+v, want to ready and back", changes)
		}
	})
}

func TestStartupHoldsTheOthersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begun := newRig(t), time.Now()
		c := &v1.Container{Name: "c",
			StartupProbe:   execProbe("start", 0, 5, 10),
			LivenessProbe:  execProbe("live", 0, 5, 1),
			ReadinessProbe: execProbe("ready", 0, 5, 1),
		}
		r.set("start", 1)
		r.Start(pod, c, "id", "", begun)
		at(begun, 11)
		if r.Started("id") || r.Ready("id") {
			t.Errorf("while starting: got started %v, ready %v", r.Started("id"), r.Ready("id"))
		}
		r.set("start", 0)
		at(begun, 16)
		if !r.Started("id") || !r.Ready("id") {
			t.Errorf("when started: got started %v, ready %v", r.Started("id"), r.Ready("id"))
		}
		tries, _, _ := r.seen()
		if want := []string{"live@15", "ready@15", "start@0", "start@10", "start@15", "start@5"}; !slices.Equal(tries, want) {
			t.Errorf("tries: got %v, want %v", tries, want)
		}
	})
}

func TestLivenessFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begun := newRig(t), time.Now()
		probe := execProbe("live", 0, 1, 3)
		probe.TerminationGracePeriodSeconds = ptr.To[int64](7)
		r.set("live", 1)
		r.Start(pod, &v1.Container{Name: "c", LivenessProbe: probe}, "id", "", begun)
		at(begun, 1.5)
		if _, _, changes := r.seen(); len(changes) != 0 {
			t.Errorf("below the threshold: got %+v", changes)
		}
		at(begun, 60)
		want := Change{PodUID: "uid", Container: "c", ContainerID: "id", Kind: Liveness, Message: "Liveness probe failed: said live", Grace: ptr.To[int64](7)}
		_, _, changes := r.seen()
		if len(changes) != 1 || changes[0].Message != want.Message || *changes[0].Grace != 7 || changes[0].Success {
			t.Errorf("got %+v, want once %+v", changes, want)
		}
	})
}

func TestTerminatingEndsLivenessOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begun := newRig(t), time.Now()
		c := &v1.Container{Name: "c", LivenessProbe: execProbe("live", 0, 5, 1), ReadinessProbe: execProbe("ready", 0, 5, 1)}
		r.Start(pod, c, "id", "", begun)
		at(begun, 1)
		r.Terminating("uid")
		r.set("ready", 1)
		at(begun, 6)
		if r.Ready("id") {
			t.Error("readiness did not go on")
		}
		tries, _, _ := r.seen()
		if want := []string{"live@0", "ready@0", "ready@5"}; !slices.Equal(tries, want) {
			t.Errorf("tries: got %v, want %v", tries, want)
		}
		r.StopPod("uid")
		if r.Started("id") {
			t.Error("a stopped container is still known")
		}
	})
}

func TestTakeOverKeepsReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begun := newRig(t), time.Now()
		was := pod.DeepCopy()
		was.Status.ContainerStatuses = []v1.ContainerStatus{{ContainerID: "containerd://id", Ready: true, Started: ptr.To(true)}}
		c := &v1.Container{Name: "c", StartupProbe: execProbe("start", 0, 5, 1), ReadinessProbe: execProbe("ready", 0, 5, 1)}
		r.set("ready", 1)
		r.Start(was, c, "id", "", begun.Add(-time.Hour))
		if !r.Ready("id") {
			t.Error("a container that was ready before the kubelet restarted is not")
		}
		at(begun, 6)
		if r.Ready("id") {
			t.Error("its readiness probe failed meanwhile, but it is ready")
		}
	})
}

func TestHTTP(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	var seen *http.Request
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(_ http.ResponseWriter, r *http.Request) { seen = r })
	mux.HandleFunc("/fail", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/near", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/fail", http.StatusFound) })
	mux.HandleFunc("/far", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://example.invalid/", http.StatusFound)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	secure := httptest.NewTLSServer(mux)
	t.Cleanup(secure.Close)
	ip, port := hostPort(t, server.URL)
	_, securePort := hostPort(t, secure.URL)
	here := &target{podIP: ip, container: &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}}

	for _, test := range []struct {
		name   string
		action v1.HTTPGetAction
		want   outcome
		text   string
	}{
		{"success", v1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt(port)}, success, ""},
		{"named port", v1.HTTPGetAction{Path: "ok", Port: intstr.FromString("web")}, success, ""},
		{"unknown port", v1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("nope")}, unknown, "invalid port number"},
		{"https without a known certificate", v1.HTTPGetAction{Scheme: "HTTPS", Path: "/ok", Port: intstr.FromInt(securePort)}, success, ""},
		{"status 500", v1.HTTPGetAction{Path: "/fail", Port: intstr.FromInt(port)}, failure, "HTTP probe failed with statuscode: 500"},
		{"status 404", v1.HTTPGetAction{Path: "/none", Port: intstr.FromInt(port)}, failure, "HTTP probe failed with statuscode: 404"},
		{"timeout", v1.HTTPGetAction{Path: "/slow", Port: intstr.FromInt(port)}, failure, "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"},
		{"redirect within the host", v1.HTTPGetAction{Path: "/near", Port: intstr.FromInt(port)}, failure, "HTTP probe failed with statuscode: 500"},
		{"redirect to another host", v1.HTTPGetAction{Path: "/far", Port: intstr.FromInt(port)}, warning, "Probe terminated redirects"},
		{"nobody listens", v1.HTTPGetAction{Path: "/", Port: intstr.FromInt(1)}, failure, "connect: connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, text := tryHTTP(t.Context(), here, &test.action, 100*time.Millisecond)
			if got != test.want || !strings.Contains(text, test.text) {
				t.Errorf("got %v %q, want %v with %q", got, text, test.want, test.text)
			}
		})
	}

	t.Run("headers", func(t *testing.T) {
		action := &v1.HTTPGetAction{Path: "/ok?x=1", Port: intstr.FromInt(port), HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "me.example"}, {Name: "X-A", Value: "b"}, {Name: "accept", Value: ""}}}
		if got, text := tryHTTP(t.Context(), here, action, time.Second); got != success {
			t.Fatalf("got %v %s", got, text)
		}
		_, accept := seen.Header["Accept"]
		if seen.Host != "me.example" || seen.Header.Get("X-A") != "b" || seen.UserAgent() != "kube-probe/1.36" || seen.URL.RawQuery != "x=1" || accept {
			t.Errorf("got host %s, query %s, headers %v", seen.Host, seen.URL.RawQuery, seen.Header)
		}
	})
}

func TestTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	here := &target{podIP: "127.0.0.1", container: &v1.Container{}}
	action := &v1.TCPSocketAction{Port: intstr.FromInt(listener.Addr().(*net.TCPAddr).Port)}
	if got, text := tryTCP(t.Context(), here, action, time.Second); got != success {
		t.Errorf("open port: got %v %s", got, text)
	}
	listener.Close()
	if got, text := tryTCP(t.Context(), here, action, time.Second); got != failure || !strings.Contains(text, "connection refused") {
		t.Errorf("closed port: got %v %s", got, text)
	}
}

func TestGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, healthServer := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(server, healthServer)
	healthServer.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	healthServer.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bareServer := grpc.NewServer()
	go bareServer.Serve(bare)
	t.Cleanup(bareServer.Stop)

	port := func(l net.Listener) int32 { return int32(l.Addr().(*net.TCPAddr).Port) }
	for _, test := range []struct {
		name   string
		action v1.GRPCAction
		want   outcome
		text   string
	}{
		{"serving", v1.GRPCAction{Port: port(listener)}, success, ""},
		{"not serving", v1.GRPCAction{Port: port(listener), Service: ptr.To("sick")}, failure, `service unhealthy (responded with "NOT_SERVING")`},
		{"unknown service", v1.GRPCAction{Port: port(listener), Service: ptr.To("what")}, failure, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
		{"no health service", v1.GRPCAction{Port: port(bare)}, failure, "this server does not implement the grpc health protocol (grpc.health.v1.Health)"},
		{"nobody listens", v1.GRPCAction{Port: 1}, failure, `timeout: failed to connect service "127.0.0.1:1" within 500ms: context deadline exceeded`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, text := tryGRPC(t.Context(), &target{podIP: "127.0.0.1"}, &test.action, 500*time.Millisecond)
			if got != test.want || !strings.Contains(text, test.text) {
				t.Errorf("got %v %q, want %v with %q", got, text, test.want, test.text)
			}
		})
	}
}

func TestExec(t *testing.T) {
	for _, test := range []struct {
		name string
		code int
		err  error
		want outcome
		text string
	}{
		{"exit 0", 0, nil, success, ""},
		{"exit 1", 1, nil, failure, "output of sh -c v"},
		{"timeout", 0, status.Error(codes.DeadlineExceeded, "too late"), failure, `command timed out: "sh -c v" timed out after 1s`},
		{"runtime trouble", 0, status.Error(codes.Internal, "broken"), unknown, "rpc error: code = Internal desc = broken"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := New(Config{Exec: func(_ context.Context, _ string, cmd []string, _ time.Duration) ([]byte, int, error) {
				return []byte("output of " + strings.Join(cmd, " ")), test.code, test.err
			}})
			defer m.Close()
			here := &target{container: &v1.Container{Env: []v1.EnvVar{{Name: "K", Value: "v"}}}}
			got, text := m.tryExec(t.Context(), here, &v1.ExecAction{Command: []string{"sh", "-c", "$(K)"}}, time.Second)
			if got != test.want || text != test.text {
				t.Errorf("got %v %q, want %v %q", got, text, test.want, test.text)
			}
		})
	}
}

func hostPort(t *testing.T, raw string) (string, int) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return u.Hostname(), port
}
