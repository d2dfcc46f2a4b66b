package databases

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// etcd is the one that make etcd builds. It runs as the test does, root
// included: it does not mind, and its program is where others may not read.
type etcd struct{}

func (etcd) String() string { return "etcd" }

func (etcd) ports() int { return 2 }

// create has nothing to do: etcd makes what it needs.
func (etcd) create(*Server) error { return nil }

func (etcd) command(s *Server) (*exec.Cmd, error) {
	tools := os.Getenv("SKIFF_TOOLS")
	if tools == "" {
		return nil, errors.New("SKIFF_TOOLS is not set: run the tests with make test")
	}
	program := filepath.Join(tools, "etcd")
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("etcd is not built, run make etcd: %w", err)
	}
	client, peer := "http://"+address(s.ports[0]), "http://"+address(s.ports[1])
	return plain(program, false, "--data-dir", filepath.Join(s.dir, "data"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--log-level", "warn"), nil
}

var asking = http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (etcd) quit() syscall.Signal { return syscall.SIGTERM }

func (etcd) ready(s *Server) error {
	response, err := asking.Get("http://" + address(s.ports[0]) + "/health")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

func (etcd) database(s *Server, name string) (string, error) {
	if s.databases.Load() > 1 {
		return "", errors.New("an etcd has one database")
	}
	return "etcd://" + address(s.ports[0]), nil
}
