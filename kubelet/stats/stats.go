// Package stats measures the node and its pods for /stats/summary and /metrics/resource.
//
// Pods and containers are measured by the runtime (pods.go), the node by /proc and its control group
// (node.go), disks by statfs and by counting files (disk.go).
package stats

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Config is what a Provider needs.
type Config struct {
	NodeName string
	RootDir  string                                  // the kubelet's directory, whose file system is the node's
	LogDir   string                                  // of pods; "" leaves the size of logs out
	Cgroup   string                                  // the kubelet's cgroup root
	Pods     func() []*v1.Pod                        // pods of the node with their status
	Volume   func(pod *v1.Pod, volume string) string // a volume's directory, "" when it has none
	Runtime  cri.RuntimeServiceClient
	Images   cri.ImageServiceClient
}

// Provider measures on demand. It is safe for concurrent use.
type Provider struct {
	cfg       Config
	disk      *diskCache
	rates     rates
	resources *prometheus.Registry
}

// New returns a Provider.
func New(cfg Config) *Provider {
	p := &Provider{cfg: cfg, disk: newDiskCache(), resources: prometheus.NewRegistry()}
	p.resources.MustRegister(&collector{p})
	return p
}

// Summary is what /stats/summary serves; with onlyCPUAndMemory the rest is left out.
func (p *Provider) Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error) {
	node, err := p.node(ctx, onlyCPUAndMemory)
	if err != nil {
		return nil, fmt.Errorf("measure the node: %w", err)
	}
	pods, err := p.pods(ctx, onlyCPUAndMemory)
	if err != nil {
		return nil, fmt.Errorf("measure the pods: %w", err)
	}
	return &statsapi.Summary{Node: *node, Pods: pods}, nil
}

// Resources collects what /metrics/resource serves.
func (p *Provider) Resources() prometheus.Gatherer { return p.resources }

// rates turns counts of CPU time into how many CPUs are in use. Its zero value is ready.
type rates struct {
	mu   sync.Mutex
	last map[string]sample
}

type sample struct {
	at    time.Time
	count uint64 // nanoseconds of CPU time
	rate  *uint64
}

// A rate is that over at least minSpan, as counts are not exact; one not asked for in maxAge is forgotten.
const (
	minSpan = time.Second
	maxAge  = 10 * time.Minute
)

// of is the rate in nanoseconds of CPU time per second since the last call for key, nil at the first.
func (r *rates) of(key string, at time.Time, count uint64) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[string]sample{}
	}
	last, known := r.last[key]
	span := at.Sub(last.at)
	if known && count >= last.count && span < minSpan {
		return last.rate
	}
	next := sample{at: at, count: count}
	if known && count >= last.count && span < maxAge {
		rate := uint64(float64(count-last.count) / span.Seconds())
		next.rate = &rate
	}
	r.last[key] = next
	for k, s := range r.last {
		if at.Sub(s.at) > maxAge {
			delete(r.last, k)
		}
	}
	return next.rate
}
