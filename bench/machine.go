package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/bench/quantile"
)

// describeMachine says in a line what was measured on: processors and how busy
// they already are, and what it takes to have a write in dir on its disk.
func describeMachine(dir string) (string, error) {
	sync, err := syncTime(filepath.Join(dir, "sync"))
	if err != nil {
		return "", err
	}
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	if _, after, ok := strings.Cut(string(info), "model name\t: "); ok {
		model, _, _ = strings.Cut(after, "\n")
	}
	busy, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(busy), " ")
	return fmt.Sprintf("%s: %d × %s, load before the run %s, 4 KiB appended and synced in %.2f ms (median).",
		time.Now().UTC().Format("2006-01-02 15:04 MST"), runtime.NumCPU(), model, load, inMillis(sync)), nil
}

// syncTime is the median time that an append of 4 KiB with fdatasync takes.
func syncTime(name string) (time.Duration, error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer os.Remove(name)
	defer f.Close()
	var took []time.Duration
	for range 200 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("sync %s: %w", name, err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return quantile.Of(took, 0.5), nil
}
