// Command oracle asks kube-apiserver and Skiff the same and lists what they
// answer differently.
//
// Cases are data: corpus/kinds.yaml has a small and a full object of every
// kind, whose lives are played with every verb and from which wrong objects are
// derived by the schemas kube-apiserver publishes; the other files of corpus
// have requests written by hand. Differences that are meant are in known.yaml,
// those of metrics and health checks in signals.yaml, with their reasons. A run that leaves nothing out writes what it found into
// conformance/results.md. With record, the answers of kube-apiserver are written
// to testdata, where a test holds an in-process Skiff against them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
)

type settings struct {
	tools, skiff, dir string
	group, kind       string
	ranges            string
	life, verbose     bool
	record            string
	out, to           string
}

// whole says that nothing is to be left out.
func (s settings) whole() bool {
	return s.group == "" && s.kind == "" && !s.life && s.ranges == singleRange
}

func main() {
	var s settings
	flag.StringVar(&s.tools, "tools", "bin/tools", "folder with kube-apiserver and etcd")
	flag.StringVar(&s.skiff, "skiff", "bin/skiff", "the program to compare")
	flag.StringVar(&s.dir, "dir", "", "folder for the servers' data and logs; empty: a temporary one")
	flag.StringVar(&s.group, "group", "", "only kinds of this API group (core: the one without a name); requests, documents, signals: the cases written by hand, those of discovery and OpenAPI; signals: metrics and health checks; families: those of Services and IP families")
	flag.StringVar(&s.kind, "kind", "", "only this kind; with neither, all kinds and the cases written by hand")
	flag.StringVar(&s.ranges, "service-cidr", singleRange, "range of Service addresses, or one of each IP family")
	flag.BoolVar(&s.life, "life", false, "leave out the objects derived from schemas")
	flag.BoolVar(&s.verbose, "v", false, "print every difference, not one of each group")
	flag.StringVar(&s.record, "record", "", "write the answers of kube-apiserver to this file instead of comparing")
	flag.StringVar(&s.out, "out", "", "also write every difference to this file")
	flag.StringVar(&s.to, "results", "conformance/results.md", "the results in which the oracle's part is replaced, unless something was left out; empty: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

// errDiffer is why oracle fails when it could ask all and not all is well.
var errDiffer = errors.New("the servers differ")

func run(ctx context.Context, s settings) error {
	dir, err := folder(s.dir)
	if err != nil {
		return err
	}
	if s.dir == "" {
		defer os.RemoveAll(dir)
	}
	servers, err := startServers(ctx, s, dir)
	if err != nil {
		return err
	}
	defer servers.stop()
	c, err := loadCorpus()
	if err != nil {
		return err
	}
	if s.record != "" {
		return record(ctx, s, servers.real, c)
	}
	r := newReport(c.known)
	if err := compare(ctx, s, servers, c, r); err != nil {
		return err
	}
	return r.finish(s)
}

func folder(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "skiff-oracle-")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// compare plays all cases that s asks for on both servers at once.
func compare(ctx context.Context, s settings, servers *servers, c *corpus, r *report) error {
	kinds, err := discover(ctx, servers.real)
	if err != nil {
		return err
	}
	// Documents first: those of kinds that were defined and deleted go some time later.
	sets := slices.Concat([]caseSet{{"documents", documentCases(kinds)}}, c.written, []caseSet{{"families", familyCases()}, {"signals", signalCases()}})
	sets = slices.DeleteFunc(sets, func(set caseSet) bool { return s.kind != "" || s.group != "" && s.group != set.name })
	kinds = slices.DeleteFunc(kinds, func(k kind) bool { return !k.wanted(s.group, s.kind) })
	if len(sets)+len(kinds) == 0 {
		return errors.New("kube-apiserver has no such kind, and there are no cases of that name")
	}
	for _, ask := range []*server{servers.real, servers.skiff} {
		if err := prepare(ctx, ask, c); err != nil {
			return fmt.Errorf("prepare %s: %w", ask.name, err)
		}
	}
	for _, set := range sets {
		r.begin(set.name)
		for _, t := range set.cases {
			r.add(t, both(ctx, servers, t))
		}
		r.end()
	}
	for _, k := range kinds {
		if ctx.Err() != nil {
			break
		}
		if err := compareKind(ctx, s, servers, c, k, r); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	return context.Cause(ctx)
}

func compareKind(ctx context.Context, s settings, servers *servers, c *corpus, k kind, r *report) error {
	r.beginKind(k)
	defer r.end()
	if !served(ctx, servers.skiff, k) {
		r.missing(k)
		return nil
	}
	samples, ok := c.kinds[k.String()]
	if !ok {
		r.unwritten(k)
		return nil
	}
	for _, t := range lives(k, samples) {
		r.add(t, both(ctx, servers, t))
	}
	if s.life || samples.NoObject {
		return nil
	}
	cases, err := derived(ctx, servers.real, k, samples)
	if err != nil {
		return err
	}
	for _, t := range cases {
		r.add(t, both(ctx, servers, t))
	}
	return nil
}
