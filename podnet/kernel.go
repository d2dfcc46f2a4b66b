package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocol marks our routes among those of others ("ip route show proto 83"). The numbers below 192 that nobody has
// registered are free for anybody.
const protocol = 83

// Device is the link of the VXLAN on a node.
const Device = "skiff.vxlan"

// kernel reads and writes entries in the network namespace in which it was opened.
type kernel struct {
	*netlink.Handle
	ranges []netip.Prefix // others' routes of the protocol are those of another cluster
	writes int            // entries that were put or taken
}

func openKernel(ranges []netip.Prefix) (*kernel, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &kernel{Handle: handle, ranges: ranges}, nil
}

func (k *kernel) close() error {
	k.Handle.Close()
	return nil
}

// read is what the kernel holds: our routes, and all of a link but 0.
func (k *kernel) read(link int) (table, error) {
	t := make(table)
	if err := k.readRoutes(t); err != nil || link == 0 {
		return t, err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		list, err := k.NeighListExecute(netlink.Ndmsg{Family: uint8(family), Index: uint32(link)})
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			addr, ok := netip.AddrFromSlice(n.IP)
			if !ok || n.State&unix.NUD_PERMANENT == 0 || len(n.HardwareAddr) != len(hardware{}) {
				continue // what the kernel keeps of its own accord
			}
			if family == unix.AF_BRIDGE {
				t.forward(hardware(n.HardwareAddr), addr.Unmap())
			} else {
				t.neighbour(addr.Unmap(), hardware(n.HardwareAddr))
			}
		}
	}
	return t, nil
}

func (k *kernel) readRoutes(t table) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		ours := &netlink.Route{Protocol: protocol}
		err := k.RouteListFilteredIter(family, ours, netlink.RT_FILTER_PROTOCOL, func(r netlink.Route) bool {
			if to := prefixOf(r.Dst); k.concerns(to) {
				via, _ := netip.AddrFromSlice(r.Gw) // none is unreachable
				t.route(to, via.Unmap())
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// concerns reports whether a route is about the cluster's pods.
func (k *kernel) concerns(to netip.Prefix) bool {
	return slices.ContainsFunc(k.ranges, func(r netip.Prefix) bool { return to.IsValid() && r.Overlaps(to) && r.Bits() <= to.Bits() })
}

// put makes an entry, in place of one about the same.
func (k *kernel) put(link int, key key, value value) error {
	k.writes++
	var err error
	if key.kind == route {
		err = k.RouteReplace(routeOf(link, key, value))
	} else {
		err = k.NeighSet(neighbourOf(link, key, value))
	}
	if err != nil {
		return fmt.Errorf("%s by %s: %w", key, value.by(), explain(key, value, err))
	}
	return nil
}

// explain adds what helps with errors of the kernel that say little.
func explain(key key, value value, err error) error {
	offLink := errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EINVAL)
	if key.kind == route && value.via.IsValid() && offLink {
		return fmt.Errorf("%w: the address is on no link of this machine; such nodes need the mode %s", err, VXLAN)
	}
	return err
}

func (v value) by() string {
	switch {
	case v.via.IsValid():
		return v.via.String()
	case v.mac != hardware{}:
		return v.mac.String()
	}
	return "nothing"
}

// take removes an entry; one that is gone is no error.
func (k *kernel) take(link int, key key, value value) error {
	k.writes++
	var err error
	if key.kind == route {
		err = k.RouteDel(routeOf(0, key, value))
	} else {
		err = k.NeighDel(neighbourOf(link, key, value))
	}
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

func routeOf(link int, key key, value value) *netlink.Route {
	r := &netlink.Route{Dst: ipNet(key.dst), Protocol: protocol}
	if !value.via.IsValid() {
		r.Type = unix.RTN_UNREACHABLE
		return r
	}
	r.Gw = value.via.AsSlice()
	if link != 0 {
		// The neighbour is known by an entry, and need not be in a range of the link.
		r.LinkIndex, r.Flags = link, int(netlink.FLAG_ONLINK)
	}
	return r
}

func neighbourOf(link int, key key, value value) *netlink.Neigh {
	n := &netlink.Neigh{LinkIndex: link, State: unix.NUD_PERMANENT}
	if key.kind == forwarding {
		n.Family, n.Flags = unix.AF_BRIDGE, unix.NTF_SELF
		n.IP, n.HardwareAddr = value.via.AsSlice(), key.mac[:]
		return n
	}
	n.Family = unix.AF_INET
	if key.dst.Addr().Is6() {
		n.Family = unix.AF_INET6
	}
	n.IP, n.HardwareAddr = key.dst.Addr().AsSlice(), value.mac[:]
	return n
}

func (k *kernel) removeRoutes() error {
	held, err := k.read(0)
	if err != nil {
		return err
	}
	var errs []error
	for key, value := range held {
		errs = append(errs, k.take(0, key, value))
	}
	for _, p := range k.ranges {
		errs = append(errs, k.removeUnmarked(p))
	}
	return errors.Join(errs...)
}

// removeUnmarked removes the route that versions before the protocol number made for
// what nobody has of a range.
func (k *kernel) removeUnmarked(p netip.Prefix) error {
	err := k.RouteDel(&netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_BOOT})
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the route to nowhere of %s: %w", p, err)
	}
	return nil
}

func (k *kernel) removeDevice() error {
	link, err := k.LinkByName(Device)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := k.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) { // it went meanwhile
		return err
	}
	return nil
}

// linkOf is the link that has an address.
func (k *kernel) linkOf(addr netip.Addr) (netlink.Link, error) {
	list, err := k.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if found, ok := netip.AddrFromSlice(a.IP); ok && found.Unmap() == addr {
			return k.LinkByIndex(a.LinkIndex)
		}
	}
	return nil, fmt.Errorf("%w %s", errNoLink, addr)
}

// errNoLink means that the machine is reached by an address that is not its own, but translated on the way.
var errNoLink = errors.New("no link of this machine has the address")

// underlay is the link by which the machine is reached, as it was found last.
type underlay struct{ index int }

// mtu is that of the link which has addr.
func (u *underlay) mtu(k *kernel, addr netip.Addr, whole bool) (int, error) {
	if !whole && u.index != 0 {
		if link, err := k.LinkByIndex(u.index); err == nil {
			return link.Attrs().MTU, nil
		}
	}
	link, err := k.linkOf(addr)
	if err != nil {
		return 0, err
	}
	u.index = link.Attrs().Index
	return link.Attrs().MTU, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the zero prefix for a default route.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}
