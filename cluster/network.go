package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// network joins the nodes that live in network namespaces of their own with the
// host, by a bridge whose host end has the first address of the node range.
type network struct {
	bridge string
	owner  string // the data directory, told by the bridge's alias
	nodes  netip.Prefix
	// only is what nodes reach besides each other and this machine; nil is
	// everything.
	only       []netip.Prefix
	namespaces namespaces
}

// gateway is the host's address on the bridge.
func (n network) gateway() netip.Addr { return n.nodes.Masked().Addr().Next() }

// address is that of the i-th node in a namespace, counted from 0.
func (n network) address(i int) netip.Addr {
	addr := n.gateway()
	for range i + 1 {
		addr = addr.Next()
	}
	return addr
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
	return up(link, netip.PrefixFrom(n.gateway(), n.nodes.Bits()))
}

// ensureNamespace makes the network namespace of a node and its connection to
// the bridge. It may be called again for a namespace that an earlier run left
// with containers in it.
func (n network) ensureNamespace(name, link string, addr netip.Addr) error {
	ns, err := n.namespaces.open(name)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	if _, err := inside.LinkByName("eth0"); err == nil {
		return nil
	}
	if err := n.connect(inside, ns, link, addr); err != nil {
		return fmt.Errorf("connect namespace %s: %w", name, err)
	}
	return nil
}

func (n network) connect(inside *netlink.Handle, ns netns.NsHandle, link string, addr netip.Addr) error {
	if err := deleteLink(link); err != nil {
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
	if err := inside.AddrAdd(eth0, ipAddr(netip.PrefixFrom(addr, n.nodes.Bits()))); err != nil {
		return err
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
	everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if n.only == nil {
		return []netlink.Route{n.byHost(link, everything)}
	}
	routes := []netlink.Route{{Dst: ipNet(everything), Type: unix.RTN_UNREACHABLE}}
	for _, prefix := range n.only {
		routes = append(routes, n.byHost(link, prefix))
	}
	return routes
}

func (n network) byHost(link int, to netip.Prefix) netlink.Route {
	return netlink.Route{LinkIndex: link, Dst: ipNet(to), Gw: n.gateway().AsSlice()}
}

// hostAddress is the address by which other machines reach this one: that of
// the default route, else any global one.
func hostAddress() (netip.Addr, error) {
	// Connecting a UDP socket sends nothing; it asks the kernel which source
	// address it would use. 192.0.2.0/24 is reserved for documentation (RFC 5737),
	// as is 203.0.113.0/24, which stands for "somewhere else".
	if conn, err := net.Dial("udp4", "203.0.113.1:9"); err == nil {
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no IPv4 address besides the loopback; a node needs one")
}
