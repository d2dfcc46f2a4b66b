package nettest

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// Bridge makes a bridge inside that has addresses.
func (n *Namespace) Bridge(t testing.TB, name string, addrs ...string) {
	t.Helper()
	n.Run(t, "ip", "link", "add", name, "type", "bridge", "forward_delay", "0")
	n.addresses(t, name, addrs)
}

// Plug lays a cable from a bridge of n into other, as the CNI plugin does for a pod. The other end is called eth0, has
// addresses, and the gateways as its ways to everywhere else.
func (n *Namespace) Plug(t testing.TB, bridge, port string, other *Namespace, addrs, gateways []string) {
	t.Helper()
	var err error
	n.Do(t, func() {
		err = netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(other.handle)),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Run(t, "ip", "link", "set", "dev", port, "master", bridge)
	n.Run(t, "ip", "link", "set", "dev", port, "type", "bridge_slave", "hairpin", "on")
	n.Run(t, "ip", "link", "set", "dev", port, "up")
	other.addresses(t, "eth0", addrs)
	for _, gateway := range gateways {
		other.Run(t, "ip", "route", "add", "default", "via", gateway)
	}
}

// addresses gives a link addresses that count at once, and switches it on.
func (n *Namespace) addresses(t testing.TB, link string, addrs []string) {
	t.Helper()
	for _, addr := range addrs {
		args := []string{"address", "add", addr, "dev", link}
		if strings.Contains(addr, ":") {
			args = append(args, "nodad")
		}
		n.Run(t, "ip", args...)
	}
	n.Run(t, "ip", "link", "set", link, "up")
}
