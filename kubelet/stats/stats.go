// Package stats measures the node and its pods for /stats/summary and /metrics/resource.
package stats

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Config is what a Provider needs.
type Config struct {
	NodeName string
	RootDir  string                                  // the kubelet's directory, whose file system is the node's
	Cgroup   string                                  // the kubelet's cgroup root
	Pods     func() []*v1.Pod                        // pods of the node with their status
	Volume   func(pod *v1.Pod, volume string) string // a volume's directory, "" when it has none
	Runtime  cri.RuntimeServiceClient
	Images   cri.ImageServiceClient
}

// Provider measures on demand. It is safe for concurrent use.
type Provider struct{ cfg Config }

// New returns a Provider.
func New(cfg Config) *Provider { return &Provider{cfg: cfg} }

// Summary is what /stats/summary serves; with onlyCPUAndMemory the rest is left out.
func (p *Provider) Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error) {
	return nil, nil
}

// Resources collects what /metrics/resource serves.
func (p *Provider) Resources() prometheus.Gatherer { return nil }
