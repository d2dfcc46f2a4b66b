// Package conntrack forgets the kernel's memory of flows that changed
// endpoints made wrong. TCP needs none of it: a connection to an endpoint that
// is gone breaks. A UDP "connection" would go on for as long as the client
// sends.
package conntrack

import (
	"context"
	"errors"
	"fmt"
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
// that found no endpoint while there now is one. Only what differs from last is
// looked at; last is nil if it is not known what was.
func (Netlink) Forget(_ context.Context, last, now *proxy.Table) error {
	changes := proxy.Changes(last, now)
	var errs []error
	for family, number := range map[corev1.IPFamily]int{corev1.IPv4Protocol: unix.AF_INET, corev1.IPv6Protocol: unix.AF_INET6} {
		if stale := newFilter(changes, family); len(stale.fronts)+len(stale.gone) > 0 {
			errs = append(errs, forget(stale, number))
		}
	}
	return errors.Join(errs...)
}

func forget(stale *filter, family int) error {
	var err error
	if stale.local, err = localAddresses(family); err != nil {
		return fmt.Errorf("read the node's addresses: %w", err)
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(family), stale); err != nil {
		return fmt.Errorf("forget stale UDP flows: %w", err)
	}
	return nil
}

// localAddresses are those at which node ports answer, as the kernel sees it.
func localAddresses(family int) ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL},
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

// filter matches stale flows of one family: to the addresses of Rules that changed,
// and to those that no Rule has any more.
type filter struct {
	fronts map[netip.AddrPort]endpoints
	gone   map[netip.AddrPort]bool
	local  []netip.Prefix
}

func newFilter(changes []proxy.Change, family corev1.IPFamily) *filter {
	f := &filter{fronts: make(map[netip.AddrPort]endpoints), gone: make(map[netip.AddrPort]bool)}
	concerned := func(r *proxy.Rule) bool {
		return r != nil && r.Protocol == corev1.ProtocolUDP && r.Family == family
	}
	for _, c := range changes {
		if concerned(c.New) {
			f.add(c.New)
		}
	}
	for _, c := range changes {
		if !concerned(c.Old) {
			continue
		}
		for _, front := range c.Old.Fronts {
			if f.fronts[front.Addr] == nil {
				f.gone[front.Addr] = true
			}
		}
	}
	return f
}

func (f *filter) add(r *proxy.Rule) {
	serving := make(endpoints)
	for _, e := range r.Serving {
		serving[e] = true
	}
	for _, front := range r.Fronts {
		f.fronts[front.Addr] = serving
	}
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
	if serving, known := find(f, f.fronts, to); known {
		return !serving[went]
	}
	// What listens on the node itself may have taken over the port.
	_, known := find(f, f.gone, to)
	return known && went != to
}

// find looks an address up among fronts. A node port has no address of its own:
// it is a port of every address of the node, and of no other machine's.
func find[T any](f *filter, fronts map[netip.AddrPort]T, addr netip.AddrPort) (T, bool) {
	if found, ok := fronts[addr]; ok {
		return found, true
	}
	if !slices.ContainsFunc(f.local, func(p netip.Prefix) bool { return p.Contains(addr.Addr()) }) {
		var none T
		return none, false
	}
	found, ok := fronts[netip.AddrPortFrom(netip.Addr{}, addr.Port())]
	return found, ok
}

func addrPort(ip []byte, port uint16) (netip.AddrPort, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port), ok
}
