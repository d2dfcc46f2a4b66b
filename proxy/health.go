package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/guard"
)

// late is how long a change may wait until the proxy is not healthy any more.
const late = time.Minute

// taintLeaving is on nodes that the cluster autoscaler is about to delete: load balancers are to send them nothing more.
const taintLeaving = "ToBeDeletedByClusterAutoscaler"

// ProxyHealth is what /healthz and /livez answer with.
type ProxyHealth struct {
	LastUpdated time.Time `json:"lastUpdated"`
	CurrentTime time.Time `json:"currentTime"`
	// NodeEligible reports that the node is there to stay. /livez does not say it, and does not depend on it.
	NodeEligible *bool                            `json:"nodeEligible,omitempty"`
	Healthy      bool                             `json:"healthy"`
	Status       map[corev1.IPFamily]FamilyHealth `json:"status,omitempty"`
}

// FamilyHealth is that of one IP family.
type FamilyHealth struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// newProxyHealth is the health at a time of a proxy whose oldest change waits since waiting, if that is not zero, and
// which has last applied a table at applied, or never.
func newProxyHealth(now, waiting, applied time.Time, families []corev1.IPFamily) ProxyHealth {
	h := ProxyHealth{CurrentTime: now, LastUpdated: now, Healthy: waiting.IsZero() || now.Sub(waiting) < late}
	if !h.Healthy {
		h.LastUpdated = applied
	}
	if !applied.IsZero() {
		h.Status = make(map[corev1.IPFamily]FamilyHealth)
		for _, f := range families {
			h.Status[f] = FamilyHealth{applied, h.Healthy}
		}
	}
	return h
}

// eligible reports whether load balancers may go on to send to a node; nil stands for one that is not there.
func eligible(n *corev1.Node) bool {
	return n != nil && n.DeletionTimestamp.IsZero() &&
		!slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintLeaving })
}

// healthServer answers load balancers: on each health check port whether the
// Service has endpoints on this node, and on /healthz whether rules are kept up to date.
type healthServer struct {
	listen    string
	nodePorts []netip.Prefix // where health check ports answer; nil: at all addresses
	health    func() ProxyHealth
	eligible  func() bool // whether the node is

	mu    sync.Mutex
	self  *http.Server
	ports map[string]*healthPort // by Service
}

type healthPort struct {
	server *http.Server
	health Health
}

// open opens the port of the proxy itself, unless it is.
func (h *healthServer) open() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.self != nil || h.listen == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		health, eligible := h.health(), h.eligible()
		health.NodeEligible = &eligible
		text, _ := json.Marshal(health) // of these types, nothing can fail
		say(w, health.Healthy && eligible, text)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		health := h.health()
		text, _ := json.Marshal(health)
		say(w, health.Healthy, text)
	})
	server, err := serve(mux, h.listen)
	h.self = server
	return err
}

// update opens and closes ports of Services until they are those of want.
func (h *healthServer) update(want map[string]Health) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ports == nil {
		h.ports = make(map[string]*healthPort)
	}
	var errs []error
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
		addresses, err := h.addresses(w.Port)
		if err == nil {
			h.ports[service] = &healthPort{health: w}
			h.ports[service].server, err = serve(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { h.answer(rw, service) }), addresses...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("health check port of %s: %w", service, err))
			delete(h.ports, service)
		}
	}
	return errors.Join(errs...)
}

// addresses are those at which a health check port answers: where node ports do.
func (h *healthServer) addresses(port uint16) ([]string, error) {
	if h.nodePorts == nil {
		return []string{fmt.Sprintf(":%d", port)}, nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && slices.ContainsFunc(h.nodePorts, func(r netip.Prefix) bool { return r.Contains(p.Addr()) }) {
			list = append(list, netip.AddrPortFrom(p.Addr(), port).String())
		}
	}
	return list, nil
}

func (h *healthServer) answer(w http.ResponseWriter, service string) {
	h.mu.Lock()
	local := 0
	if port, ok := h.ports[service]; ok {
		local = port.health.Local
	}
	h.mu.Unlock()
	var answer struct {
		Service struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"service"`
		LocalEndpoints      int  `json:"localEndpoints"`
		ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
	}
	answer.Service.Namespace, answer.Service.Name, _ = strings.Cut(service, "/")
	answer.LocalEndpoints, answer.ServiceProxyHealthy = local, h.health().Healthy
	// By this, load balancers spread clients by the number of endpoints.
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
	text, _ := json.MarshalIndent(answer, "", "\t")
	say(w, local > 0 && answer.ServiceProxyHealthy, text)
}

// say answers with a status that tells whether all is well, and the words for it.
func say(w http.ResponseWriter, well bool, words []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !well {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(words)
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

// serve answers at addresses until the server is closed. If one of them cannot be
// had, none is left open.
func serve(handler http.Handler, addresses ...string) (*http.Server, error) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	var listeners []net.Listener
	for _, address := range addresses {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			for _, other := range listeners {
				_ = other.Close()
			}
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	for _, listener := range listeners {
		guard.Go("proxy's health", func() { _ = server.Serve(listener) })
	}
	return server, nil
}

// familiesOf are those of ranges.
func familiesOf(ranges []netip.Prefix) (list []corev1.IPFamily) {
	for _, p := range ranges {
		list = append(list, family.Of(p.Addr()))
	}
	return list
}
