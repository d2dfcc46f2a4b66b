package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/skiff-k8s/skiff/family"
)

// start starts a cluster of two nodes that pull images from a registry of ours,
// or of no nodes if no test runs a pod.
func (s settings) start(ctx context.Context, nodes bool) (stop func() error, err error) {
	if !nodes {
		return s.up(ctx, "--nodes", "0")
	}
	images, err := openRegistry(filepath.Join(s.images, "*.tar"))
	if err != nil {
		return nil, err
	}
	port, stopRegistry, err := images.serve()
	if err != nil {
		return nil, err
	}
	host := s.nodeCIDRs[0].Masked().Addr().Next() // as nodes see it
	stopCluster, err := s.up(ctx, "--nodes", "2", "--registry-mirror", "http://"+netip.AddrPortFrom(host, uint16(port)).String())
	if err != nil {
		return nil, errors.Join(err, stopRegistry())
	}
	stop = func() error { return errors.Join(stopCluster(), stopRegistry()) }
	if err := s.loadImages(ctx); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// upperHalf is the part of the range of nodes where load balancers have their addresses; nodes begin at its other end. Tests
// of load balancers want several at one port, and one for a Service that has no endpoints yet, as clouds have them.
func upperHalf(p netip.Prefix) netip.Prefix {
	bytes := p.Masked().Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	addr, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(addr, p.Bits()+1)
}

// up starts skiff as a user would, with further arguments, and returns when the
// cluster is complete, or has stopped because ctx ended.
func (s settings) up(ctx context.Context, more ...string) (stop func() error, err error) {
	args := append([]string{
		"up", "--data-dir", s.data(), "--listen", s.listen, "--tools", s.tools, "--max-pods", "60",
		"--pod-cidr", s.podCIDRs.String(), "--node-cidr", s.nodeCIDRs.String(),
	}, more...)
	if s.beyond {
		var balancers family.Ranges
		for _, nodes := range s.nodeCIDRs {
			balancers = append(balancers, upperHalf(nodes))
		}
		args = append(args, "--load-balancer-addresses", balancers.String())
	}
	if s.storage != "" {
		args = append(args, "--storage", s.storage)
	}
	if s.isolated {
		args = append(args, "--isolated")
	}
	args = append(args, strings.Fields(s.flags)...)
	cmd := exec.Command(s.skiff, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() error {
		_ = cmd.Process.Signal(os.Interrupt)
		_, _ = io.Copy(io.Discard, out)
		return cmd.Wait()
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(os.Interrupt) })()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if ready, _, found := strings.Cut(lines.Text(), ". In another terminal:"); found {
			fmt.Println(ready)
			return stop, nil
		}
		fmt.Println(lines.Text())
	}
	return nil, cmp.Or(context.Cause(ctx), fmt.Errorf("skiff up ended: %w", cmd.Wait()))
}

func (s settings) data() string { return filepath.Join(s.dir, "cluster") }

func (s settings) kubeconfig() string { return filepath.Join(s.data(), "admin.kubeconfig") }

// loadImages brings the images to the nodes before the first test, for pulls
// would count into the time a test waits. The others are pulled.
func (s settings) loadImages(ctx context.Context) error {
	archives, err := filepath.Glob(filepath.Join(s.images, "registry.k8s.io_e2e-test-images_*.tar"))
	if err != nil {
		return err
	}
	if len(archives) == 0 {
		return fmt.Errorf("no images in %s: make conformance-images", s.images)
	}
	args := append([]string{"image", "import", "--data-dir", s.data(), "--tools", s.tools}, archives...)
	if out, err := exec.CommandContext(ctx, s.skiff, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("import images: %w: %s", err, out)
	}
	return nil
}
