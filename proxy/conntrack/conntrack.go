// Package conntrack forgets the kernel's memory of flows that changed
// endpoints made wrong. TCP needs none of it: a connection to an endpoint that
// is gone breaks. A UDP "connection" would go on for as long as the client
// sends.
package conntrack

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy"
)

// Netlink implements proxy.Connections for the network namespace of the process.
type Netlink struct{}

var _ proxy.Connections = Netlink{}

// Forget deletes UDP flows to fronts whose endpoint no longer serves, and those
// that found no endpoint while there now is one. Nothing is done if the fronts and
// their endpoints are those of last, which is nil if it is not known what was.
func (Netlink) Forget(_ context.Context, last, now *proxy.Table) error {
	stale := &filter{fronts: fronts(now)}
	if last != nil {
		before := fronts(last)
		if maps.EqualFunc(before, stale.fronts, maps.Equal) {
			return nil
		}
		stale.gone = before
		maps.DeleteFunc(stale.gone, func(addr netip.AddrPort, _ endpoints) bool { return stale.fronts[addr] != nil })
	}
	if len(stale.fronts)+len(stale.gone) == 0 {
		return nil
	}
	var err error
	if stale.local, err = localAddresses(); err != nil {
		return fmt.Errorf("read the node's addresses: %w", err)
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, stale); err != nil {
		return fmt.Errorf("forget stale UDP flows: %w", err)
	}
	return nil
}

// localAddresses are those at which node ports answer, as the kernel sees it.
func localAddresses() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL},
		netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if addr, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			bits, _ := r.Dst.Mask.Size()
			list = append(list, netip.PrefixFrom(addr.Unmap(), bits))
		}
	}
	return list, nil
}

type endpoints = map[netip.AddrPort]bool

// fronts are the UDP addresses with the endpoints that serve each.
func fronts(t *proxy.Table) map[netip.AddrPort]endpoints {
	found := make(map[netip.AddrPort]endpoints)
	for i := range t.Rules {
		r := &t.Rules[i]
		if r.Protocol != corev1.ProtocolUDP {
			continue
		}
		serving := make(endpoints)
		for _, e := range r.Serving {
			serving[e] = true
		}
		for _, f := range r.Fronts {
			found[f.Addr] = serving
		}
	}
	return found
}

// filter matches stale flows.
type filter struct {
	fronts, gone map[netip.AddrPort]endpoints
	local        []netip.Prefix
}

// MatchConntrackFlow reports whether a flow to a front went elsewhere than to an
// endpoint that serves it. The reply's source is where it really went: for a flow
// that began before the front was there, the front's address itself.
func (f *filter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
	went, ok2 := addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)
	if !ok1 || !ok2 {
		return false
	}
	if serving, known := f.find(f.fronts, to); known {
		return !serving[went]
	}
	// What listens on the node itself may have taken over the port.
	_, known := f.find(f.gone, to)
	return known && went != to
}

// find looks an address up among fronts. A node port has no address of its own:
// it is a port of every address of the node, and of no other machine's.
func (f *filter) find(fronts map[netip.AddrPort]endpoints, addr netip.AddrPort) (endpoints, bool) {
	if found, ok := fronts[addr]; ok {
		return found, true
	}
	if !slices.ContainsFunc(f.local, func(p netip.Prefix) bool { return p.Contains(addr.Addr()) }) {
		return nil, false
	}
	found, ok := fronts[netip.AddrPortFrom(netip.Addr{}, addr.Port())]
	return found, ok
}

func addrPort(ip []byte, port uint16) (netip.AddrPort, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port), ok
}
