package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/procfs"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// readyLine is what the measured process prints when the cluster is up.
const readyLine = "the cluster is up"

// process is the measured cluster.
type process struct {
	cmd    *exec.Cmd
	config *rest.Config
	client kubernetes.Interface
}

// startCluster returns when the cluster is up.
func startCluster(dir string, l load) (_ *process, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, "-serve", dir, "-nodes", strconv.Itoa(l.nodes), "-profile", l.profile)}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	lines := bufio.NewScanner(out)
	for up := false; !up; up = lines.Text() == readyLine {
		if !lines.Scan() {
			return nil, errors.New("the cluster did not come up")
		}
	}
	go func() { // what it says later is not wanted, and must not block it
		for lines.Scan() {
		}
	}()
	if p.config, err = clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "data", "admin.kubeconfig")); err != nil {
		return nil, err
	}
	p.config.QPS = -1
	p.config.ContentType = "application/vnd.kubernetes.protobuf"
	p.client, err = kubernetes.NewForConfig(p.config)
	return p, err
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	return p.cmd.Wait()
}

// usage is what the process has used so far of processors, and holds of memory.
type usage struct {
	cpu      time.Duration
	resident int
}

func (p *process) usage() (usage, error) {
	proc, err := procfs.NewProc(p.cmd.Process.Pid)
	if err != nil {
		return usage{}, err
	}
	stat, err := proc.Stat()
	if err != nil {
		return usage{}, fmt.Errorf("what the cluster uses: %w", err)
	}
	return usage{cpu: time.Duration(stat.CPUTime() * float64(time.Second)), resident: stat.ResidentMemory()}, nil
}
