package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/guard"
)

// healthServer answers load balancers: on each health check port whether the
// Service has endpoints on this node, and on /healthz whether rules are applied.
type healthServer struct {
	listen string

	mu    sync.Mutex
	ready bool
	self  *http.Server
	ports map[string]*healthPort // by Service
}

type healthPort struct {
	server *http.Server
	health Health
}

func newHealthServer(listen string) *healthServer {
	return &healthServer{listen: listen, ports: make(map[string]*healthPort)}
}

// update opens and closes ports until they are those of want.
func (h *healthServer) update(want map[string]Health) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = true
	var errs []error
	if h.self == nil && h.listen != "" {
		server, err := serve(h.listen, h.healthz)
		h.self = server
		errs = append(errs, err)
	}
	for service, port := range h.ports {
		if w, ok := want[service]; !ok || w.Port != port.health.Port {
			errs = append(errs, port.server.Close())
			delete(h.ports, service)
		}
	}
	for service, w := range want {
		if port, ok := h.ports[service]; ok {
			port.health = w
			continue
		}
		server, err := serve(fmt.Sprintf(":%d", w.Port), func(rw http.ResponseWriter, _ *http.Request) { h.answer(rw, service) })
		if err != nil {
			errs = append(errs, fmt.Errorf("health check port of %s: %w", service, err))
			continue
		}
		h.ports[service] = &healthPort{server, w}
	}
	return errors.Join(errs...)
}

func (h *healthServer) answer(w http.ResponseWriter, service string) {
	h.mu.Lock()
	local := 0
	if port, ok := h.ports[service]; ok {
		local = port.health.Local
	}
	h.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if local == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"service": service, "localEndpoints": local, "serviceProxyHealthy": true})
}

func (h *healthServer) healthz(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/healthz" && r.URL.Path != "/livez" {
		http.NotFound(w, r)
		return
	}
	h.mu.Lock()
	ready := h.ready
	h.mu.Unlock()
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"currentTime": time.Now().UTC(), "healthy": ready})
}

func (h *healthServer) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.self != nil {
		_ = h.self.Close()
	}
	for _, port := range h.ports {
		_ = port.server.Close()
	}
}

func serve(address string, handler http.HandlerFunc) (*http.Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	guard.Go("proxy's health", func() { _ = server.Serve(listener) })
	return server, nil
}
