package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/bench/rig"
	"github.com/skiff-k8s/skiff/fakenodes"
)

// controlPlane is a measured control plane. Its nodes are played by a process that is not measured.
type controlPlane struct {
	client     kubernetes.Interface
	kubeconfig string // an administrator's
	usage      func() (rig.Usage, error)
	stop       func() error
}

// contender is a control plane that can be started.
type contender struct {
	name  string
	start func(ctx context.Context, dir string, l load) (*controlPlane, error)
}

func contenders(tools string) []contender {
	list := []contender{{"Skiff", startSkiff}}
	if tools == "" {
		return list
	}
	return append(list, contender{"kube-apiserver, etcd, kube-controller-manager, kube-scheduler", func(ctx context.Context, dir string, _ load) (*controlPlane, error) {
		return startUpstream(ctx, dir, tools)
	}})
}

func startUpstream(ctx context.Context, dir, tools string) (_ *controlPlane, err error) {
	r, err := rig.Kubernetes(ctx, dir, tools)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.Stop()
		}
	}()
	if err := r.StartUpstream(tools, "kube-controller-manager", r.Admin, "--root-ca-file", r.CA(), "--service-account-private-key-file", r.TokenKey(),
		"--allocate-node-cidrs", "--cluster-cidr", podRange.String()); err != nil {
		return nil, err
	}
	if err := r.StartUpstream(tools, "kube-scheduler", r.Admin); err != nil {
		return nil, err
	}
	return &controlPlane{client: r.Client, kubeconfig: r.Admin, usage: r.Usage, stop: func() error { r.Stop(); return nil }}, nil
}

// startSkiff starts this program again, to be a control plane, and returns when it is up.
func startSkiff(_ context.Context, dir string, l load) (*controlPlane, error) {
	cmd, err := again("-serve", dir, "-profile", l.profile)
	if err != nil {
		return nil, err
	}
	c := &controlPlane{
		kubeconfig: filepath.Join(dir, "data", "admin.kubeconfig"),
		usage:      func() (rig.Usage, error) { return rig.UsageOf(cmd.Process.Pid) },
		stop:       func() error { return end(cmd) },
	}
	config, err := rig.Config(c.kubeconfig)
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// startNodes starts this program again, to be the nodes of a control plane.
func startNodes(c *controlPlane, l load) (stop func() error, err error) {
	cmd, err := again("-play", c.kubeconfig, "-nodes", strconv.Itoa(l.nodes))
	if err != nil {
		return nil, err
	}
	return func() error { return end(cmd) }, nil
}

// readyLine is what this program prints as a process of its own when it has begun.
const readyLine = "it has begun"

// again starts this program as a process of its own and returns when it has begun. It ends with this one.
func again(args ...string) (_ *exec.Cmd, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for begun := false; !begun; begun = lines.Text() == readyLine {
		if !lines.Scan() {
			return nil, errors.Join(fmt.Errorf("%v did not begin", args), end(cmd))
		}
	}
	go func() { // what it says later is not wanted, and must not block it
		for lines.Scan() {
		}
	}()
	return cmd, nil
}

func end(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	return cmd.Wait()
}

// playNodes is the process that plays the nodes.
func playNodes(ctx context.Context, kubeconfig string, l load) error {
	config, err := rig.Config(kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes, err := fakenodes.New(fakenodes.Config{Client: client, Informers: factory, Count: l.nodes})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	fmt.Println(readyLine)
	if err := nodes.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}
