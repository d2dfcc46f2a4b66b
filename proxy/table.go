// Package proxy sends traffic for Services to pods. Compute turns Services and
// EndpointSlices into one Table, purely; a Backend makes the node's kernel
// match it.
package proxy

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/family"
)

// Table is all the service traffic of one node. It says what should happen to
// a packet, never how a kernel does it. Nobody changes a Table or its Rules once
// they are made.
type Table struct {
	// Rules in ascending order of Name, Protocol and Family. Each Addr of their
	// Fronts is there once for a protocol and a family. A Rule that has not changed
	// since the Table before may be the same pointer, so that Changes is quick.
	Rules []*Rule
	// Pods are the addresses of the cluster's pods, at most one range of each
	// family. Their traffic to a cluster address keeps its source.
	Pods []netip.Prefix
	// Services are ranges of cluster IPs: what is sent there and is no Service's is
	// refused.
	Services []netip.Prefix
	// NodePorts are ranges: node ports answer at those of the node's addresses that
	// are in one; nil: at all.
	NodePorts []netip.Prefix
	// Health are the node ports on which to say whether a Service has endpoints
	// on this node (externalTrafficPolicy: Local), by Service.
	Health map[string]Health
	// Refused are the addresses that Services asked for in vain.
	Refused []Refused
}

// Rule is one port of one Service in one family: all its addresses are of that.
type Rule struct {
	// Name is namespace/service:port, without ":port" for a port without name.
	Name     string
	Protocol corev1.Protocol
	Family   corev1.IPFamily
	Fronts   []Front
	// Cluster are the endpoints for traffic that may go anywhere, Local those
	// on this node for traffic that must stay. Readiness and termination are
	// already taken into account.
	Cluster, Local []netip.AddrPort
	// Serving are all endpoints with which flows may go on that began earlier.
	Serving []netip.AddrPort
	// Hairpin are the addresses of endpoints that may ask for the Service from this
	// node and be sent to themselves: those not known to be elsewhere.
	Hairpin []netip.Addr
	// Sticky is how long a client stays with its endpoint; 0: not at all.
	Sticky time.Duration
}

// Front is an address at which a Service receives traffic.
type Front struct {
	Kind FrontKind
	// Addr has no address for a node port: it is that port on every address of
	// the node in the family of the Rule.
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

// SameRanges reports whether the tables differ in nothing but what Services ask
// for.
func (t *Table) SameRanges(other *Table) bool {
	return slices.Equal(t.Pods, other.Pods) && slices.Equal(t.Services, other.Services) &&
		(t.NodePorts == nil) == (other.NodePorts == nil) && slices.Equal(t.NodePorts, other.NodePorts)
}

// NodePortsOf are the ranges of a family of addresses at which node ports answer;
// all reports that they answer at every address.
func (t *Table) NodePortsOf(f corev1.IPFamily) (ranges []netip.Prefix, all bool) {
	return of(t.NodePorts, f), t.NodePorts == nil
}

// ServicesOf are the ranges of cluster IPs of a family.
func (t *Table) ServicesOf(f corev1.IPFamily) []netip.Prefix { return of(t.Services, f) }

func of(ranges []netip.Prefix, f corev1.IPFamily) (list []netip.Prefix) {
	for _, p := range ranges {
		if family.Of(p.Addr()) == f {
			list = append(list, p)
		}
	}
	return list
}

// PodsOf is the range of the pods of a family; not valid if there is none.
func (t *Table) PodsOf(f corev1.IPFamily) netip.Prefix {
	for _, p := range t.Pods {
		if family.Of(p.Addr()) == f {
			return p
		}
	}
	return netip.Prefix{}
}

func (r *Rule) compare(other *Rule) int {
	return cmp.Or(
		strings.Compare(r.Name, other.Name),
		strings.Compare(string(r.Protocol), string(other.Protocol)),
		strings.Compare(string(r.Family), string(other.Family)),
	)
}

func (r *Rule) equal(other *Rule) bool {
	return r == other || r.compare(other) == 0 && r.Sticky == other.Sticky && slices.EqualFunc(r.Fronts, other.Fronts, Front.equal) &&
		slices.Equal(r.Cluster, other.Cluster) && slices.Equal(r.Local, other.Local) && slices.Equal(r.Serving, other.Serving) && slices.Equal(r.Hairpin, other.Hairpin)
}

func (f Front) equal(other Front) bool {
	return f.Kind == other.Kind && f.Addr == other.Addr && f.Local == other.Local &&
		(f.Allow == nil) == (other.Allow == nil) && slices.Equal(f.Allow, other.Allow)
}

// Change is a Rule that differs between two Tables; Old is nil if it is new, New
// if it is gone.
type Change struct{ Old, New *Rule }

// Changes are the Rules that differ, in the order of a Table. No Table (nil) has
// no Rules. Rules that the Tables share cost next to nothing.
func Changes(old, now *Table) []Change {
	var before, after []*Rule
	if old != nil {
		before = old.Rules
	}
	if now != nil {
		after = now.Rules
	}
	var list []Change
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0] != after[0] && before[0].compare(after[0]) < 0:
			list = append(list, Change{Old: before[0]})
			before = before[1:]
		case len(before) == 0 || before[0] != after[0] && before[0].compare(after[0]) > 0:
			list = append(list, Change{New: after[0]})
			after = after[1:]
		default:
			if !before[0].equal(after[0]) {
				list = append(list, Change{before[0], after[0]})
			}
			before, after = before[1:], after[1:]
		}
	}
	return list
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
