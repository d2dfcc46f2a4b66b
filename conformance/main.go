// Command conformance runs the official conformance suite of Kubernetes
// against a cluster it starts, and writes down what passed and what failed. A
// test counts as passed only if it ran and passed in this run.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/family"
)

// testList has a line for each of the 446 tests: its name, whether it must run
// alone, what it needs (tier) and which capability it is about (group).
//
//go:embed tests.tsv
var testList string

type settings struct {
	tier, focus, skip      string
	beyond                 bool
	procs                  int
	keep                   bool
	dir, tools, images, to string
	skiff, storage         string
	isolated, hydrophone   bool
	listen, flags          string
	podCIDRs, nodeCIDRs    family.Ranges
}

func main() {
	var s settings
	flag.StringVar(&s.tier, "tier", "", "only the tests of these tiers (aggregation, api, controllers, dra, multinode, network, node, storage, webhook), separated by commas")
	flag.StringVar(&s.focus, "focus", "", "only the tests whose names match this regular expression")
	flag.StringVar(&s.skip, "skip", "", "not the tests whose names match this regular expression")
	flag.BoolVar(&s.beyond, "beyond", false, "choose of the tests of e2e.test that are not in the conformance suite")
	flag.IntVar(&s.procs, "procs", 4, "how many tests to run at once")
	flag.BoolVar(&s.keep, "keep", false, "leave the cluster running afterwards, until interrupted")
	flag.StringVar(&s.skiff, "skiff", "bin/skiff", "the program to test")
	flag.StringVar(&s.storage, "storage", "", "URL of the storage, which must be new; empty: a file")
	flag.StringVar(&s.flags, "up", "", "further flags of skiff up, separated by spaces")
	flag.StringVar(&s.dir, "dir", "/tmp/skiff-conformance", "folder for the cluster and the reports")
	flag.StringVar(&s.tools, "tools", "bin/tools", "folder with e2e.test, ginkgo, kubectl and what nodes need")
	flag.StringVar(&s.images, "images", "bin/images", "folder with the archives that make conformance-images makes")
	flag.StringVar(&s.to, "results", "conformance/results.md", "where to write the results; empty: to the standard output alone")
	flag.BoolVar(&s.isolated, "isolated", true, "leave the host's own network as it is")
	flag.BoolVar(&s.hydrophone, "hydrophone", false, "run the suite in a pod of the cluster, by Hydrophone")
	// Ranges other than those of skiff up, so that a cluster may be up meanwhile.
	flag.StringVar(&s.listen, "listen", "0.0.0.0:16443", "address of the API")
	flag.TextVar(&s.podCIDRs, "pod-cidr", family.MustParse("10.245.0.0/16"), "range of pod addresses, or one of each IP family")
	flag.TextVar(&s.nodeCIDRs, "node-cidr", family.MustParse("172.30.1.0/24"), "the same of node addresses")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run starts the cluster, runs the tests on it, and writes the results. It fails
// unless all of them passed.
func run(ctx context.Context, s settings) error {
	for _, path := range []*string{&s.tools, &s.skiff, &s.dir} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = absolute
	}
	tests, err := choose(s)
	if err != nil {
		return err
	}
	free, err := claim(s.dir)
	if err != nil {
		return err
	}
	defer free()
	// Every run begins without objects; images already imported stay.
	for _, old := range []string{"reports", "cluster/store", "cluster/store.db", "cluster/skiff.db"} {
		if err := os.RemoveAll(filepath.Join(s.dir, old)); err != nil {
			return err
		}
	}
	stop, err := s.start(ctx, s.needsNodes(tests))
	if err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	begin := time.Now()
	if s.hydrophone {
		err = s.testInside(ctx, tests)
	} else {
		err = s.test(ctx, tests)
	}
	if err == nil {
		err = s.report(tests, begin)
	}
	if s.keep && ctx.Err() == nil {
		fmt.Printf("the cluster is still up: KUBECONFIG=%s; Ctrl-C ends it\n", s.kubeconfig())
		<-ctx.Done()
	}
	return errors.Join(err, stop())
}

// claim keeps other runs out of a folder, which would take from this one its
// cluster's objects, until free is called or the process ends.
func claim(dir string) (free func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another run is on in %s: %w", dir, err), file.Close())
	}
	return file.Close, nil
}

// test runs the suite: what may run side by side first, then the rest alone.
// Ginkgo does that by itself, by the tests' own marks.
func (s settings) test(ctx context.Context, tests []test) error {
	args := []string{"--procs=" + strconv.Itoa(s.procs), "--timeout=24h", "--no-color", "--keep-going"}
	suite := []string{
		"--provider=skeleton", "--disable-log-dump",
		"--kubeconfig=" + s.kubeconfig(),
		"--kubectl-path=" + filepath.Join(s.tools, "kubectl"),
		"--report-dir=" + filepath.Join(s.dir, "reports"),
	}
	if !s.needsNodes(tests) {
		suite = append(suite, "--allowed-not-ready-nodes=-1", "--num-nodes=1")
	} else if s.beyond {
		suite = append(suite, "--num-nodes=2") // only the first of several processes would count them; the others skip tests
	}
	args = append(args, "--focus="+focus(tests), filepath.Join(s.tools, "e2e.test"), "--")
	log, err := os.Create(filepath.Join(s.dir, "e2e.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Printf("running %d tests, %d at once; the log is %s\n", len(tests), s.procs, log.Name())
	cmd := exec.CommandContext(ctx, filepath.Join(s.tools, "ginkgo"), append(args, suite...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, &dots{}), log
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+s.tools+":"+os.Getenv("PATH"), "HOME="+s.dir)
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		return err
	}
	fmt.Println()
	return context.Cause(ctx)
}

// dots passes on ginkgo's marks of tests that ended, and nothing else.
type dots struct{}

var ended = regexp.MustCompile(`•( \[(FAILED|PANICKED|TIMEDOUT)\])?`)

func (d *dots) Write(p []byte) (int, error) {
	for _, match := range ended.FindAllString(string(p), -1) {
		fmt.Print(cmp.Or(map[bool]string{true: "F"}[strings.Contains(match, "[")], "."))
	}
	return len(p), nil
}
