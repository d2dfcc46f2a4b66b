// Package controllers runs the control loops of a cluster: everything that acts on API objects from the inside
// of the control plane. The table in table.go lists them all.
//
// They are client-go programs. They know nothing of the server but its API, share the caches of one informer
// factory, and do not poll, but for HorizontalPodAutoscalers while there are any: an idle cluster hears nothing from them.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/controllers/garbage"
	"github.com/skiff-k8s/skiff/controllers/nodes"
	"github.com/skiff-k8s/skiff/controllers/services"
	"github.com/skiff-k8s/skiff/controllers/storage"
	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
)

// Config says what the controllers work with. A zero value means the default that stands at the field; Client,
// Metadata and Informers are required.
type Config struct {
	// Client should not be limited in its rate: a work queue is the better limit.
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// API reaches what Client has no types for: scales of custom kinds, and metrics. Without one nothing is scaled by
	// HorizontalPodAutoscalers.
	API *rest.Config
	// Informers is started by the caller, after New. Its resync period should be 0.
	Informers informers.SharedInformerFactory

	// RootCA is published as kube-root-ca.crt, PEM-encoded. Without one nothing is published.
	RootCA []byte

	// SigningCA and SigningKey are the authority that signs CertificateSigningRequests, PEM-encoded. Without a key none
	// are signed.
	SigningCA, SigningKey []byte

	// ServiceAccountKey signs the tokens in Secrets of type kubernetes.io/service-account-token, PEM-encoded. Without
	// one such Secrets are not filled.
	ServiceAccountKey []byte
	// LegacyTokenPeriod is after how long without use such a token that was made unasked becomes invalid, and after
	// how long as such it is deleted; a year.
	LegacyTokenPeriod time.Duration

	// PodCIDRs are divided among the nodes, the primary family's first. Without one, nodes get no range.
	PodCIDRs family.Ranges
	// NodeCIDRBits and NodeCIDRBitsIPv6 are the lengths of a node's prefixes; 24 and 64.
	NodeCIDRBits, NodeCIDRBitsIPv6 int

	// LoadBalancers says where Services of type LoadBalancer have their addresses from; the nodes.
	LoadBalancers services.Pool
	// NodeVolumes makes the volumes of the local provisioner; the nodes' kubelets do.
	NodeVolumes storage.NodeVolumes
	// Ingress are the ports of nodes that Ingresses have; none.
	Ingress services.Ingress

	// Concurrency is how many objects each controller works on at once; 5.
	Concurrency int
	// NodeMonitorGrace is after how long without a sign of life a node counts as lost; 50 s, upstream's default.
	NodeMonitorGrace time.Duration
	// AutoscalerPeriod is how often a HorizontalPodAutoscaler is looked at; 15 s.
	AutoscalerPeriod time.Duration
	// DiscoveryPeriod is how often the garbage collector reads what resources there are although nothing was heard of
	// CRDs and APIServices; 10 min.
	DiscoveryPeriod time.Duration
	// TerminatedPodThreshold is how many ended pods are kept before the oldest are deleted; 12500.
	TerminatedPodThreshold int
}

func (c *Config) setDefaults() error {
	switch {
	case c.Client == nil:
		return errors.New("controllers: Config.Client is required")
	case c.Metadata == nil:
		return errors.New("controllers: Config.Metadata is required")
	case c.Informers == nil:
		return errors.New("controllers: Config.Informers is required")
	case len(c.PodCIDRs) > 0 && c.PodCIDRs.Check() != nil:
		return fmt.Errorf("controllers: Config.PodCIDRs: %w", c.PodCIDRs.Check())
	}
	if c.NodeVolumes == nil {
		c.NodeVolumes = storage.ByKubelets(c.Client)
	}
	setDefault(&c.LegacyTokenPeriod, 365*24*time.Hour)
	setDefault(&c.NodeCIDRBits, 24)
	setDefault(&c.NodeCIDRBitsIPv6, 64)
	setDefault(&c.Concurrency, 5)
	setDefault(&c.NodeMonitorGrace, 50*time.Second)
	setDefault(&c.AutoscalerPeriod, 15*time.Second)
	setDefault(&c.DiscoveryPeriod, 10*time.Minute)
	setDefault(&c.TerminatedPodThreshold, 12500)
	for _, share := range c.shares() {
		switch {
		case share.Cluster != share.Cluster.Masked():
			return fmt.Errorf("controllers: Config.PodCIDRs: %s has bits set beyond its length", share.Cluster)
		case share.Bits < share.Cluster.Bits() || share.Bits > share.Cluster.Addr().BitLen():
			return fmt.Errorf("controllers: Config.NodeCIDRBits: a /%d does not fit into %s", share.Bits, share.Cluster)
		}
	}
	return nil
}

