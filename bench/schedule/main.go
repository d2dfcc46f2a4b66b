// Command schedule measures schedulers one after the other on the same API server, Skiff's and kube-scheduler: how many
// pods a second each binds, of pods of several kinds (workloads.go).
//
//	go run ./bench/schedule -skiff bin/skiff -tools DIR [-nodes 1000] [-pods 1000] [-only basic]
//
// The pods are there before the scheduler starts, so that what makes them is not measured; the time counts from the
// first binding to the last. There are no kubelets and no controllers: nodes are objects.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/skiff-k8s/skiff/bench/rig"
)

type config struct {
	skiff, tools string
	nodes, pods  int
	only, out    string
}

func main() {
	var c config
	flag.StringVar(&c.skiff, "skiff", "bin/skiff", "the program skiff")
	flag.StringVar(&c.tools, "tools", "", "the folder with kube-scheduler; none: it is left out")
	flag.IntVar(&c.nodes, "nodes", 1000, "how many nodes there are")
	flag.IntVar(&c.pods, "pods", 1000, "how many pods are measured, and as many are there before")
	flag.StringVar(&c.only, "only", "", "measure those workloads alone whose names have this in them")
	flag.StringVar(&c.out, "out", "", "write the table to this file too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "schedule:", err)
		os.Exit(1)
	}
}

// contender is a scheduler.
type contender struct {
	name  string
	start func(r *rig.Rig, kubeconfig string) error
}

func (c config) contenders() []contender {
	list := []contender{{"Skiff", func(r *rig.Rig, kubeconfig string) error {
		return r.Start("scheduler", c.skiff, "scheduler", "--kubeconfig", kubeconfig, "--leader-elect=false")
	}}}
	if c.tools == "" {
		return list
	}
	return append(list, contender{"kube-scheduler", func(r *rig.Rig, kubeconfig string) error {
		return r.StartUpstream(c.tools, "kube-scheduler", kubeconfig)
	}})
}

func (c config) run(ctx context.Context) error {
	contenders := c.contenders()
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes, %d pods; pods bound in a second\n\n|", c.nodes, c.pods)
	for _, s := range contenders {
		fmt.Fprintf(&b, " | %s | processor time of it and the API server", s.name)
	}
	b.WriteString(" |\n|---|" + strings.Repeat("---:|---:|", len(contenders)) + "\n")
	for _, w := range workloads {
		if !strings.Contains(w.name, c.only) {
			continue
		}
		fmt.Fprintf(&b, "| %s", w.name)
		for _, s := range contenders {
			fmt.Printf("%s, %s …\n", w.name, s.name)
			result, err := c.once(ctx, w, s)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", w.name, s.name, err)
			}
			fmt.Fprintf(&b, " | %.0f | %.2f ms a pod", result.rate(), result.cpu.Seconds()*1000/float64(result.pods))
		}
		b.WriteString(" |\n")
	}
	fmt.Print(b.String())
	if c.out == "" {
		return nil
	}
	return os.WriteFile(c.out, []byte(b.String()), 0o644)
}

// once measures one scheduler at one workload.
func (c config) once(ctx context.Context, w workload, s contender) (_ result, err error) {
	dir, err := os.MkdirTemp("", "skiff-schedule-")
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r, err := rig.Skiff(ctx, dir, c.skiff, "memory://")
	if err != nil {
		return result{}, err
	}
	defer r.Stop()
	kubeconfig, err := r.Kubeconfig("scheduler", "system:kube-scheduler")
	if err != nil {
		return result{}, err
	}
	m := measured{config: c, workload: w, rig: r}
	return m.measure(ctx, func() error { return s.start(r, kubeconfig) })
}
