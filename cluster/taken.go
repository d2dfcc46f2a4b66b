package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/podnet"
)

// claim is a range of addresses that a link of this machine has or leads to.
type claim struct {
	prefix netip.Prefix // an address of the machine is one of full length
	link   string
	owner  string // the data directory of the cluster whose link it is; empty: not Skiff's
}

// ownerMark begins the alias of a bridge, before the data directory of its cluster.
const ownerMark = "skiff "

// checkHost says which of the ranges others on this machine use already. With two
// owners the kernel would send packets to either, and nodes would wait for answers
// that never come.
func (c Config) checkHost() error {
	if c.Nodes == 0 {
		return nil
	}
	if err := podnet.Check(c.PodNetwork); err != nil {
		return fmt.Errorf("--pod-network %s: %w", c.PodNetwork, err)
	}
	ranges := []struct {
		what, flag string
		prefixes   family.Ranges
		used       bool
	}{
		{"node", "--node-cidr", c.NodeCIDRs, c.Nodes > 1 || c.Isolated},
		{"pod", "--pod-cidr", c.PodCIDRs, true},
		{"Service", "--service-cidr", c.ServiceCIDRs, true},
	}
	claims, err := c.claimsOfOthers()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		for _, prefix := range r.prefixes {
			if taken := conflict(prefix, claims); r.used && taken != nil {
				return fmt.Errorf("the %s range %s is in use on this machine: %s; choose another with %s", r.what, prefix, taken, r.flag)
			}
		}
	}
	return nil
}

func (c *claim) String() string {
	said := fmt.Sprintf("link %s has %s", c.link, c.prefix)
	if c.owner != "" {
		said += fmt.Sprintf(" for the cluster in %s (was it killed? then \"skiff down --data-dir %s\" clears it away)", c.owner, c.owner)
	}
	return said
}

// conflict returns a claim of something within a range, or nil. A claim of more
// than the range is none: the more special route wins, as with pods of 10.244.0.0/16
// in a data center that is 10.0.0.0/8.
func conflict(prefix netip.Prefix, claims []claim) *claim {
	for _, c := range claims {
		if c.prefix.Bits() >= prefix.Bits() && c.prefix.Overlaps(prefix) {
			return &c
		}
	}
	return nil
}

// claimsOfOthers lists the addresses of this machine and its routes by links, but
// those of an earlier run of this cluster.
func (c Config) claimsOfOthers() ([]claim, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the links of this machine: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the routes of this machine: %w", err)
	}
	others := make(map[int]netlink.Link, len(links))
	for _, link := range links {
		if !c.owns(link.Attrs().Name) {
			others[link.Attrs().Index] = link
		}
	}
	var claims []claim
	add := func(index int, ip net.IP, bits int) {
		addr, ok := netip.AddrFromSlice(ip)
		addr = addr.Unmap()
		if link := others[index]; ok && link != nil {
			claims = append(claims, claim{prefix: netip.PrefixFrom(addr, bits), link: link.Attrs().Name, owner: owner(link)})
		}
	}
	for _, a := range addrs {
		_, whole := a.Mask.Size()
		add(a.LinkIndex, a.IP, whole)
	}
	for _, r := range routes {
		if r.Dst != nil {
			bits, _ := r.Dst.Mask.Size()
			add(r.LinkIndex, r.Dst.IP, bits)
		}
	}
	return claims, nil
}

// owns reports whether a link of the host is, or was in an earlier run, the
// cluster's.
func (c Config) owns(link string) bool {
	for _, m := range c.members(nil) {
		if m.namespace == "" && (link == m.Bridge || link == podnet.Device) {
			_, err := os.Stat(hostMark(m))
			return err == nil
		}
	}
	return link == c.network().bridge
}

// owner is the data directory of the cluster that made a bridge; empty: none did.
func owner(link netlink.Link) string {
	dir, ours := strings.CutPrefix(link.Attrs().Alias, ownerMark)
	if !ours {
		return ""
	}
	return dir
}
