// Command flood measures what a flood of lists does to others: the leases of nodes, and what an administrator asks, at Skiff's
// API server and at kube-apiserver with etcd, one after the other on the same machine. Most clients list without a pause, as
// ordinary users; the rest are nodes that renew their leases, and one administrator. Those that flood have a process of their own: in
// one with them, it would be their work that the others wait for.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/bench/rig"
)

func main() {
	var s settings
	var out, as string
	flag.StringVar(&s.skiff, "skiff", "bin/skiff", "Skiff's program")
	flag.StringVar(&s.tools, "tools", "bin/tools", "folder with kube-apiserver and etcd")
	flag.IntVar(&s.clients, "clients", 400, "how many clients there are, each with a connection of its own")
	flag.IntVar(&s.flooders, "flooders", 300, "how many of them list without a pause")
	flag.IntVar(&s.objects, "objects", 1000, "how many objects they list")
	flag.DurationVar(&s.length, "time", 30*time.Second, "how long is measured, once without the flood and once with it")
	flag.StringVar(&out, "out", "", "write the table to this file too")
	flag.StringVar(&as, "as-flooders", "", "be the flooders: list as the users of these kubeconfigs, each once for each time it is named, until there is no more input")
	flag.Parse()
	if as != "" {
		beFlooders(strings.Split(as, ","))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, s, out); err != nil {
		log.Fatal(err)
	}
}

type settings struct {
	skiff, tools               string
	clients, flooders, objects int
	length                     time.Duration
}

func run(ctx context.Context, s settings, out string) error {
	dir, err := os.MkdirTemp("", "skiff-flood-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var table strings.Builder
	head(&table, s)
	for _, server := range []struct {
		name  string
		start func(dir string) (*rig.Rig, error)
	}{
		{"kube-apiserver, etcd", func(dir string) (*rig.Rig, error) { return rig.Kubernetes(ctx, dir, s.tools) }},
		{"Skiff, file", func(dir string) (*rig.Rig, error) {
			return rig.Skiff(ctx, dir, s.skiff, "file://"+filepath.Join(dir, "store"))
		}},
	} {
		if err := measure(ctx, s, filepath.Join(dir, strings.Split(server.name, ",")[0]), server.name, server.start, &table); err != nil {
			return fmt.Errorf("%s: %w", server.name, err)
		}
	}
	fmt.Print(table.String())
	if out == "" {
		return nil
	}
	return os.WriteFile(out, []byte(table.String()), 0o644)
}

// measure measures one server, without the flood and with it.
func measure(ctx context.Context, s settings, dir, name string, start func(string) (*rig.Rig, error), out io.Writer) error {
	r, err := start(dir)
	if err != nil {
		return err
	}
	defer r.Stop()
	if err := prepare(ctx, r, s.objects); err != nil {
		return err
	}
	w, err := newWorld(ctx, r, s)
	if err != nil {
		return err
	}
	for _, flooders := range []int{0, s.flooders} {
		log.Printf("%s: %s with %d flooders", name, s.length, flooders)
		seen, err := w.observe(ctx, flooders, s.length)
		if err != nil {
			return err
		}
		seen.row(out, name, flooders)
	}
	return nil
}
