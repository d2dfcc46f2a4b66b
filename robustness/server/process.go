package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/cluster"
)

// Process is the API server as it is shipped, as a process that can be killed.
type Process struct {
	command []string
	address string
	log     string // file
	client  *tls.Config
	start   func(*exec.Cmd) error

	mu      sync.Mutex
	running *exec.Cmd
	ended   chan struct{} // closed when running has ended
}

// Keys are the certificates and keys of servers and clients.
type Keys struct {
	cert, key, ca, tokens string // files
	client                *tls.Config
}

// Place is where a server runs. The zero Place is this machine.
type Place struct {
	Address string                // host and port that it listens on; empty: any of loopback
	Start   func(*exec.Cmd) error // starts its program; nil: as it is
}

// NewKeys makes keys in a folder, for servers on loopback and at other addresses.
func NewKeys(dir string, addresses ...string) (Keys, error) {
	pki, err := cluster.OpenPKI(dir)
	if err != nil {
		return Keys{}, err
	}
	if _, err := pki.Server("server", "kubernetes", append(addresses, "127.0.0.1")...); err != nil {
		return Keys{}, err
	}
	if _, err := pki.Key("tokens"); err != nil {
		return Keys{}, err
	}
	admin, err := pki.Client("admin", "admin", "system:masters")
	if err != nil {
		return Keys{}, err
	}
	certificate, err := tls.X509KeyPair(admin.CertPEM, admin.KeyPEM)
	if err != nil {
		return Keys{}, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pki.CA())
	return Keys{
		cert: filepath.Join(dir, "server.crt"), key: filepath.Join(dir, "server.key"),
		ca: filepath.Join(dir, "ca.crt"), tokens: filepath.Join(dir, "tokens.key"),
		client: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}},
	}, nil
}

// NewProcess describes a server: program is skiff, storage the URL of an engine,
// log a file.
func NewProcess(program, storage, log string, k Keys, at Place) (*Process, error) {
	program, err := filepath.Abs(program)
	if err != nil {
		return nil, err
	}
	if at.Address == "" {
		if at.Address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	if at.Start == nil {
		at.Start = (*exec.Cmd).Start
	}
	return &Process{
		address: at.Address, log: log, client: k.client, start: at.Start,
		command: []string{program, "apiserver", "--storage", storage, "--listen", at.Address,
			"--tls-cert-file", k.cert, "--tls-private-key-file", k.key, "--client-ca-file", k.ca, "--service-account-signing-key-file", k.tokens},
	}, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Start starts the server and waits until it is ready.
func (p *Process) Start(ctx context.Context) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.command[0], p.command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	// An interrupt from the terminal is for us, who stop it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.start(cmd); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended is in its log
	}()
	p.mu.Lock()
	p.running, p.ended = cmd, ended
	p.mu.Unlock()
	return p.ready(ctx, ended)
}

// ready waits until the server says that it is.
func (p *Process) ready(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("it does not become ready"))
	defer cancel()
	client, err := rest.HTTPClientFor(p.Config())
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Config().Host+"/readyz", nil)
		if err != nil {
			return err
		}
		if response, err := client.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ended:
			return fmt.Errorf("the server ended: %s", p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w: %s", p.command[0], context.Cause(ctx), p.lastWords())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Kill ends the server at once (SIGKILL) and waits for its end.
func (p *Process) Kill() {
	if cmd, ended := p.now(); cmd != nil {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	}
}

// Stop ends the server as an operator does.
func (p *Process) Stop() {
	cmd, ended := p.now()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		p.Kill()
	}
}

// Signal sends the server a signal.
func (p *Process) Signal(s os.Signal) error {
	cmd, _ := p.now()
	return cmd.Process.Signal(s)
}

// Ended is closed when the server that was started last has ended.
func (p *Process) Ended() <-chan struct{} {
	_, ended := p.now()
	return ended
}

func (p *Process) now() (*exec.Cmd, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running, p.ended
}

// Config reaches the server as an administrator.
func (p *Process) Config() *rest.Config {
	return &rest.Config{
		Host: "https://" + p.address,
		QPS:  -1,
		Transport: &http.Transport{
			TLSClientConfig: p.client, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second,
		},
	}
}

// lastWords are the end of the log.
func (p *Process) lastWords() string {
	log, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
