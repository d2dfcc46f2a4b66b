package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/cluster/keypair"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/kubelet"
	"github.com/skiff-k8s/skiff/kubelet/rotate"
	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/conntrack"
	"github.com/skiff-k8s/skiff/proxy/mode"
)

func kubeletCommand() *cobra.Command {
	var c client
	var config kubelet.Config
	var certFile, keyFile, clientCAFile string
	var rotated bool
	cmd := &cobra.Command{
		Use:   "kubelet",
		Short: "Run the kubelet alone, against any API server and CRI runtime",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := logTo("-", slog.LevelInfo); err != nil {
				return err
			}
			restConfig, err := c.config("kubelet")
			if err != nil {
				return err
			}
			if config.Client, err = kubernetes.NewForConfig(restConfig); err != nil {
				return err
			}
			if certFile != "" || !rotated {
				serving, err := keypair.Open(certFile, keyFile)
				if err != nil {
					return err
				}
				config.Certificate = serving.Serve
			}
			authority, err := os.ReadFile(clientCAFile)
			if err != nil {
				return err
			}
			config.ClientCA = x509.NewCertPool()
			if !config.ClientCA.AppendCertsFromPEM(authority) {
				return fmt.Errorf("%s holds no certificate", clientCAFile)
			}
			if !rotated {
				return runKubelet(cmd.Context(), config)
			}
			serving, err := rotate.New(rotate.Config{
				Client: config.Client, NodeName: config.NodeName, IPs: []netip.Addr{config.NodeIP},
				Dir: filepath.Join(config.RootDir, "pki"), First: config.Certificate,
			})
			if err != nil {
				return err
			}
			config.Certificate = serving.Show
			group, ctx := errgroup.WithContext(cmd.Context())
			group.Go(guard.Try("serving certificate", func() error { return serving.Run(ctx) }))
			group.Go(guard.Try("kubelet", func() error { return runKubelet(ctx, config) }))
			return group.Wait()
		},
	}
	host, _ := os.Hostname() // without one the flag has no default
	flags := cmd.Flags()
	c.flags(flags)
	flags.StringVar(&config.NodeName, "hostname-override", host, "name of the node")
	flags.TextVar(&config.NodeIP, "node-ip", netip.Addr{}, "address of the node")
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
	flags.StringVar(&certFile, "tls-cert-file", "", "certificate of the kubelet's API")
	flags.StringVar(&keyFile, "tls-private-key-file", "", "its key")
	flags.BoolVar(&rotated, "rotate-server-certificates", false, "ask the cluster for the certificate of the kubelet's API, and for the next before it ends; somebody has to approve that")
	flags.StringVar(&clientCAFile, "client-ca-file", "", "authority of the certificates that clients of the kubelet's API show")
	return cmd
}

func runKubelet(ctx context.Context, config kubelet.Config) error {
	k, err := kubelet.New(ctx, config)
	if err != nil {
		return err
	}
	return k.Run(ctx)
}

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
	var proxyMode string
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
			chosen, err := mode.Choose(proxyMode)
			if err != nil {
				return err
			}
			if config.Pods, err = podRanges(pods); err != nil {
				return err
			}
			restConfig, err := c.config("proxy")
			if err != nil {
				return err
			}
			if config.Client, err = kubernetes.NewForConfig(restConfig); err != nil {
				return err
			}
			if err := mode.Clean(cmd.Context(), chosen.Name); err != nil {
				return err
			}
			config.Backend, config.Connections, config.Log = chosen.New(), conntrack.Netlink{}, log
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
	flags.StringSliceVar(&pods, "cluster-cidr", []string{"10.244.0.0/16"}, "ranges of all pods, at most one of each IP family")
	flags.StringVar(&config.HealthListen, "healthz-bind-address", ":10256", "where to answer /healthz")
	flags.BoolVar(&cleanup, "cleanup", false, "remove all rules and end")
	return cmd
}

const proxyModeUsage = "how Services reach pods: iptables, or auto for the best that this host has"

// podRanges reads ranges of pods, at most one of each family.
func podRanges(texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	seen := make(map[corev1.IPFamily]bool)
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("range of pods: %w", err)
		}
		family := proxy.FamilyOf(prefix.Addr())
		if seen[family] {
			return nil, fmt.Errorf("range of pods %s: there is another one of %s", prefix, family)
		}
		seen[family] = true
		list = append(list, prefix)
	}
	return list, nil
}
