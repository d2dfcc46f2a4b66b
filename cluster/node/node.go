// Package node runs one node of a cluster on this machine: a container
// runtime, the kubelet and the service proxy, in the network namespace of the
// calling process. The first node is the host itself; further ones run as
// processes of their own inside namespaces that package cluster makes.
//
// Everything a node keeps is below Config.Dir, and everything it does to the
// machine can be found again from there, so that Clean removes it also after a
// crash.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/kubelet"
	"github.com/skiff-k8s/skiff/podnet"
	"github.com/skiff-k8s/skiff/proxy/iptables"
)

// Config says what a node is. All fields but Runtime are required.
type Config struct {
	Name string
	// Dir holds the node's state: runtime, volumes, logs.
	Dir string
	// Tools holds containerd, its shim, and the CNI plugins in cni/.
	Tools string
	// Addresses are how the cluster reaches the node, one of each IP family of the
	// cluster, the primary one first.
	Addresses []netip.Addr
	// CgroupRoot is the cgroup below which all pods of the node live.
	CgroupRoot string
	// Bridge is the name of the link that joins the node's pods.
	Bridge string

	// PodNetwork is how the pods of different nodes reach each other.
	PodNetwork podnet.Mode
	// Routers pass on packets for pods of nodes outside of NodeCIDRs, one of each
	// family; optional.
	Routers []netip.Addr
	// PodCIDRs, ServiceCIDRs and NodeCIDRs (of the nodes in namespaces) are the
	// ranges of the whole cluster, all of the same families.
	PodCIDRs, ServiceCIDRs, NodeCIDRs family.Ranges
	ClusterDNS                        netip.Addr
	ClusterDomain                     string
	// DNSCache has the node keep a cache of DNS answers for its pods.
	DNSCache bool

	// CA signs the clients the kubelet believes; CertFile and KeyFile are what it
	// shows, also when they are written anew.
	CA                []byte
	CertFile, KeyFile string

	// Runtime is the endpoint of a CRI runtime that is already there; empty
	// means to start containerd.
	Runtime string
	// Mirror is the URL of a registry to ask first for every image; optional.
	Mirror string
	// Images are archives to import before the node becomes ready.
	Images []string
	// Guard is what pods may use of the node; the kubelet's default.
	Guard kubelet.Guard
	// Ingress is where Ingresses are served.
	Ingress Ingress
	// ProxyMode is how Services reach pods, a name that package proxy/mode knows;
	// optional.
	ProxyMode string
	// WithoutNetworkPolicy leaves NetworkPolicies without effect on the node.
	WithoutNetworkPolicy bool
	// NodePortAddresses are ranges of those addresses of the node at which node ports
	// answer; optional.
	NodePortAddresses []netip.Prefix
	// MaxPods is how many pods the node offers to run; 0 means the kubelet's default.
	MaxPods int
}

// Address is the primary one of the node's addresses.
func (c Config) Address() netip.Addr { return c.Addresses[0] }

// Ingress says how a node serves Ingresses; the zero value serves none.
type Ingress struct {
	// HTTPPort and HTTPSPort are ports of the node's address; 0 serves none of the kind.
	HTTPPort, HTTPSPort uint16
	// AccessLog has each request written to ingress-access.log in the node's folder.
	AccessLog bool
}

func (i Ingress) serves() bool { return i.HTTPPort != 0 || i.HTTPSPort != 0 }

// Clients are the identities a node uses; each has only the rights of its part.
type Clients struct {
	Kubelet, Proxy, Ingress, NetworkPolicy *rest.Config
}

// Run starts the node and blocks until ctx ends, then returns nil, leaving
// containers running: Clean stops them. ready is called once the runtime
// answers.
func Run(ctx context.Context, c Config, clients Clients, log *slog.Logger, ready func()) error {
	keeper, err := prepare(ctx, c)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	endpoint := c.Runtime
	if endpoint == "" {
		endpoint = c.socket()
		runtime, err := startContainerd(ctx, c, log)
		if err != nil {
			return err
		}
		group.Go(guard.Try("node", func() error { return runtime.supervise(ctx) }))
		if err := importImages(ctx, c); err != nil {
			return errors.Join(err, stop(group))
		}
	}
	ready()
	group.Go(guard.Try("rules of the node", func() error {
		keepRules(ctx, c, keeper, checkRules, log)
		return nil
	}))
	group.Go(guard.Try("pod network", func() error { return runPodNetwork(ctx, c, clients.Proxy, log) }))
	if c.DNSCache {
		group.Go(guard.Try("DNS cache", func() error { return runDNSCache(ctx, c, log) }))
	}
	served, err := newIngress(c, clients, log)
	if err != nil {
		return errors.Join(err, stop(group))
	}
	policies, err := newPolicies(c, clients.NetworkPolicy, log)
	if err != nil {
		return errors.Join(err, stop(group))
	}
	var metrics []prometheus.Gatherer
	if served != nil {
		metrics = append(metrics, served.Metrics())
		group.Go(guard.Try("ingress", func() error { return served.Run(ctx) }))
	} else {
		group.Go(guard.Try("ingress", func() error { return withdrawIngress(ctx, c.Name, clients.Kubelet, log) }))
	}
	if policies != nil {
		group.Go(guard.Try("network policies", func() error { return policies.Run(ctx) }))
	}
	group.Go(guard.Try("kubelet", func() error { return runKubelet(ctx, c, clients.Kubelet, endpoint, policies, metrics...) }))
	group.Go(guard.Try("proxy", func() error { return runProxy(ctx, c, clients.Proxy, log) }))
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// stop ends a group whose context cannot be cancelled from here by failing it.
func stop(group *errgroup.Group) error {
	group.Go(guard.Try("node", func() error { return context.Canceled }))
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// prepare makes the folders, rules and kernel settings a node needs. Rules come
// first: route_localnet without them is an open door.
func prepare(ctx context.Context, c Config) (keepers, error) {
	for _, dir := range []string{"containerd", "run", "cni/conf", "cni/ipam", "kubelet", "logs"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	for _, f := range c.PodCIDRs.Families() {
		if err := iptables.Supports(f); err != nil {
			return nil, err
		}
	}
	keepers := newKeepers(c)
	if err := keepers.apply(ctx, c); err != nil {
		return nil, err
	}
	wanted, err := nodeSettings(c)
	if err != nil {
		return nil, err
	}
	if err := settings.set(c.Dir, wanted); err != nil {
		return nil, fmt.Errorf("kernel settings: %w", err)
	}
	return keepers, nil
}

func (c Config) socket() string { return filepath.Join(c.Dir, "run", "containerd.sock") }

// Socket is where the node's container runtime listens.
func (c Config) Socket() string {
	if c.Runtime != "" {
		return c.Runtime
	}
	return "unix://" + c.socket()
}
