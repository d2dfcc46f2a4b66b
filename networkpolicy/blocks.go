package networkpolicy

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	netutils "k8s.io/utils/net"
)

// span is a range of addresses of one family.
type span struct{ first, last netip.Addr }

func (s span) contains(a netip.Addr) bool {
	return s.first.BitLen() == a.BitLen() && s.first.Compare(a) <= 0 && a.Compare(s.last) <= 0
}

// spans are the addresses of an ipBlock. One that cannot be understood has none, so that an exception that is
// not understood allows nothing.
func spans(block *networkingv1.IPBlock) []span {
	whole, ok := spanOf(block.CIDR)
	if !ok {
		return nil
	}
	left := []span{whole}
	for _, text := range block.Except {
		except, ok := spanOf(text)
		if !ok {
			return nil
		}
		left = slices.Concat(mapEach(left, func(s span) []span { return s.without(except) })...)
	}
	return left
}

func mapEach[A, B any](list []A, f func(A) B) []B {
	out := make([]B, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}

// without is what is left of s.
func (s span) without(except span) []span {
	if !s.contains(except.first) && !except.contains(s.first) {
		return []span{s}
	}
	var left []span
	if s.first.Less(except.first) {
		left = append(left, span{s.first, except.first.Prev()})
	}
	if except.last.Less(s.last) {
		left = append(left, span{except.last.Next(), s.last})
	}
	return left
}

// spanOf reads a CIDR as the API takes it, which old objects may have with leading zeros or bits of hosts.
func spanOf(cidr string) (span, bool) {
	_, ipNet, err := netutils.ParseCIDRSloppy(cidr)
	if err != nil {
		return span{}, false
	}
	addr, _ := netip.AddrFromSlice(ipNet.IP)
	ones, _ := ipNet.Mask.Size()
	last := slices.Clone(ipNet.IP)
	for i := ones; i < 8*len(last); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return span{addr, end}, true
}

// allowed is a span and the ports it is allowed.
type allowed struct {
	span
	ports []Ports
}

// disjoint cuts ranges that overlap, so that each address is in one block at most, which has the ports of all
// its ranges.
func disjoint(ranges []allowed) []Block {
	var cuts []netip.Addr
	for _, r := range ranges {
		cuts = append(cuts, r.first)
		if next := r.last.Next(); next.IsValid() {
			cuts = append(cuts, next)
		}
	}
	slices.SortFunc(cuts, netip.Addr.Compare)
	cuts = slices.Compact(cuts)
	var blocks []Block
	for i, first := range cuts {
		var ports []Ports
		last := first
		for _, r := range ranges {
			if r.contains(first) {
				ports = append(ports, r.ports...)
				last = r.last // of one that goes on beyond the next cut, if there is one
			}
		}
		if len(ports) == 0 {
			continue
		}
		if i+1 < len(cuts) && cuts[i+1].BitLen() == first.BitLen() {
			last = cuts[i+1].Prev()
		}
		ports = mergePorts(ports)
		if n := len(blocks) - 1; n >= 0 && blocks[n].Last.Next() == first && slices.Equal(blocks[n].Ports, ports) {
			blocks[n].Last = last
			continue
		}
		blocks = append(blocks, Block{first, last, ports})
	}
	return blocks
}
