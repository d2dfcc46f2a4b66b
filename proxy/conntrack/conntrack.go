// Package conntrack forgets the kernel's memory of flows that changed
// endpoints made wrong. TCP needs none of it: a connection to an endpoint that
// is gone breaks. A UDP "connection" would go on for as long as the client
// sends.
package conntrack

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy"
)

// Netlink implements proxy.Connections for the network namespace of the process.
type Netlink struct{}

var _ proxy.Connections = Netlink{}

// Forget deletes UDP flows to fronts whose endpoint is no longer one of the
// front's, and those that found no endpoint while there now is one.
func (Netlink) Forget(_ context.Context, old, new *proxy.Table) error {
	stale := &filter{fronts: fronts(new)}
	if old != nil {
		for key := range fronts(old) {
			if _, still := stale.fronts[key]; !still {
				stale.fronts[key] = nil
			}
		}
	}
	if len(stale.fronts) == 0 || unchanged(old, new) {
		return nil
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, stale); err != nil {
		return fmt.Errorf("forget stale UDP flows: %w", err)
	}
	return nil
}

// fronts are the UDP addresses with the endpoints that serve each.
func fronts(t *proxy.Table) map[netip.AddrPort]map[netip.AddrPort]bool {
	found := make(map[netip.AddrPort]map[netip.AddrPort]bool)
	for i := range t.Rules {
		r := &t.Rules[i]
		if r.Protocol != corev1.ProtocolUDP {
			continue
		}
		for _, f := range r.Fronts {
			endpoints := make(map[netip.AddrPort]bool)
			// A node port with a local policy serves its own pods from all.
			for _, e := range append(r.Endpoints(f), r.Cluster...) {
				endpoints[e] = true
			}
			found[f.Addr] = endpoints
		}
	}
	return found
}

func unchanged(old, new *proxy.Table) bool {
	if old == nil {
		return false
	}
	a, b := fronts(old), fronts(new)
	if len(a) != len(b) {
		return false
	}
	for key, endpoints := range b {
		before, ok := a[key]
		if !ok || len(before) != len(endpoints) {
			return false
		}
		for e := range endpoints {
			if !before[e] {
				return false
			}
		}
	}
	return true
}

// filter matches stale flows.
type filter struct {
	fronts map[netip.AddrPort]map[netip.AddrPort]bool
}

// MatchConntrackFlow reports whether a flow went to a front by way of an
// endpoint that does not serve it. The reply's source is where it really went.
func (f *filter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok {
		return false
	}
	went, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok {
		return false
	}
	endpoint := netip.AddrPortFrom(went.Unmap(), flow.Reverse.SrcPort)
	endpoints, known := f.fronts[netip.AddrPortFrom(dst.Unmap(), flow.Forward.DstPort)]
	if !known { // perhaps a node port, which has no address of its own
		endpoints, known = f.fronts[netip.AddrPortFrom(netip.Addr{}, flow.Forward.DstPort)]
		known = known && endpoint.Addr() != dst.Unmap()
	}
	return known && !endpoints[endpoint]
}
