// Command bench puts the same load on kube-apiserver with etcd and on Skiff's
// API server, in one run on one machine, and prints what each needed and how
// they compare as a table in Markdown.
//
// The servers run one after the other, each alone with the client, with the
// same certificates, over TLS. The client is client-go with protobuf and
// without limits of its own. It shares the machine's cores with the servers, so
// absolute figures are lower than what a server alone could do, and ratios
// nearer to 1.
//
// With -engines it compares storages: Skiff on each, kube-apiserver on etcd, and
// kube-apiserver on kine on each database. Their client is package wire, which
// takes little, and what it takes is in the report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type settings struct {
	tools, skiff, dir string
	runs              int
	only              string
	extensions        bool
	scale             scale
	out               string
}

// atMost bounds a run: what takes longer is not worth waiting for.
const atMost = 20 * time.Minute

func main() {
	var s settings
	flag.StringVar(&s.tools, "tools", "bin/tools", "folder with kube-apiserver and etcd")
	flag.StringVar(&s.skiff, "skiff", "bin/skiff", "the program to compare")
	flag.StringVar(&s.dir, "dir", os.TempDir(), "where to put the servers' data for the time of the run; its disk is measured too")
	flag.IntVar(&s.runs, "runs", 1, "how often to measure every server, in turn; each figure is then the median")
	flag.BoolVar(&s.extensions, "extensions", false, "put the load of definitions, custom resources and webhooks on the servers instead of that of built-in kinds")
	flag.StringVar(&s.only, "only", "", "leave out servers whose names do not contain this: a column alone compares nothing")
	flag.IntVar(&fullExtensions.definitions, "definitions", fullExtensions.definitions, "how many definitions -extensions makes")
	small := flag.Bool("small", false, "a twentieth of the load: to see that everything works, not to measure")
	storages := flag.String("engines", "", "compare Skiff on these storages (file,sqlite,postgres,mysql,etcd,memory, or all) with kube-apiserver on etcd and on kine, instead")
	flag.StringVar(&s.out, "out", "", "where to write the report of -engines; it is written after each server")
	flag.Parse()
	s.scale = full
	s.scale.extensions = fullExtensions
	if *small {
		s.scale = full.divided(20)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if s.runs < 1 {
		fmt.Fprintln(os.Stderr, "bench: -runs must be at least 1")
		os.Exit(2)
	}
	measured := func() error { return run(ctx, s) }
	if *storages != "" {
		n := fullEngines
		if *small {
			n = smallEngines
		}
		measured = func() error { return runEngines(ctx, s, strings.Split(*storages, ","), n) }
	}
	if err := measured(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp(s.dir, "skiff-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	m, err := describeMachine(dir)
	if err != nil {
		return err
	}
	keys, err := newKeys(filepath.Join(dir, "pki"))
	if err != nil {
		return err
	}
	var runs [][]column
	for n := range s.runs {
		slog.Info("measuring", "run", n+1, "of", s.runs)
		columns, err := runOnce(ctx, s, dir, keys)
		if err != nil {
			return err
		}
		runs = append(runs, columns)
	}
	if s.runs > 1 {
		m += fmt.Sprintf(" Medians of %d runs.", s.runs)
	}
	fmt.Printf("%s\n\n%s", m, table(medians(runs)))
	return nil
}

// runOnce measures all servers, each with no data from before.
func runOnce(ctx context.Context, s settings, dir string, keys keys) (columns []column, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, atMost, fmt.Errorf("not done after %v", atMost))
	defer cancel()
	subjects, err := newSubjects(s, dir, keys)
	if err != nil {
		return nil, err
	}
	for _, subject := range subjects {
		if !strings.Contains(subject.name, s.only) {
			continue
		}
		slog.Info("measuring", "server", subject.name)
		figures, err := measure(ctx, subject, keys, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w%s", subject.name, err, subject.lastWords())
		}
		columns = append(columns, column{subject.name, figures})
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("no server's name contains %q", s.only)
	}
	return columns, nil
}

// measure starts the subject, puts all loads on it, starts it once more on its
// data, and stops it.
func measure(ctx context.Context, s *subject, keys keys, set settings) (_ []figure, err error) {
	defer s.stop()
	n := set.scale
	clients, err := keys.clients(s.address, n.connections)
	if err != nil {
		return nil, err
	}
	l := &load{scale: n, server: s, clients: clients}
	busy, err := quiet(ctx)
	if err != nil {
		return nil, err
	}
	l.add("processors busy with other work before", percent, 100*busy)
	for _, step := range []func() error{
		func() error { return l.addStart(ctx, "from start to ready", s) },
		func() error { return pause(ctx, n.idle) },
		func() error { return l.addMemory("memory, idle", s, "VmRSS") },
		func() error { return l.addMemory("memory, idle, without pages of files", s, "RssAnon") },
		func() error { return l.addHeap(ctx, "live heap, idle", s) },
		func() error {
			if set.extensions {
				return l.runExtensions(ctx, s, keys)
			}
			return l.run(ctx)
		},
		func() error { return l.addCPU("CPU time of the server in all", s) },
		func() error { return l.addMemory("memory after the load", s, "VmRSS") },
		func() error { return l.addHeap(ctx, "live heap after the load", s) },
		func() error { return pause(ctx, n.rest) },
		func() error { return l.addMemory("memory, idle again", s, "VmRSS") },
		func() error { return l.addHeap(ctx, "live heap, idle again", s) },
		func() error { return l.addMemory("memory, most ever", s, "VmHWM") },
		func() error { return l.addDisk(s) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
	if !s.durable {
		return l.figures, nil
	}
	s.stop()
	if err := l.addStart(ctx, "from start to ready, with what the load left", s); err != nil {
		return nil, err
	}
	return l.figures, nil
}

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
