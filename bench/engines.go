package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/bench/wire"
)

// engineScale is how much load the comparison of engines puts on each contender.
type engineScale struct {
	clients     []int         // how many write at once, one number after the other
	connections int           // of those who write, and as many of those who watch
	watchers    int           // each on a namespace of its own, later all on one object
	writing     time.Duration // that creates go on, and that updates do
	patience    time.Duration // for answers to what was sent before that ended
	quiet       time.Duration // without an event, until those that are missing are given up
	updates     int           // of the object that all watch
	pace        time.Duration // between two of them
}

var fullEngines = engineScale{
	clients: []int{1, 50, 1000}, connections: 16, watchers: 1000, writing: 6 * time.Second, patience: 40 * time.Second, quiet: 5 * time.Second,
	updates: 40, pace: 125 * time.Millisecond,
}

var smallEngines = engineScale{
	clients: []int{1, 20}, connections: 2, watchers: 20, writing: time.Second / 2, patience: 20 * time.Second, quiet: 2 * time.Second,
	updates: 5, pace: 20 * time.Millisecond,
}

// A run ends after all of its contenders are measured; one that hangs is given up.
const (
	atMostEngines   = 25 * time.Minute
	atMostContender = 5 * time.Minute
)

// result is what came out of measuring a contender.
type result struct {
	contender
	failed error // it could not be measured to its end
	ready  time.Duration
	memory int64 // of the server, after the load
	levels []level
	fanOut sight // all watchers on one object
}

// level is the load of so many clients.
type level struct {
	clients          int
	created, updated writes
	seen             sight
	spent            spent
	took             time.Duration
}

// runEngines measures the contenders one after the other, and writes after each what is known.
func runEngines(ctx context.Context, s settings, storages []string, n engineScale) error {
	list, err := chosen(storages)
	if err != nil {
		return err
	}
	tools, err := filepath.Abs(s.tools)
	if err != nil {
		return err
	}
	if err := os.Setenv("SKIFF_TOOLS", tools); err != nil { // where package databases finds etcd
		return err
	}
	dir, err := os.MkdirTemp(s.dir, "skiff-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	machine, err := describeMachine(dir)
	if err != nil {
		return err
	}
	keys, err := newKeys(filepath.Join(dir, "pki"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, atMostEngines, fmt.Errorf("not done after %v", atMostEngines))
	defer cancel()
	debug.SetGCPercent(400) // the client has little in memory, and time is dearer
	var results []result
	for i, c := range list {
		if !strings.Contains(c.name(), s.only) {
			continue
		}
		slog.Info("measuring", "server", c.name(), "number", i+1, "of", len(list))
		r := measureEngine(ctx, c, s, keys, dir, n)
		if r.failed != nil {
			slog.Error("not measured", "server", c.name(), "error", r.failed)
		}
		results = append(results, r)
		if err := s.write(machine + "\n\n" + engineReport(results, n)); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// write puts the report where it is wanted; to standard output only when it is done.
func (s settings) write(report string) error {
	if s.out == "" {
		fmt.Printf("%s\n", report)
		return nil
	}
	return os.WriteFile(s.out, []byte(report), 0o644)
}

// measureEngine measures one contender. What fails is part of the result.
func measureEngine(ctx context.Context, c contender, s settings, k keys, dir string, n engineScale) (r result) {
	ctx, cancel := context.WithTimeoutCause(ctx, atMostContender, fmt.Errorf("not done after %v", atMostContender))
	defer cancel()
	r.contender = c
	run, err := c.prepare(s, k, dir)
	if err != nil {
		r.failed = err
		return r
	}
	defer func() {
		r.failed = errors.Join(r.failed, run.end(), os.RemoveAll(run.subject.dir))
	}()
	if err := r.measure(ctx, run, k, n); err != nil {
		r.failed = fmt.Errorf("%w%s", errors.Join(err, context.Cause(ctx)), run.subject.lastWords())
	}
	return r
}

func (r *result) measure(ctx context.Context, run *running, k keys, n engineScale) error {
	clients, err := k.clients(run.subject.address, 1)
	if err != nil {
		return err
	}
	if r.ready, err = run.subject.start(ctx, clients[0]); err != nil {
		return err
	}
	t, err := newTraffic(ctx, run.subject.address, k, n)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.makeNamespaces(ctx); err != nil {
		return err
	}
	if err := r.measureLevels(ctx, run, t, n); err != nil {
		return err
	}
	if r.fanOut, err = t.watchOne(ctx); err != nil {
		return err
	}
	r.memory, err = run.subject.memory("VmRSS")
	return err
}

func (r *result) measureLevels(ctx context.Context, run *running, t *traffic, n engineScale) error {
	audience, err := t.watchNamespaces(ctx)
	if err != nil {
		return err
	}
	defer audience.end()
	for _, clients := range n.clients {
		slog.Info("measuring", "server", r.name(), "clients", clients)
		l := level{clients: clients}
		before, err := run.spent()
		if err != nil {
			return err
		}
		began := time.Now()
		if l.created, err = t.create(ctx, clients); err != nil {
			return err
		}
		if l.updated, err = t.update(ctx, clients, l.created); err != nil {
			return err
		}
		l.seen = audience.await(ctx, slices.Concat(l.created.answers, l.updated.answers), l.created.failed+l.updated.failed, 1, n.quiet)
		after, err := run.spent()
		if err != nil {
			return err
		}
		l.spent, l.took = after.since(before), time.Since(began)
		r.levels = append(r.levels, l)
	}
	return nil
}

// spent is the time on processors so far.
func (r *running) spent() (s spent, err error) {
	if s.client, err = processorTime([]int{os.Getpid()}, false); err != nil {
		return s, err
	}
	if s.server, err = r.subject.cpu(); err != nil || r.database == nil {
		return s, err
	}
	s.database, err = processorTime(r.database.Processes(), true)
	return s, err
}

// newTraffic opens the connections.
func newTraffic(ctx context.Context, address string, k keys, n engineScale) (*traffic, error) {
	t := &traffic{scale: n}
	for i := range 2 * n.connections {
		c, err := wire.Dial(ctx, address, k.config())
		if err != nil {
			t.close()
			return nil, err
		}
		if i < n.connections {
			t.writing = append(t.writing, c)
		} else {
			t.watching = append(t.watching, c)
		}
	}
	var err error
	t.body, err = newTemplate()
	return t, err
}

func (t *traffic) close() {
	for _, c := range append(t.writing, t.watching...) {
		c.Close()
	}
}
