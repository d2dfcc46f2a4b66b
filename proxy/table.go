// Package proxy sends traffic for Services to pods. Compute turns Services and
// EndpointSlices into one Table, purely; a Backend makes the node's kernel
// match it.
package proxy

import (
	"context"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Table is all the service traffic of one node. It says what should happen to
// a packet, never how a kernel does it.
type Table struct {
	// Rules in ascending order of Name and Protocol. Each Addr of their Fronts is
	// there once for a protocol.
	Rules []Rule
	// Pods are the addresses of the cluster's pods, whose traffic to a cluster
	// address keeps its source.
	Pods netip.Prefix
	// Health are the node ports on which to say whether a Service has endpoints
	// on this node (externalTrafficPolicy: Local), by Service.
	Health map[string]Health
	// Refused are the addresses that Services asked for in vain.
	Refused []Refused
}

// Rule is one port of one Service.
type Rule struct {
	// Name is namespace/service:port, without ":port" for a port without name.
	Name     string
	Protocol corev1.Protocol
	Fronts   []Front
	// Cluster are the endpoints for traffic that may go anywhere, Local those
	// on this node for traffic that must stay. Readiness and termination are
	// already taken into account.
	Cluster, Local []netip.AddrPort
	// Serving are all endpoints with which flows may go on that began earlier.
	Serving []netip.AddrPort
	// Sticky is how long a client stays with its endpoint; 0: not at all.
	Sticky time.Duration
}

// Front is an address at which a Service receives traffic.
type Front struct {
	Kind FrontKind
	// Addr has no address for a node port: it is that port on every address of
	// the node.
	Addr netip.AddrPort
	// Local keeps the traffic on this node (internalTrafficPolicy for cluster
	// addresses, externalTrafficPolicy for others).
	Local bool
	// Allow are the clients let in (loadBalancerSourceRanges); nil: everyone.
	Allow []netip.Prefix
}

// FrontKind is where a front comes from.
type FrontKind int

// The kinds of front. Where one address is of several kinds, the first has it.
const (
	ClusterIP FrontKind = iota
	LoadBalancer
	ExternalIP
	NodePort
)

// Health is what the health check port of a Service answers with.
type Health struct {
	Port  uint16
	Local int // endpoints on this node
}

// Endpoints are those that serve a front.
func (r *Rule) Endpoints(f Front) []netip.AddrPort {
	if f.Local {
		return r.Local
	}
	return r.Cluster
}

// Backend makes the node match a Table. It is called from one goroutine at a
// time.
type Backend interface {
	// Apply changes whatever differs from t. It is safe to call again.
	Apply(ctx context.Context, t *Table) error
	// Intact reports whether everything is as Apply left it. If not, because other
	// programs change the same things, the next Apply makes it anew.
	Intact(ctx context.Context) (bool, error)
	// Remove takes away everything Apply ever made, in this run or an earlier one.
	Remove(ctx context.Context) error
}
