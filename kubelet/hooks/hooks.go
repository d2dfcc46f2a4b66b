// Package hooks runs the life cycle hooks of containers: exec, httpGet, sleep and, for old pods,
// tcpSocket.
package hooks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// httpTimeout bounds an HTTP hook as a whole, connecting included.
const httpTimeout = 30 * time.Second

// Exec runs a command in a container.
type Exec func(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (output []byte, exitCode int, err error)

// Runner runs hooks. It is safe for concurrent use.
type Runner struct {
	exec   Exec
	client *http.Client
}

// New makes a Runner.
func New(exec Exec) *Runner {
	return &Runner{
		exec: exec,
		client: &http.Client{
			Timeout: httpTimeout,
			Transport: &http.Transport{
				// As for probes, the certificate of a container's own server is not verified.
				TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
				DisableKeepAlives: true,
				Proxy:             nil,

				MaxResponseHeaderBytes: 1 << 20,
			},
		},
	}
}

// Run runs one hook of a running container and returns when it is done. The error's text is for the
// node's log and the waiting message; it may hold the container's output.
func (r *Runner) Run(ctx context.Context, h *v1.LifecycleHandler, c *v1.Container, containerID, podIP string) error {
	switch {
	case h.Exec != nil:
		return r.runExec(ctx, h.Exec, containerID)
	case h.HTTPGet != nil:
		return r.runHTTP(ctx, h.HTTPGet, c, podIP)
	case h.Sleep != nil:
		return sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
	case h.TCPSocket != nil:
		return errors.New("a lifecycle hook cannot be of type tcpSocket")
	default:
		return errors.New("invalid handler: the hook has no action")
	}
}

func (r *Runner) runExec(ctx context.Context, h *v1.ExecAction, containerID string) error {
	output, code, err := r.exec(ctx, containerID, h.Command, 0)
	if err != nil {
		return fmt.Errorf("exec %q: %w", h.Command, err)
	}
	if code != 0 {
		return fmt.Errorf("command '%s' exited with %d: %s", strings.Join(h.Command, " "), code, output)
	}
	return nil
}

func (r *Runner) runHTTP(ctx context.Context, h *v1.HTTPGetAction, c *v1.Container, podIP string) error {
	port, err := Port(h.Port, c)
	if err != nil {
		return err
	}
	host := h.Host
	if host == "" {
		host = podIP
	}
	if host == "" {
		return errors.New("the pod has no address to send the hook to")
	}
	scheme := strings.ToLower(string(h.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	target, err := url.Parse(h.Path)
	if err != nil {
		target = &url.URL{Path: h.Path}
	}
	target.Scheme, target.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "kube-lifecycle/1.36")
	req.Header.Set("Accept", "*/*")
	for _, header := range h.HTTPHeaders {
		if http.CanonicalHeaderKey(header.Name) == "Host" {
			req.Host = header.Value
			continue
		}
		req.Header.Add(header.Name, header.Value)
	}
	resp, err := r.client.Do(req)
	if err != nil && scheme == "https" && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		// Hooks used to ignore the scheme, so a plain server behind https is forgiven.
		req.URL.Scheme = "http"
		req.Header.Del("Authorization")
		resp, err = r.client.Do(req)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 10<<10) // what it answers does not matter
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Port resolves a hook's port, which may be the name of one of the container's ports.
func Port(p intstr.IntOrString, c *v1.Container) (int, error) {
	port := p.IntValue()
	if p.Type == intstr.String {
		for _, named := range c.Ports {
			if named.Name == p.StrVal {
				port = int(named.ContainerPort)
			}
		}
	}
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return port, nil
}
