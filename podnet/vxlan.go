package podnet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// network is the number of the VXLAN (VNI), and port that of its packets, which other pod networks for Linux use
	// too, with other numbers: RFC 7348 has 4789, which hypervisors keep for theirs.
	network = 83
	port    = 8472
	// What is around a pod's packet: an IP header, one of UDP, one of VXLAN, and an Ethernet header.
	overhead4 = 20 + 8 + 8 + 14
	overhead6 = 40 + 8 + 8 + 14

	// addressesOfNone is IN6_ADDR_GEN_MODE_NONE of the kernel: a link makes up no IPv6 addresses.
	addressesOfNone = 1
)

// vxlan leads to the pods of a node through a device that packs each packet into one of UDP between the nodes. The
// device learns nothing and floods nothing: each node has an address in it, the first of its range of pods, which no
// pod gets. So there are three entries for a node, the route to its pods by that address, the hardware address of
// that, and the node's own address for that.
//
// The machine has its address in the device too: what the machine itself sends to pods comes from there, so that
// their answers come the same way back.
type vxlan struct {
	kernel   *kernel
	address  netip.Addr
	underlay underlay
}

var _ backend = (*vxlan)(nil)

func (b *vxlan) device(self []netip.Prefix, whole bool) (device, error) {
	if !b.address.IsValid() {
		return device{}, errors.New("a machine without an address cannot be in a VXLAN")
	}
	mtu, err := b.underlay.mtu(b.kernel, b.address, whole)
	if err != nil {
		return device{}, err
	}
	mtu -= b.overhead()
	link, err := b.ensure(mtu)
	if err != nil {
		return device{}, err
	}
	if err := b.own(link, self); err != nil {
		return device{}, err
	}
	return device{link: link.Attrs().Index, mtu: mtu}, nil
}

func (b *vxlan) overhead() int {
	if b.address.Is6() {
		return overhead6
	}
	return overhead4
}

// ensure makes the device as it is to be. One that is otherwise was made by an earlier run for another address, or
// by another program, and goes.
func (b *vxlan) ensure(mtu int) (netlink.Link, error) {
	mac := hardwareOf(b.address)
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: Device, MTU: mtu, HardwareAddr: mac[:]},
		VxlanId:   network, SrcAddr: b.address.AsSlice(), Port: port,
		// Without a checksum of the outer packet, kernels before 5.7 that translate it give it a wrong one, for that
		// of the inner packet is left to the link: it is dropped on the other side.
		UDPCSum: true,
	}
	link, err := b.kernel.LinkByName(Device)
	switch {
	case err == nil && same(link, want):
		return link, b.adjust(link, mtu)
	case err == nil:
		if err := b.kernel.LinkDel(link); err != nil {
			return nil, err
		}
	case !errors.As(err, new(netlink.LinkNotFoundError)):
		return nil, err
	}
	return b.create(want)
}

func (b *vxlan) create(want *netlink.Vxlan) (netlink.Link, error) {
	if err := b.kernel.LinkAdd(want); err != nil {
		return nil, lacking(err)
	}
	link, err := b.kernel.LinkByName(Device)
	if err != nil {
		return nil, err
	}
	// It has the addresses that it is given, and no others.
	if err := b.kernel.LinkSetIP6AddrGenMode(link, addressesOfNone); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, err
	}
	return link, b.kernel.LinkSetUp(link)
}

// adjust gives a device that is there its MTU, and switches it on if somebody has switched it off.
func (b *vxlan) adjust(link netlink.Link, mtu int) error {
	if link.Attrs().MTU != mtu {
		if err := b.kernel.LinkSetMTU(link, mtu); err != nil {
			return err
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return b.kernel.LinkSetUp(link)
	}
	return nil
}

func same(link netlink.Link, want *netlink.Vxlan) bool {
	is, ok := link.(*netlink.Vxlan)
	return ok && is.VxlanId == want.VxlanId && is.Port == want.Port && !is.Learning && is.UDPCSum && is.SrcAddr.Equal(want.SrcAddr) &&
		slices.Equal(is.HardwareAddr, want.HardwareAddr)
}

// own gives the device the machine's addresses in the VXLAN, and takes away others.
func (b *vxlan) own(link netlink.Link, self []netip.Prefix) error {
	list, err := b.kernel.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	have := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		addr, _ := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		if slices.ContainsFunc(self, func(p netip.Prefix) bool { return inside(p) == addr }) {
			have[addr] = true
		} else if err := b.kernel.AddrDel(link, &a); err != nil {
			return err
		}
	}
	for _, pods := range self {
		if addr := inside(pods); !have[addr] {
			one := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, addr.BitLen())), Flags: unix.IFA_F_NODAD}
			if err := b.kernel.AddrReplace(link, one); err != nil {
				return fmt.Errorf("address %s of %s: %w", addr, Device, err)
			}
		}
	}
	return nil
}

func (b *vxlan) lead(t table, peer Node) error {
	addr, err := peer.of(b.address.Is6())
	if err != nil {
		return err
	}
	mac := hardwareOf(addr)
	for _, pods := range peer.Pods {
		t.forward(mac, addr)
		t.neighbour(inside(pods), mac)
		t.route(pods, inside(pods))
	}
	return nil
}

// inside is the address in the VXLAN of the node that has a range of pods.
func inside(pods netip.Prefix) netip.Addr { return pods.Masked().Addr() }

// hardwareOf is the hardware address in the VXLAN of the node that has an address. It is a local one, which no
// maker of cards gives. Those of two IPv6 addresses are different but for chance.
func hardwareOf(addr netip.Addr) hardware {
	if addr.Is4() {
		a := addr.As4()
		return hardware{0x0a, 0x53, a[0], a[1], a[2], a[3]}
	}
	sum := sha256.Sum256(addr.AsSlice())
	return hardware{0x0e, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// lacking says why a kernel cannot make the device.
func lacking(err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("this kernel has no VXLAN (CONFIG_VXLAN): %w", err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("another link of this machine is VXLAN %d at port %d: %w", network, port, err)
	}
	return fmt.Errorf("make %s: %w", Device, err)
}

// Check says why this machine cannot have a mode; nil if it can.
func Check(m Mode) error {
	if m != VXLAN {
		return nil
	}
	const name, unused = "skiff.try", 1<<24 - 1
	probe := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: name}, VxlanId: unused, Port: port}
	if err := netlink.LinkAdd(probe); err != nil && !errors.Is(err, unix.EEXIST) { // one that tried may have been killed
		return lacking(err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}
