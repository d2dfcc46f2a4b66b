package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// testInside runs the suite in a pod, as those do who certify clusters:
// Hydrophone starts the pod from the image of the suite, which a node pulls,
// and brings back the log and the report.
func (s settings) testInside(ctx context.Context, tests []test) error {
	reports := filepath.Join(s.dir, "reports")
	if err := os.MkdirAll(reports, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "hydrophone.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	which := []string{"--focus", focus(tests)}
	if len(tests) == len(allTests()) {
		which = []string{"--conformance"}
	}
	fmt.Printf("running %d tests in the cluster, %d at once; the logs are %s and, at the end, %s\n", len(tests), s.procs, log.Name(), filepath.Join(reports, "e2e.log"))
	cmd := exec.CommandContext(ctx, filepath.Join(s.tools, "hydrophone"), append(which,
		"--kubeconfig", s.kubeconfig(), "--output-dir", reports, "--parallel", strconv.Itoa(s.procs),
		"--busybox-image", "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", // the suite's own, not the one before it
	)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, &dots{}), io.MultiWriter(log, os.Stderr)
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		return err
	}
	fmt.Println()
	return context.Cause(ctx)
}
