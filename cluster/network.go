package cluster

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/cluster/node"
	"github.com/skiff-k8s/skiff/family"
)

// network joins the nodes that live in network namespaces of their own with the
// host, by a bridge whose host end has the first address of each node range.
type network struct {
	bridge string
	owner  string // the data directory, told by the bridge's alias
	nodes  family.Ranges
	// only is what nodes reach besides each other and this machine; nil is
	// everything.
	only       []netip.Prefix
	namespaces namespaces
}

// gateways are the host's addresses on the bridge.
func (n network) gateways() []netip.Addr { return n.addresses(-1) }

// addresses are those of the i-th node in a namespace, counted from 0.
func (n network) addresses(i int) []netip.Addr {
	var list []netip.Addr
	for _, p := range n.nodes {
		list = append(list, nth(p, i+2))
	}
	return list
}

// ensureBridge makes the bridge if it is not there.
func (n network) ensureBridge() error {
	link, err := ensureLink(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.bridge}})
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(link, ownerMark+n.owner); err != nil {
		return err
	}
	for i, gateway := range n.gateways() {
		if err := up(link, netip.PrefixFrom(gateway, n.nodes[i].Bits())); err != nil {
			return err
		}
	}
	return nil
}

// ensureNamespace makes the network namespace of a node and its connection to
// the bridge. It may be called again for a namespace that an earlier run left
// with containers in it.
func (n network) ensureNamespace(name, link string, addrs []netip.Addr) error {
	ns, err := n.namespaces.open(name)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	if _, err := inside.LinkByName("eth0"); err == nil {
		return nil
	}
	if err := n.connect(inside, ns, link, addrs); err != nil {
		return fmt.Errorf("connect namespace %s: %w", name, err)
	}
	return nil
}

func (n network) connect(inside *netlink.Handle, ns netns.NsHandle, link string, addrs []netip.Addr) error {
	if err := node.RemoveLink(link); err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: link}, PeerName: "eth0",
		PeerNamespace: netlink.NsFd(int(ns)),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(n.bridge)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(veth, bridge); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := inside.LinkSetUp(lo); err != nil {
		return err
	}
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	for i, addr := range addrs {
		if err := inside.AddrAdd(eth0, ipAddr(netip.PrefixFrom(addr, n.nodes[i].Bits()))); err != nil {
			return err
		}
	}
	if err := inside.LinkSetUp(eth0); err != nil {
		return err
	}
	for _, route := range n.routes(eth0.Attrs().Index) {
		if err := inside.RouteAdd(&route); err != nil {
			return err
		}
	}
	return nil
}

// routes are those of a node, by way of this machine. What it must not reach is
// refused at once: packets that nobody answers would make lookups of names, and
// so pulls of images, wait.
func (n network) routes(link int) []netlink.Route {
	var routes []netlink.Route
	for i, gateway := range n.gateways() {
		by := func(to netip.Prefix) netlink.Route {
			return netlink.Route{LinkIndex: link, Dst: ipNet(to), Gw: gateway.AsSlice()}
		}
		everything := netip.PrefixFrom(unspecified(gateway), 0)
		if n.only == nil {
			routes = append(routes, by(everything))
			continue
		}
		routes = append(routes, netlink.Route{Dst: ipNet(everything), Type: unix.RTN_UNREACHABLE})
		for _, prefix := range n.only {
			if family.Of(prefix.Addr()) == family.Of(n.nodes[i].Addr()) {
				routes = append(routes, by(prefix))
			}
		}
	}
	return routes
}

// unspecified is the address 0 of the family of one.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// hostAddress is the address of a family by which other machines reach this one:
// that of the default route, else any global one.
func hostAddress(f corev1.IPFamily) (netip.Addr, error) {
	// Connecting a UDP socket sends nothing; it asks the kernel which source
	// address it would use. 203.0.113.0/24 (RFC 5737) and 2001:db8::/32 (RFC 3849)
	// are reserved for documentation and stand for "somewhere else".
	network, elsewhere := "udp4", "203.0.113.1:9"
	if f == corev1.IPv6Protocol {
		network, elsewhere = "udp6", "[2001:db8::1]:9"
	}
	if conn, err := net.Dial(network, elsewhere); err == nil {
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && family.Of(prefix.Addr()) == f && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("this machine has no %s address besides the loopback; a node needs one", f)
}
