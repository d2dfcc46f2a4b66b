// Package server serves the kubelet's HTTPS API: logs, exec, attach, port forwarding, pods, statistics, and volumes
// that are directories of the node.
//
// The routes are a table in routes. Every request passes the guard (auth.go), which asks the API server
// who it is and whether they may.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	panics "github.com/skiff-k8s/skiff/guard" // guard is the one at the door here
	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// Host is what the server asks the kubelet.
type Host interface {
	// Pods are the pods of the node with their newest status.
	Pods() []*v1.Pod
	// RunningPods are the pods the runtime has, with their running containers in the spec.
	RunningPods(ctx context.Context) ([]*v1.Pod, error)
	// Container returns the runtime's id of a running container of the pod (any kind), "" when there is none.
	Container(ctx context.Context, uid types.UID, container string) (id string, err error)
	// Sandbox returns the runtime's id of the pod's ready sandbox, "" when there is none.
	Sandbox(ctx context.Context, uid types.UID) (id string, err error)
	// Log returns the log file of a container by the id in the pod's status (without "containerd://") and
	// whether the container still runs. A container the runtime forgot is an error.
	Log(ctx context.Context, containerID string) (path string, running bool, err error)
}

// Runtime prepares streams; runtime.Client does it.
type Runtime interface {
	Exec(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (output []byte, exitCode int, err error)
	ExecURL(ctx context.Context, r *cri.ExecRequest) (string, error)
	AttachURL(ctx context.Context, r *cri.AttachRequest) (string, error)
	PortForwardURL(ctx context.Context, r *cri.PortForwardRequest) (string, error)
}

// Stats measures; stats.Provider does it.
type Stats interface {
	Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error)
	Resources() prometheus.Gatherer
}

// Config is what a Server needs.
type Config struct {
	NodeName string
	Listener net.Listener // plain TCP, usually port 10250
	// Certificate is the serving certificate, asked for with each connection.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	ClientCA    *x509.CertPool       // issuer of client certificates
	Client      kubernetes.Interface // for TokenReview and SubjectAccessReview
	Host        Host
	Runtime     Runtime
	Stats       Stats
	Metrics     prometheus.Gatherer // for /metrics
	Probes      prometheus.Gatherer // for /metrics/probes; nil serves none
	Healthy     func() error        // for /healthz; nil is always
	Configz     any                 // for /configz, under "kubeletconfig"
	LogDir      string              // what /logs/ serves; "" serves nothing
	Volumes     Volumes             // what /localVolumes/ makes and wipes
}

// Server is the kubelet's HTTPS server.
type Server struct {
	cfg   Config
	guard *guard
}

// New returns a Server.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, guard: &guard{node: cfg.NodeName, client: cfg.Client, roots: cfg.ClientCA}}
}

// Handler is the API behind authentication and authorization.
func (s *Server) Handler() http.Handler { return s.guard.wrap(s.routes()) }

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, route := range []struct {
		pattern string
		handler http.HandlerFunc
	}{
		{"GET /healthz", s.healthz},
		{"GET /healthz/{check}", s.healthz},
		{"GET /pods", s.pods},
		{"GET /runningpods/{$}", s.runningPods},
		{"GET /configz", s.configz},
		{"GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs},
		{"GET /exec/{namespace}/{pod}/{container}", s.exec},
		{"POST /exec/{namespace}/{pod}/{container}", s.exec},
		{"GET /exec/{namespace}/{pod}/{uid}/{container}", s.exec},
		{"POST /exec/{namespace}/{pod}/{uid}/{container}", s.exec},
		{"GET /attach/{namespace}/{pod}/{container}", s.attach},
		{"POST /attach/{namespace}/{pod}/{container}", s.attach},
		{"GET /attach/{namespace}/{pod}/{uid}/{container}", s.attach},
		{"POST /attach/{namespace}/{pod}/{uid}/{container}", s.attach},
		{"GET /portForward/{namespace}/{pod}", s.portForward},
		{"POST /portForward/{namespace}/{pod}", s.portForward},
		{"GET /portForward/{namespace}/{pod}/{uid}", s.portForward},
		{"POST /portForward/{namespace}/{pod}/{uid}", s.portForward},
		{"POST /run/{namespace}/{pod}/{container}", s.run},
		{"POST /run/{namespace}/{pod}/{uid}/{container}", s.run},
		{"GET /stats/summary", s.summary},
		{"GET /metrics", promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{}).ServeHTTP},
		{"GET /metrics/resource", func(w http.ResponseWriter, r *http.Request) {
			// What is wrong with one pod leaves the others their figures.
			promhttp.HandlerFor(s.cfg.Stats.Resources(), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
		}},
		{"GET /logs/", s.logs},
		{"PUT /localVolumes/{name}", s.makeVolume},
		{"DELETE /localVolumes/{name}", s.wipeVolume},
	} {
		mux.HandleFunc(route.pattern, route.handler)
	}
	if s.cfg.Probes != nil {
		mux.Handle("GET /metrics/probes", promhttp.HandlerFor(s.cfg.Probes, promhttp.HandlerOpts{}))
	}
	return mux
}

