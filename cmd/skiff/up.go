package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skiff-k8s/skiff/apiserver/debug"
	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/cluster"
	"github.com/skiff-k8s/skiff/proxy/mode"
)

func upCommand() *cobra.Command {
	var c cluster.Config
	var scheduler string
	var verbose, policies bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a cluster on this machine in the foreground; Ctrl-C takes it away again, but for its data",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.ProxyMode = mode.WithScheduler(c.ProxyMode, scheduler)
			if err := atomicfile.Folder(c.DataDir, 0o755); err != nil {
				return err
			}
			c.Debug.Level.Set(level(verbose))
			log, err := logTo(filepath.Join(c.DataDir, "skiff.log"), c.Debug.Level)
			if err != nil {
				return err
			}
			c.Log, c.Out = log, cmd.OutOrStdout()
			c.WithoutNetworkPolicy = !policies
			return cluster.Up(cmd.Context(), c, nil)
		},
	}
	flags := cmd.Flags()
	where(flags, &c)
	c.Listen = netip.MustParseAddrPort("0.0.0.0:6443")
	flags.IntVar(&c.Nodes, "nodes", 1, "how many nodes to run; 0 is a control plane alone")
	flags.IntVar(&c.FakeNodes, "fake-nodes", 0, "how many nodes to play besides, on which pods run without containers; with --nodes above 0 pods must tolerate their taint")
	flags.StringVar(&c.Storage, "storage", "", storageUsage+` (default: "store" in the data directory)`)
	flags.TextVar(&c.Listen, "listen", c.Listen, "address of the API")
	flags.StringVar(&c.Kubeconfig, "kubeconfig", "", "write the administrator's kubeconfig to this file too")
	flags.TextVar(&c.ServiceCIDRs, "service-cidr", c.ServiceCIDRs, "range of Service addresses, or one of each IP family (default: 10.96.0.0/16 or fd00:10:96::/112, by the families of --pod-cidr)")
	flags.TextVar(&c.NodeCIDRs, "node-cidr", c.NodeCIDRs, "range of the addresses of nodes in namespaces of their own, or one of each IP family (default: 172.30.0.0/24 or fd00:172:30::/64)")
	flags.TextVar(&c.PodNetwork, "pod-network", c.PodNetwork, podNetworkUsage)
	flags.TextVar(&c.LoadBalancers, "load-balancer-addresses", c.LoadBalancers, loadBalancersUsage)
	flags.StringVar(&c.Domain, "domain", "cluster.local", "DNS domain of the cluster")
	flags.BoolVar(&c.DNSCache, "dns-cache", false, "have each node keep a cache of DNS answers for its pods")
	flags.StringVar(&c.Mirror, "registry-mirror", "", "URL of a registry that nodes ask first for every image")
	flags.IntVar(&c.MaxPods, "max-pods", 110, "how many pods a node offers to run")
	flags.Uint16Var(&c.Ingress.HTTPPort, "ingress-http-port", 80, "port of the nodes at which Ingresses are served while there are any; 0: none")
	flags.Uint16Var(&c.Ingress.HTTPSPort, "ingress-https-port", 443, "the same with TLS")
	flags.BoolVar(&c.Ingress.AccessLog, "ingress-access-log", false, "write a line for each request of an Ingress to ingress-access.log in the node's folder")
	flags.BoolVar(&policies, "network-policy", true, "enforce NetworkPolicies")
	guardFlags(flags, &c.Guard)
	flags.StringVar(&c.ProxyMode, "proxy-mode", "iptables", proxyModeUsage)
	flags.StringVar(&scheduler, "ipvs-scheduler", "", schedulerUsage)
	flags.Var(&prefixList{&c.NodePortAddresses}, "nodeport-addresses", nodePortsUsage)
	c.Settings.AddFlags(flags)
	debug.Classify(flags, "storage", "registry-mirror") // URLs have passwords
	flags.BoolVarP(&verbose, "verbose", "v", false, "write more to skiff.log in the data directory")
	return cmd
}

const podNetworkUsage = "how pods of different nodes reach each other: route, for nodes on one link, or vxlan, for any"

func downCommand() *cobra.Command {
	var c cluster.Config
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Clear away what a killed cluster left on this machine; its data stays",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cluster.Down(c); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "nothing of the cluster is left running; its data is in", c.DataDir)
			return nil
		},
	}
	where(cmd.Flags(), &c)
	return cmd
}

const toolsUsage = `folder with containerd and the other programs (default: "tools" beside skiff)`

// where adds the flags that say which cluster is meant and what it did to the
// machine.
func where(flags *pflag.FlagSet, c *cluster.Config) {
	dataDirFlag(flags, c)
	flags.TextVar(&c.PodCIDRs, "pod-cidr", c.PodCIDRs, "range of pod addresses, or one of each IP family, the primary one first (default: 10.244.0.0/16; fd00:10:244::/56 if another range is of IPv6)")
	flags.StringVar(&c.Tools, "tools", "", toolsUsage)
	flags.BoolVar(&c.Isolated, "isolated", false, "put the first node into a network namespace too, leaving the host's rules as they are")
}

func level(verbose bool) slog.Level {
	if verbose {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func nodeCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:    "node",
		Short:  "Run a node in this network namespace, as skiff up starts it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logTo("-", slog.LevelInfo)
			if err != nil {
				return err
			}
			return cluster.RunNode(cmd.Context(), config, cmd.InOrStdin(), log)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "what to run, written by skiff up")
	return cmd
}

func imageCommand() *cobra.Command {
	var c cluster.Config
	cmd := &cobra.Command{Use: "image", Short: "Bring images to the nodes without a registry"}
	dataDirFlag(cmd.PersistentFlags(), &c)
	cmd.PersistentFlags().StringVar(&c.Tools, "tools", "", toolsUsage)
	cmd.AddCommand(
		&cobra.Command{
			Use: "import FILE…", Short: "Load docker or OCI archives into every node", Args: cobra.MinimumNArgs(1),
			RunE: func(cmd *cobra.Command, files []string) error {
				m := newMeter(cmd.ErrOrStderr(), "")
				m.unit = "MB"
				defer m.end()
				return cluster.ImportImages(cmd.Context(), c, files, m.over(cmd.OutOrStdout()), func(what string, done, total int64) {
					m.about(what)
					m.tell(int(done/1e6), int(total/1e6))
				})
			},
		},
		&cobra.Command{
			Use: "list", Short: "List the images of every node", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return cluster.ListImages(cmd.Context(), c, cmd.OutOrStdout())
			},
		},
		&cobra.Command{
			Use: "rm NAME…", Short: "Remove images from every node", Args: cobra.MinimumNArgs(1),
			RunE: func(cmd *cobra.Command, names []string) error {
				return cluster.RemoveImages(cmd.Context(), c, names)
			},
		},
	)
	return cmd
}
