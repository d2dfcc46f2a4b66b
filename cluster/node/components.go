package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/cluster/keypair"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/ingress"
	"github.com/skiff-k8s/skiff/kubelet"
	"github.com/skiff-k8s/skiff/kubelet/rotate"
	"github.com/skiff-k8s/skiff/networkpolicy"
	"github.com/skiff-k8s/skiff/networkpolicy/nftables"
	"github.com/skiff-k8s/skiff/podnet"
	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/conntrack"
	"github.com/skiff-k8s/skiff/proxy/mode"
)

// minDisk is what a node leaves free of a disk that it shares with all else on
// the machine. The tenth that a kubelet keeps of a disk of its own would end pods
// on a large disk that has room enough.
const minDisk = 1 << 30

func runKubelet(ctx context.Context, c Config, config *rest.Config, endpoint string, policies *networkpolicy.Engine, metrics ...prometheus.Gatherer) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	first, err := keypair.Open(c.CertFile, c.KeyFile)
	if err != nil {
		return fmt.Errorf("serving certificate of the kubelet: %w", err)
	}
	authority, err := c.authority()
	if err != nil {
		return err
	}
	serving, err := rotate.NewServing(rotate.ServingConfig{
		Client: client, NodeName: c.Name, IPs: c.Addresses, Dir: c.certificates(), Roots: authority, First: first.Serve,
	})
	if err != nil {
		return fmt.Errorf("serving certificate of the kubelet: %w", err)
	}
	settings := kubelet.Config{
		NodeName:        c.Name,
		Client:          client,
		RuntimeEndpoint: endpoint,
		RootDir:         filepath.Join(c.Dir, "kubelet"),
		LogDir:          filepath.Join(c.Dir, "logs"),
		VolumesDir:      filepath.Join(c.Dir, "volumes"),
		CgroupRoot:      c.CgroupRoot,
		NodeIP:          c.Address(),
		ExtraIPs:        c.Addresses[1:],
		MaxPods:         int64(c.MaxPods),
		ClusterDNS:      c.nameServers(),
		Domain:          c.ClusterDomain,
		Listen:          netip.AddrPortFrom(c.Address(), 10250).String(),
		Certificate:     serving.Show,
		ClientCA:        authority,
		Guard:           c.Guard,
		MinDisk:         minDisk,
		ImageHigh:       100,
		Metrics:         metrics,
	}
	if policies != nil {
		settings.Policies = policies
	}
	k, err := kubelet.New(ctx, settings)
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(guard.Try("serving certificate", func() error { return serving.Run(ctx) }))
	group.Go(guard.Try("kubelet", func() error { return k.Run(ctx) }))
	return group.Wait()
}

// ClientCertificate is the certificate by which the API server knows the kubelet, asked for as first. A node in the process
// of the API server needs none.
func (c Config) ClientCertificate(first *rest.Config) (*rotate.Client, error) {
	authority, err := c.authority()
	if err != nil {
		return nil, err
	}
	return rotate.NewClient(rotate.ClientConfig{First: first, NodeName: c.Name, Dir: c.certificates(), Roots: authority})
}

// authority signs all certificates of the cluster.
func (c Config) authority() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.CA) {
		return nil, errors.New("the cluster's CA holds no certificate")
	}
	return pool, nil
}

// certificates is the folder of those that the kubelet has asked for.
func (c Config) certificates() string { return filepath.Join(c.Dir, "pki") }

// newIngress returns nil if the node is to serve no Ingresses.
func newIngress(c Config, clients Clients, log *slog.Logger) (*ingress.Ingress, error) {
	if !c.Ingress.serves() {
		return nil, nil
	}
	client, err := kubernetes.NewForConfig(clients.Ingress)
	if err != nil {
		return nil, err
	}
	self, err := kubernetes.NewForConfig(clients.Kubelet)
	if err != nil {
		return nil, err
	}
	settings := ingress.Config{
		Client: client, NodeClient: self, NodeName: c.Name, Address: c.Address(), Others: c.Addresses[1:], HTTPPort: c.Ingress.HTTPPort, HTTPSPort: c.Ingress.HTTPSPort,
		Log: log.With("component", "ingress"),
	}
	if c.Ingress.AccessLog {
		file, err := os.OpenFile(filepath.Join(c.Dir, "ingress-access.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
		if err != nil {
			return nil, err
		}
		settings.AccessLog = file
	}
	return ingress.New(settings)
}

// runPodNetwork lists nodes as the proxy, for a kubelet may look at its own alone.
func runPodNetwork(ctx context.Context, c Config, config *rest.Config, log *slog.Logger) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return podnet.Run(ctx, podnet.Config{
		Client:  client,
		Mode:    c.PodNetwork,
		Node:    c.Name,
		Address: c.Address(),
		Ranges:  c.PodCIDRs,
		Routers: c.Routers,
		Links:   c.NodeCIDRs,
		Joined:  func(s podnet.Share) error { return writeCNIConfig(c, s) },
		Log:     log.With("component", "podnet"),
	})
}

// newPolicies returns nil if the node is to enforce no network policies. Then those that a run before this one enforced are taken away.
func newPolicies(c Config, config *rest.Config, log *slog.Logger) (*networkpolicy.Engine, error) {
	if c.WithoutNetworkPolicy {
		return nil, nftables.Remove()
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	backend, err := nftables.New(mode.ByIPVS(c.ProxyMode))
	if err != nil {
		return nil, fmt.Errorf("%w; --network-policy=false does without", err)
	}
	return networkpolicy.New(networkpolicy.Config{
		Client: client, NodeName: c.Name, Backend: backend, Log: log.With("component", "network-policy"),
	})
}

// withdrawIngress has the Node no longer say what it may have said when it served Ingresses.
func withdrawIngress(ctx context.Context, name string, config *rest.Config, log *slog.Logger) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for {
		err := ingress.Withdraw(ctx, client, name)
		if err == nil {
			return nil
		}
		log.Debug("the address of the ingress is not withdrawn yet", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(withdrawRetry):
		}
	}
}

// withdrawRetry is the pause after an attempt that failed.
const withdrawRetry = 5 * time.Second

func runProxy(ctx context.Context, c Config, config *rest.Config, log *slog.Logger) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	chosen, err := mode.Choose(c.ProxyMode)
	if err != nil {
		return err
	}
	log = log.With("component", "proxy")
	log.Info("Services are served", "by", chosen.Name)
	backend, err := chosen.Start(ctx, func(note string) { log.Warn(note) })
	if err != nil {
		return err
	}
	p, err := proxy.New(proxy.Config{
		Client:       client,
		NodeName:     c.Name,
		Pods:         c.PodCIDRs,
		Services:     c.ServiceCIDRs,
		NodePorts:    c.NodePortAddresses,
		Backend:      backend,
		Connections:  conntrack.Netlink{},
		HealthListen: netip.AddrPortFrom(c.Address(), 10256).String(),
		Log:          log,
	})
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	return p.Run(ctx)
}

// cleanProxy removes the service rules, of whatever mode.
func cleanProxy() error { return mode.Clean(context.Background(), "") }
