package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/cluster/keypair"
	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/kubelet"
	"github.com/skiff-k8s/skiff/kubelet/rotate"
	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/conntrack"
	"github.com/skiff-k8s/skiff/proxy/mode"
)

// kubeletFlags are what the kubelet that runs alone is told.
type kubeletFlags struct {
	client
	kubelet.Config
	bootstrap                       string
	certFile, keyFile, clientCAFile string
	rotated                         bool
}

func kubeletCommand() *cobra.Command {
	var f kubeletFlags
	cmd := &cobra.Command{
		Use:   "kubelet",
		Short: "Run the kubelet alone, against any API server and CRI runtime",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) },
	}
	c, config := &f.client, &f.Config
	host, _ := os.Hostname() // without one the flag has no default
	flags := cmd.Flags()
	c.flags(flags)
	flags.StringVar(&f.bootstrap, "bootstrap-kubeconfig", "", "how to ask the cluster for a certificate by which the API server knows the kubelet, and for the next when that has ended; somebody has to approve that")
	cmd.MarkFlagsMutuallyExclusive("kubeconfig", "bootstrap-kubeconfig")
	flags.StringVar(&config.NodeName, "hostname-override", host, "name of the node")
	flags.Var((*nodeIPs)(config), "node-ip", "address of the node, or one of each IP family, the primary one first")
	flags.StringVar(&config.RuntimeEndpoint, "container-runtime-endpoint", "unix:///run/containerd/containerd.sock", "socket of the CRI runtime")
	flags.StringVar(&config.RootDir, "root-dir", "/var/lib/skiff/kubelet", "volumes and other state of pods")
	flags.StringVar(&config.LogDir, "pod-logs-dir", "/var/log/pods", "logs of containers")
	flags.StringVar(&config.VolumesDir, "local-volumes-dir", "", "PersistentVolumes that are made on the node (default: local-volumes in the root directory)")
	flags.StringVar(&config.CgroupRoot, "cgroup-root", "/", "control group that holds those of the pods")
	flags.StringSliceVar(&config.ClusterDNS, "cluster-dns", nil, "addresses of the cluster's name servers")
	flags.StringVar(&config.Domain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	flags.Int64Var(&config.MaxPods, "max-pods", 110, "how many pods the node offers to run")
	guardFlags(flags, &config.Guard)
	flags.StringVar(&config.Listen, "listen", ":10250", "address of the kubelet's API")
	flags.StringVar(&f.certFile, "tls-cert-file", "", "certificate of the kubelet's API")
	flags.StringVar(&f.keyFile, "tls-private-key-file", "", "its key")
	flags.BoolVar(&f.rotated, "rotate-server-certificates", false, "ask the cluster for the certificate of the kubelet's API, and for the next before it ends; somebody has to approve that")
	flags.StringVar(&f.clientCAFile, "client-ca-file", "", "authority of the certificates that clients of the kubelet's API show")
	return cmd
}

