// Command scale runs control planes with many fake nodes one after the other, Skiff's and the programs of Kubernetes, and
// has each place pods: how long that takes, and what it costs. Skiff runs in a process of its own, which is this program
// again, and so do the nodes, which are not measured.
//
//	go run ./bench/scale -tools DIR [-nodes 1000] [-pods 5000]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"

	"github.com/skiff-k8s/skiff/cluster"
	"github.com/skiff-k8s/skiff/family"
)

// podRange has room for a /24 of each of 16,384 nodes (RFC 6598).
var podRange = netip.MustParsePrefix("100.64.0.0/10")

// address is where the API of the measured cluster is.
var address = netip.MustParseAddrPort("127.0.0.1:7643")

func main() {
	var l load
	var serve, play, tools, out string
	flag.IntVar(&l.nodes, "nodes", 1000, "how many nodes there are")
	flag.IntVar(&l.pods, "pods", 5000, "how many pods are made")
	flag.IntVar(&l.deployments, "deployments", 10, "by how many Deployments")
	flag.DurationVar(&l.idle, "idle", idleTime, "how long the cluster is left alone, with the pods in it")
	flag.StringVar(&l.profile, "profile", "", "write a profile of the cluster's processor time to this file")
	flag.StringVar(&l.spread, "spread", "", "spread the pods of a Deployment over this topology, such as kubernetes.io/hostname")
	flag.StringVar(&tools, "tools", "", "the folder with Kubernetes' programs and etcd; none: they are left out")
	flag.StringVar(&out, "out", "", "write the table to this file too")
	flag.StringVar(&serve, "serve", "", "for the program's own use: run the cluster of this folder")
	flag.StringVar(&play, "play", "", "for the program's own use: play the nodes of the cluster of this kubeconfig")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case serve != "":
		err = serveCluster(ctx, serve, l)
	case play != "":
		err = playNodes(ctx, play, l)
	default:
		err = run(ctx, l, tools, out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, l load, tools, out string) error {
	var measured []column
	for _, c := range contenders(tools) {
		fmt.Printf("%s:\n", c.name)
		figures, err := once(ctx, c, l)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		measured = append(measured, column{c.name, figures})
	}
	report := fmt.Sprintf("%d nodes, %d pods of %d Deployments\n\n%s", l.nodes, l.pods, l.deployments, table(measured))
	fmt.Print(report)
	if out == "" {
		return nil
	}
	return os.WriteFile(out, []byte(report), 0o644)
}

// once measures one control plane.
func once(ctx context.Context, what contender, l load) (figures []figure, err error) {
	dir, err := os.MkdirTemp("", "skiff-scale-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := what.start(ctx, dir, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	stop, err := startNodes(c, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return l.measure(ctx, c)
}

// serveCluster is the measured process of Skiff.
func serveCluster(ctx context.Context, dir string, l load) error {
	if l.profile != "" {
		file, err := os.Create(l.profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return cluster.Up(ctx, cluster.Config{
		DataDir: filepath.Join(dir, "data"), Listen: address, PodCIDRs: family.Ranges{podRange},
	}, func() { fmt.Println(readyLine) })
}
