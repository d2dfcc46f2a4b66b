// Command scale runs a control plane with many fake nodes and has it place pods: how long that takes, and what it
// costs. The cluster runs in a process of its own, which is this program again.
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
	var serve, out string
	flag.IntVar(&l.nodes, "nodes", 1000, "how many nodes there are")
	flag.IntVar(&l.pods, "pods", 5000, "how many pods are made")
	flag.IntVar(&l.deployments, "deployments", 10, "by how many Deployments")
	flag.DurationVar(&l.idle, "idle", idleTime, "how long the cluster is left alone, with the pods in it")
	flag.StringVar(&l.profile, "profile", "", "write a profile of the cluster's processor time to this file")
	flag.StringVar(&l.spread, "spread", "", "spread the pods of a Deployment over this topology, such as kubernetes.io/hostname")
	flag.StringVar(&out, "out", "", "write the table to this file too")
	flag.StringVar(&serve, "serve", "", "for the program's own use: run the cluster of this folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if serve != "" {
		err = serveCluster(ctx, serve, l)
	} else {
		err = run(ctx, l, out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, l load, out string) (err error) {
	dir, err := os.MkdirTemp("", "skiff-scale-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := startCluster(dir, l)
	if err != nil {
		return err
	}
	figures, err := l.measure(ctx, c)
	err = errors.Join(err, c.stop())
	if err != nil {
		return err
	}
	report := fmt.Sprintf("%d nodes, %d pods of %d Deployments\n\n%s", l.nodes, l.pods, l.deployments, table(figures))
	fmt.Print(report)
	if out == "" {
		return nil
	}
	return os.WriteFile(out, []byte(report), 0o644)
}

// serveCluster is the measured process.
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
		DataDir: filepath.Join(dir, "data"), Listen: address, PodCIDRs: family.Ranges{podRange}, FakeNodes: l.nodes,
	}, func() { fmt.Println(readyLine) })
}
