package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/cluster"
)

// server is one of the two that are asked, as an administrator and as nobody.
type server struct {
	name      string
	base      string
	admin     http.RoundTripper
	anonymous http.RoundTripper
}

type servers struct {
	real, skiff *server
	programs    []*exec.Cmd
}

// startServers starts etcd, kube-apiserver and Skiff's API server in dir, with
// the same certificates and the same settings, and waits until they are ready.
// With -record, Skiff is left out.
func startServers(ctx context.Context, s settings, dir string) (_ *servers, err error) {
	f, err := newFiles(dir)
	if err != nil {
		return nil, err
	}
	var ports [4]string
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil { // of an earlier run
		return nil, err
	}
	all := new(servers)
	defer func() {
		if err != nil {
			all.stop()
		}
	}()
	etcd, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	if err := all.start(dir, "etcd", filepath.Join(s.tools, "etcd"), "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer); err != nil {
		return nil, err
	}
	if err := all.start(dir, "kube-apiserver", filepath.Join(s.tools, "kube-apiserver"), "--etcd-servers", etcd, "--secure-port", ports[2],
		"--bind-address", "127.0.0.1", "--advertise-address", advertised(s.ranges), "--cert-dir", filepath.Join(dir, "certs"),
		"--tls-cert-file", f.cert, "--tls-private-key-file", f.key, "--client-ca-file", f.ca,
		"--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", s.ranges, "--service-account-issuer", issuer,
		"--service-account-key-file", f.tokenKey, "--service-account-signing-key-file", f.tokenKey, "--allow-privileged"); err != nil {
		return nil, err
	}
	if all.real, err = f.client("kube-apiserver", ports[2]); err != nil {
		return nil, err
	}
	waiting := []*server{all.real}
	if s.record == "" {
		if err := all.start(dir, "skiff", s.skiff, "apiserver", "--storage", "memory://", "--listen", "127.0.0.1:"+ports[3], "--advertise-address", advertised(s.ranges),
			"--tls-cert-file", f.cert, "--tls-private-key-file", f.key, "--client-ca-file", f.ca,
			"--service-cluster-ip-range", s.ranges, "--service-account-issuer", issuer, "--service-account-signing-key-file", f.tokenKey); err != nil {
			return nil, err
		}
		if all.skiff, err = f.client("skiff", ports[3]); err != nil {
			return nil, err
		}
		waiting = append(waiting, all.skiff)
	}
	for _, w := range waiting {
		if err := w.ready(ctx); err != nil {
			return nil, fmt.Errorf("%w (logs are in %s)", err, dir)
		}
	}
	return all, nil
}

const (
	issuer      = "https://kubernetes.default.svc.cluster.local"
	singleRange = "10.96.0.0/16"
)

// advertised is an address of documentation (RFC 5737, RFC 3849) of the primary
// family: kube-apiserver refuses loopback addresses.
func advertised(ranges string) string {
	if first, _, _ := strings.Cut(ranges, ","); strings.Contains(first, ":") {
		return "2001:db8::1"
	}
	return "192.0.2.1"
}

// stop ends the programs, last started first.
func (s *servers) stop() {
	for i := len(s.programs) - 1; i >= 0; i-- {
		p := s.programs[i]
		_ = p.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait()
		timer.Stop()
	}
}

func (s *servers) start(dir, name, program string, args ...string) error {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// An interrupt from the terminal is for oracle, which stops them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	s.programs = append(s.programs, cmd)
	return nil
}

// ready waits until the server says it is, and has made its first objects.
func (s *server) ready(ctx context.Context) error {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		ready := true
		var last error
		for _, path := range []string{"/readyz", "/api/v1/namespaces/default", "/api/v1/namespaces/default/services/kubernetes", "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical"} {
			a, err := s.send(ctx, request{Method: http.MethodGet, Path: path})
			if err != nil || a.Code != http.StatusOK {
				ready, last = false, errors.Join(err, fmt.Errorf("GET %s: %d", path, a.Code))
				break
			}
		}
		if ready {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not become ready: %w", s.name, last)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// files are the certificates and keys that both servers use.
type files struct {
	cert, key, ca, tokenKey string
	roots                   *x509.CertPool
	admin                   tls.Certificate
}

func newFiles(dir string) (files, error) {
	f := files{roots: x509.NewCertPool()}
	folder := filepath.Join(dir, "pki")
	pki, err := cluster.OpenPKI(folder)
	if err != nil {
		return f, err
	}
	f.roots.AppendCertsFromPEM(pki.CA())
	if _, err := pki.Server("server", "kubernetes", "127.0.0.1"); err != nil {
		return f, err
	}
	if _, err := pki.Key("tokens"); err != nil {
		return f, err
	}
	admin, err := pki.Client("admin", "admin", "system:masters")
	if err != nil {
		return f, err
	}
	f.cert, f.key = filepath.Join(folder, "server.crt"), filepath.Join(folder, "server.key")
	f.ca, f.tokenKey = filepath.Join(folder, "ca.crt"), filepath.Join(folder, "tokens.key")
	f.admin, err = tls.X509KeyPair(admin.CertPEM, admin.KeyPEM)
	return f, err
}

func (f files) client(name, port string) (*server, error) {
	return &server{
		name: name, base: "https://127.0.0.1:" + port,
		admin:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.roots, Certificates: []tls.Certificate{f.admin}}, ForceAttemptHTTP2: true, DisableCompression: true},
		anonymous: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.roots}, ForceAttemptHTTP2: true, DisableCompression: true},
	}, nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}
