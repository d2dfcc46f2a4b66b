package cluster

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ensureLink returns the link of the wanted name, making it if need be.
func ensureLink(want netlink.Link) (netlink.Link, error) {
	if err := netlink.LinkAdd(want); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return netlink.LinkByName(want.Attrs().Name)
}

// up gives a link an address and switches it on.
func up(link netlink.Link, addr netip.Prefix) error {
	if err := netlink.AddrReplace(link, ipAddr(addr)); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ipAddr is an address for a link. One of IPv6 can be used at once: whether
// another has it need not be asked on links that are ours alone.
func ipAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}