// Run serves until ctx ends, then closes all connections, also of streams, and waits for their handlers.
func (s *Server) Run(ctx context.Context) error {
	connections := &tracker{Listener: s.cfg.Listener, open: map[net.Conn]bool{}}
	var handlers sync.WaitGroup
	handler := s.Handler()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			handler.ServeHTTP(w, r)
		}),
		TLSConfig: &tls.Config{
			GetCertificate: s.cfg.Certificate,
			ClientAuth:     tls.RequestClientCert, // verified by the guard, which then may look at a token
			MinVersion:     tls.VersionTLS12,
		},
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       90 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	panics.Go("kubelet API", func() { ended <- server.ServeTLS(connections, "", "") })
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		server.Close()
		<-ended
	}
	connections.closeAll() // the server has forgotten those that became streams
	handlers.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.cfg.Healthy != nil {
		if err := s.cfg.Healthy(); err != nil {
			fail(w, http.StatusInternalServerError, "healthz check failed: "+err.Error())
			return
		}
	}
	fail(w, http.StatusOK, "ok")
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) { writePods(w, s.cfg.Host.Pods()) }

func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	pods, err := s.cfg.Host.RunningPods(r.Context())
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	writePods(w, pods)
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"kubeletconfig": s.cfg.Configz})
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	only, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory"))
	summary, err := s.cfg.Stats.Summary(r.Context(), only)
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	writeJSON(w, summary)
}

// logs serves files of the log directory.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	if s.cfg.LogDir == "" {
		fail(w, http.StatusNotFound, "this node serves no log files")
		return
	}
	http.StripPrefix("/logs/", http.FileServerFS(untrusted.FS(s.cfg.LogDir))).ServeHTTP(w, r)
}

// pod finds the pod that the path names, nil when there is none. While one of a name ends and the next
// begins, the newer is meant.
func (s *Server) pod(r *http.Request) *v1.Pod {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	var found *v1.Pod
	for _, pod := range s.cfg.Host.Pods() {
		if pod.Namespace != namespace || pod.Name != name || uid != "" && string(pod.UID) != uid {
			continue
		}
		if found == nil || found.CreationTimestamp.Before(&pod.CreationTimestamp) {
			found = pod
		}
	}
	return found
}

func writePods(w http.ResponseWriter, pods []*v1.Pod) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []v1.Pod{}}
	for _, pod := range pods {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, list)
}

func writeJSON(w http.ResponseWriter, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(raw) // a client that went away needs no answer
}

// fail answers with a plain text and nothing after it.
func fail(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // a client that went away needs no answer
}

// tracker knows the open connections of a listener.
type tracker struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (t *tracker) Accept() (net.Conn, error) {
	conn, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tracked := &trackedConn{Conn: conn, tracker: t}
	t.open[tracked] = true
	return tracked, nil
}

func (t *tracker) closeAll() {
	t.mu.Lock()
	var open []net.Conn
	for conn := range t.open {
		open = append(open, conn)
	}
	t.mu.Unlock()
	for _, conn := range open {
		conn.Close()
	}
}

type trackedConn struct {
	net.Conn
	tracker *tracker
}

func (c *trackedConn) Close() error {
	c.tracker.mu.Lock()
	delete(c.tracker.open, c)
	c.tracker.mu.Unlock()
	return c.Conn.Close()
}