func (f *kubeletFlags) run(ctx context.Context) error {
	if _, err := logTo("-", slog.LevelInfo); err != nil {
		return err
	}
	if err := f.readCertificates(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(guard.Try("kubelet", func() error {
		reach, err := f.reach(ctx, group)
		if err != nil {
			return err
		}
		if f.Client, err = kubernetes.NewForConfig(reach); err != nil {
			return err
		}
		if err := f.rotateServing(ctx, group); err != nil {
			return err
		}
		k, err := kubelet.New(ctx, f.Config)
		if err != nil {
			return err
		}
		return k.Run(ctx)
	}))
	return group.Wait()
}

// readCertificates reads what the kubelet's API shows, if it is told that, and whom it believes.
func (f *kubeletFlags) readCertificates() error {
	if f.certFile != "" || !f.rotated {
		serving, err := keypair.Open(f.certFile, f.keyFile)
		if err != nil {
			return err
		}
		f.Certificate = serving.Serve
	}
	authority, err := os.ReadFile(f.clientCAFile)
	if err != nil {
		return err
	}
	f.ClientCA = x509.NewCertPool()
	if !f.ClientCA.AppendCertsFromPEM(authority) {
		return fmt.Errorf("%s holds no certificate", f.clientCAFile)
	}
	return nil
}

// reach is how to reach the API server, once it is known: by a certificate that group keeps, if the kubelet is to ask for it.
func (f *kubeletFlags) reach(ctx context.Context, group *errgroup.Group) (*rest.Config, error) {
	if f.bootstrap == "" {
		return f.client.config("kubelet")
	}
	first, err := (&client{kubeconfig: f.bootstrap}).config("kubelet")
	if err != nil {
		return nil, err
	}
	own, err := rotate.NewClient(rotate.ClientConfig{First: first, NodeName: f.NodeName, Dir: f.certificates()})
	if err != nil {
		return nil, err
	}
	group.Go(guard.Try("client certificate", func() error { return own.Run(ctx) }))
	return own.Config(ctx)
}

// rotateServing has group keep the certificate of the kubelet's API, if the kubelet is to ask for it.
func (f *kubeletFlags) rotateServing(ctx context.Context, group *errgroup.Group) error {
	if !f.rotated {
		return nil
	}
	serving, err := rotate.NewServing(rotate.ServingConfig{
		Client: f.Client, NodeName: f.NodeName, IPs: append([]netip.Addr{f.NodeIP}, f.ExtraIPs...), Dir: f.certificates(), First: f.Certificate,
	})
	if err != nil {
		return err
	}
	f.Certificate = serving.Show
	group.Go(guard.Try("serving certificate", func() error { return serving.Run(ctx) }))
	return nil
}

func (f *kubeletFlags) certificates() string { return filepath.Join(f.RootDir, "pki") }

// guardFlags adds the flags that say what pods may use of their nodes.
func guardFlags(flags *pflag.FlagSet, g *kubelet.Guard) {
	flags.StringSliceVar(&g.AllowedUnsafeSysctls, "allowed-unsafe-sysctls", nil, "sysctls, or beginnings that end in *, that pods may set beside the safe ones")
	flags.StringVar(&g.ImagePullCredentialsVerificationPolicy, "image-pull-credentials-verification-policy", "NeverVerifyPreloadedImages",
		"which images on a node need credentials again: NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or AlwaysVerify")
	flags.StringSliceVar(&g.PreloadedImagesVerificationAllowlist, "preloaded-images-verification-allowlist", nil, "images, or registries and paths that end in /*, that NeverVerifyAllowlistedImages excepts")
}

func proxyCommand() *cobra.Command {
	var c client
	var config proxy.Config
	var proxyMode, scheduler string
	var pods []string
	var cleanup bool
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Run the service proxy alone, against any API server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logTo("-", slog.LevelInfo)
			if err != nil {
				return err
			}
			if cleanup {
				return mode.Clean(cmd.Context(), "")
			}
			chosen, err := mode.Choose(mode.WithScheduler(proxyMode, scheduler))
			if err != nil {
				return err
			}
			if len(pods) > 0 {
				if config.Pods, err = family.Parse(strings.Join(pods, ",")); err != nil {
					return fmt.Errorf("ranges of pods: %w", err)
				}
			}
			restConfig, err := c.config("proxy")
			if err != nil {
				return err
			}
			if config.Client, err = kubernetes.NewForConfig(restConfig); err != nil {
				return err
			}
			log.Info("Services are served", "by", chosen.Name)
			if config.Backend, err = chosen.Start(cmd.Context(), func(note string) { log.Warn(note) }); err != nil {
				return err
			}
			config.Connections, config.Log = conntrack.Netlink{}, log
			p, err := proxy.New(config)
			if err != nil {
				return err
			}
			return p.Run(cmd.Context())
		},
	}
	host, _ := os.Hostname() // without one the flag has no default
	flags := cmd.Flags()
	c.flags(flags)
	flags.StringVar(&config.NodeName, "hostname-override", host, "name of the node")
	flags.StringVar(&proxyMode, "proxy-mode", "iptables", proxyModeUsage)
	flags.StringVar(&scheduler, "ipvs-scheduler", "", schedulerUsage)
	flags.StringSliceVar(&pods, "cluster-cidr", []string{"10.244.0.0/16"}, "ranges of all pods, at most one of each IP family")
	flags.Var(&prefixList{&config.Services}, "service-cidr", "ranges of Service addresses: what is sent to one that no Service has is refused")
	flags.Var(&prefixList{&config.NodePorts}, "nodeport-addresses", nodePortsUsage)
	flags.StringVar(&config.HealthListen, "healthz-bind-address", ":10256", "where to answer /healthz")
	flags.BoolVar(&cleanup, "cleanup", false, "remove all rules and end")
	return cmd
}

const nodePortsUsage = "ranges of those addresses of the node at which node ports answer (default: all)"

const proxyModeUsage = "how Services reach pods: iptables, nftables, ipvs, or auto for the best that this host has"

const schedulerUsage = "how IPVS spreads flows: rr (the default), lc, sh, … with --proxy-mode ipvs"

// nodeIPs are the addresses of a kubelet's node, as a flag.
type nodeIPs kubelet.Config

func (n *nodeIPs) Set(text string) error {
	var all []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		all = append(all, a)
	}
	if len(all) > 2 || len(all) == 2 && family.Of(all[0]) == family.Of(all[1]) {
		return errors.New("there may be one address of each IP family")
	}
	n.NodeIP, n.ExtraIPs = all[0], all[1:]
	return nil
}

func (n *nodeIPs) String() string {
	if !n.NodeIP.IsValid() {
		return ""
	}
	texts := []string{n.NodeIP.String()}
	for _, a := range n.ExtraIPs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}

func (n *nodeIPs) Type() string { return "addresses" }

// prefixList is a flag of ranges, separated by commas.
type prefixList struct{ list *[]netip.Prefix }

func (p *prefixList) String() string {
	var texts []string
	if p.list != nil {
		for _, prefix := range *p.list {
			texts = append(texts, prefix.String())
		}
	}
	return strings.Join(texts, ",")
}

func (p *prefixList) Set(text string) error {
	var list []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			return err
		}
		list = append(list, prefix.Masked())
	}
	*p.list = list
	return nil
}

func (p *prefixList) Type() string { return "ranges" }