// shares are what each node gets of the pods' ranges.
func (c *Config) shares() []nodes.Share {
	var list []nodes.Share
	for _, p := range c.PodCIDRs {
		bits := c.NodeCIDRBits
		if p.Addr().Is6() {
			bits = c.NodeCIDRBitsIPv6
		}
		list = append(list, nodes.Share{Cluster: p, Bits: bits})
	}
	return list
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Manager runs the controllers.
type Manager struct {
	config      Config
	served      map[schema.GroupVersionResource]bool
	broadcaster record.EventBroadcaster
	collector   *garbage.Collector
	loops       []loop
}

// loop is a controller that was made, ready to run.
type loop struct {
	name string
	runner
}

type runner interface {
	// Run works until ctx is done and leaves no goroutine behind.
	Run(ctx context.Context) error
}

// New makes every controller whose resource the server serves, and registers all informers they need with the
// factory; start that afterwards.
func New(config Config) (*Manager, error) {
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	served, err := servedBy(config.Client.Discovery())
	if err != nil {
		return nil, err
	}
	m := &Manager{config: config, served: served, broadcaster: record.NewBroadcaster()}
	if m.collector, err = m.newCollector(); err != nil {
		m.broadcaster.Shutdown()
		return nil, fmt.Errorf("garbage collector: %w", err)
	}
	for _, row := range table {
		if missing := slices.IndexFunc(row.needs, func(r schema.GroupVersionResource) bool { return !served[r] }); missing >= 0 {
			slog.Debug("controller not started: resource not served", "controller", row.name, "resource", row.needs[missing].String())
			continue
		}
		made, err := row.make(m)
		if err != nil {
			m.broadcaster.Shutdown()
			return nil, fmt.Errorf("controller %s: %w", row.name, err)
		}
		if made != nil {
			m.loops = append(m.loops, loop{row.name, made})
		}
	}
	return m, nil
}

// servedBy lists the resources of the server. Groups whose own servers do not answer count as not served.
func servedBy(client discovery.DiscoveryInterface) (map[schema.GroupVersionResource]bool, error) {
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("discover resources: %w", err)
	}
	served := map[schema.GroupVersionResource]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("discover resources: %w", err)
		}
		for _, r := range list.APIResources {
			served[gv.WithResource(r.Name)] = true
		}
	}
	return served, nil
}

// Run works until ctx is done and returns when every controller has ended. An error of one ends all.
// A Manager runs once.
func (m *Manager) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	m.broadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: m.config.Client.CoreV1().Events("")})
	defer m.broadcaster.Shutdown()

	var loops guard.Group
	errs := make([]error, len(m.loops))
	for i, l := range m.loops {
		loops.Go("controller "+l.name, func() {
			if err := guard.Call("controller "+l.name, func() error { return l.Run(ctx) }); err != nil {
				errs[i] = fmt.Errorf("controller %s: %w", l.name, err)
				stop()
			}
		})
	}
	loops.Wait()
	return errors.Join(errs...)
}

// recorder returns the event recorder of a component.
func (m *Manager) recorder(component string) record.EventRecorder {
	return m.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}
