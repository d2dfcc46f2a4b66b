// Command robustness puts API servers under load by many clients, makes things
// go wrong meanwhile, and checks that what the clients saw can have been: see
// packages history, which judges, and traffic, which is the clients.
//
// It makes one history after the other, each with a seed of its own, until its
// time is over, and prints what was done. A history that cannot be explained is
// kept in a file, and its seed is printed: -seed N -count 1 makes the same
// clients do the same again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/robustness/disk"
	"github.com/skiff-k8s/skiff/robustness/network"
)

type settings struct {
	skiff, dir string
	subjects   []string
	faults     []string
	time       time.Duration
	seed       uint64
	count      int
}

func main() {
	disk.Confine()
	if err := network.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "robustness:", err)
		os.Exit(1)
	}
	var s settings
	var subjects, faults string
	flag.StringVar(&s.skiff, "skiff", "bin/skiff", "the program to test")
	flag.StringVar(&s.dir, "dir", os.TempDir(), "where to put the servers' data for the time of the run")
	flag.StringVar(&subjects, "engine", "", "servers to test, separated by commas: "+strings.Join(names(subjectTable), ", ")+" (default all)")
	flag.StringVar(&faults, "faults", "", "what goes wrong, separated by commas: "+strings.Join(faultNames(), ", ")+" (default all)")
	flag.DurationVar(&s.time, "time", 3*time.Minute, "how long to go on")
	flag.Uint64Var(&s.seed, "seed", uint64(time.Now().UnixNano()%1_000_000), "of the first history; the next ones follow")
	flag.IntVar(&s.count, "count", 0, "how many histories to make of each server at most; 0: as many as there is time for")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := s.parse(subjects, faults)
	if err == nil {
		err = run(ctx, s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "robustness:", err)
		os.Exit(1)
	}
}

// parse reads the lists of names.
func (s *settings) parse(subjects, faults string) (err error) {
	if s.subjects, err = listed(subjects, names(subjectTable)); err != nil {
		return fmt.Errorf("-engine: %w", err)
	}
	if s.faults, err = listed(faults, faultNames()); err != nil {
		return fmt.Errorf("-faults: %w", err)
	}
	return nil
}

// faultNames are those of all servers.
func faultNames() []string {
	return slices.Compact(slices.Sorted(slices.Values(append(names((&machine{}).faults()), names((&site{}).faults())...))))
}

// listed reads a list of some of all names; none: all.
func listed(text string, all []string) ([]string, error) {
	if text == "" {
		return all, nil
	}
	found := strings.Split(text, ",")
	known := make(map[string]bool)
	for _, name := range all {
		known[name] = true
	}
	for _, name := range found {
		if !known[name] {
			return nil, fmt.Errorf("there is no %q", name)
		}
	}
	return found, nil
}

// run makes histories of each server in turn.
func run(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp(s.dir, "skiff-robustness-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	deadline := time.Now().Add(s.time)
	totals := make(map[string]*total)
	for n := 0; (s.count == 0 || n < s.count) && ctx.Err() == nil; n++ {
		for _, name := range s.subjects {
			if n > 0 && time.Now().After(deadline) {
				return report(totals)
			}
			t := totals[name]
			if t == nil {
				t = &total{faults: make(map[string]int)}
				totals[name] = t
			}
			if err := t.one(ctx, s, name, dir, s.seed+uint64(n)); err != nil {
				return errors.Join(fmt.Errorf("%s, seed %d: %w", name, s.seed+uint64(n), err), report(totals))
			}
		}
	}
	return errors.Join(report(totals), ctx.Err())
}
