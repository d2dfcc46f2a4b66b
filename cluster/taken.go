package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	ranges := []struct {
		what, flag string
		prefix     netip.Prefix
	}{{"pod", "--pod-cidr", c.PodCIDR}, {"Service", "--service-cidr", c.ServiceCIDR}}
	if c.Nodes > 1 || c.Isolated {
		ranges = append(ranges, ranges[0])
		ranges[0].what, ranges[0].flag, ranges[0].prefix = "node", "--node-cidr", c.NodeCIDR
	}
	claims, err := c.claimsOfOthers()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if taken := conflict(r.prefix, claims); taken != nil {
			return fmt.Errorf("the %s range %s is in use on this machine: %s; choose another with %s", r.what, r.prefix, taken, r.flag)
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
	var claims []claim
	for _, link := range links {
		if c.owns(link.Attrs().Name) {
			continue
		}
		prefixes, err := prefixesOf(link)
		if err != nil {
			return nil, fmt.Errorf("list what link %s has: %w", link.Attrs().Name, err)
		}
		for _, p := range prefixes {
			claims = append(claims, claim{prefix: p, link: link.Attrs().Name, owner: owner(link)})
		}
	}
	return claims, nil
}

// prefixesOf lists the addresses of a link and where its routes lead.
func prefixesOf(link netlink.Link) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	add := func(ip []byte, bits int) {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			prefixes = append(prefixes, netip.PrefixFrom(addr.Unmap(), bits))
		}
	}
	addrs, err := netlink.AddrList(link, unix.AF_INET)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		add(a.IP.To4(), 32)
	}
	routes, err := netlink.RouteList(link, unix.AF_INET)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Dst != nil {
			bits, _ := r.Dst.Mask.Size()
			add(r.Dst.IP.To4(), bits)
		}
	}
	return prefixes, nil
}

// owns reports whether a link of the host is, or was in an earlier run, the
// cluster's.
func (c Config) owns(link string) bool {
	for _, m := range c.members(netip.Addr{}) {
		if m.namespace == "" && link == m.Bridge {
			_, err := os.Stat(hostMark(m))
			return err == nil
		}
	}
	return link == c.network().bridge
}

// owner is the data directory of the cluster that made a bridge.
func owner(link netlink.Link) string {
	dir, _ := strings.CutPrefix(link.Attrs().Alias, ownerMark)
	if dir == link.Attrs().Alias {
		return ""
	}
	return dir
}
