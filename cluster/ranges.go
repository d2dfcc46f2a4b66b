package cluster

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/family"
)

// standard are the ranges of a family that a cluster has unless it is told
// others; those of pods and Services are as with kind.
var standard = map[corev1.IPFamily]struct{ services, pods, nodes netip.Prefix }{
	corev1.IPv4Protocol: {netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("172.30.0.0/24")},
	corev1.IPv6Protocol: {netip.MustParsePrefix("fd00:10:96::/112"), netip.MustParsePrefix("fd00:10:244::/56"), netip.MustParsePrefix("fd00:172:30::/64")},
}

// fillRanges sets the ranges that are not given.
func (c *Config) fillRanges() {
	families := []corev1.IPFamily{corev1.IPv4Protocol}
	for _, given := range []family.Ranges{c.PodCIDRs, c.ServiceCIDRs, c.NodeCIDRs} {
		if len(given) > 0 {
			families = given.Families()
			break
		}
	}
	fill := func(to *family.Ranges, of func(corev1.IPFamily) netip.Prefix) {
		if len(*to) > 0 {
			return
		}
		for _, f := range families {
			*to = append(*to, of(f))
		}
	}
	fill(&c.ServiceCIDRs, func(f corev1.IPFamily) netip.Prefix { return standard[f].services })
	fill(&c.PodCIDRs, func(f corev1.IPFamily) netip.Prefix { return standard[f].pods })
	fill(&c.NodeCIDRs, func(f corev1.IPFamily) netip.Prefix { return standard[f].nodes })
}

// everywhere makes "all addresses" all of both families, if the cluster has IPv6.
func everywhere(listen netip.AddrPort, ranges family.Ranges) netip.AddrPort {
	if listen.Addr() == netip.IPv4Unspecified() && ranges.Has(corev1.IPv6Protocol) {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), listen.Port())
	}
	return listen
}

// nth is an address of a range, counted from its first, which is the range's own.
func nth(p netip.Prefix, n int) netip.Addr {
	addr := p.Masked().Addr()
	for range n {
		addr = addr.Next()
	}
	return addr
}

// checkRanges says what is wrong with the ranges of addresses.
func (c Config) checkRanges() error {
	kinds := []struct {
		what   string
		ranges family.Ranges
		most   func(bits int) int // of a prefix, of so many bits of an address, for what has to fit in
	}{
		{"Service", c.ServiceCIDRs, func(bits int) int { return bits - 4 }}, // DNS has the tenth address
		{"pod", c.PodCIDRs, func(bits int) int { return podBits[bits] - bitsFor(c.Nodes) }},
		{"node", c.NodeCIDRs, func(bits int) int { return bits - bitsFor(c.Nodes+3) }}, // the network's own, this machine, broadcast
	}
	type named struct {
		what   string
		prefix netip.Prefix
	}
	var before []named
	for _, kind := range kinds {
		if err := kind.ranges.Check(); err != nil {
			return fmt.Errorf("the %s %w", kind.what, err)
		}
		if is, want := fmt.Sprint(kind.ranges.Families()), fmt.Sprint(c.PodCIDRs.Families()); is != want {
			return fmt.Errorf("the %s ranges %s are of the families %s, and those of pods, %s, of %s: they must be the same, in the same order",
				kind.what, kind.ranges, is, c.PodCIDRs, want)
		}
		for _, prefix := range kind.ranges {
			if most := kind.most(prefix.Addr().BitLen()); prefix.Bits() > most {
				return fmt.Errorf("the %s range %s is too small for %d nodes: it must be at least a /%d", kind.what, prefix, c.Nodes, most)
			}
			for _, other := range before {
				if prefix.Overlaps(other.prefix) {
					return fmt.Errorf("the %s range %s overlaps with the %s range %s", kind.what, prefix, other.what, other.prefix)
				}
			}
			before = append(before, named{kind.what, prefix})
		}
	}
	if addr := c.Listen.Addr(); addr.IsValid() && !addr.IsUnspecified() && !addr.IsLoopback() && family.Of(addr) != c.PodCIDRs.Families()[0] {
		return fmt.Errorf("the API listens on %s, and the primary family of the cluster is %s: pods could not reach it", addr, c.PodCIDRs.Families()[0])
	}
	return nil
}
