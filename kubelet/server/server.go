// Package server serves the kubelet's HTTPS API: logs, exec, attach, port forwarding, pods and statistics.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
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
	Listener net.Listener         // plain TCP, usually port 10250
	TLS      tls.Certificate      // serving certificate
	ClientCA *x509.CertPool       // issuer of client certificates
	Client   kubernetes.Interface // for TokenReview and SubjectAccessReview
	Host     Host
	Runtime  Runtime
	Stats    Stats
	Metrics  prometheus.Gatherer // for /metrics
	Healthy  func() error        // for /healthz; nil is always
	Configz  any                 // for /configz, under "kubeletconfig"
	LogDir   string              // what /logs/ serves; "" serves nothing
}

// Server is the kubelet's HTTPS server.
type Server struct{ cfg Config }

// New returns a Server.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Run serves until ctx ends, then closes all streams.
func (s *Server) Run(ctx context.Context) error { return nil }
