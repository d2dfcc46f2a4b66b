package services

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/family"
)

// Pool says where Services of type LoadBalancer have their addresses from. The zero value are the nodes: a Service
// shares their addresses with others and has its ports there.
type Pool struct {
	off    bool
	ranges []span // at most one of each IP family; every Service has one address of each for itself
}

// span are the addresses from first to last.
type span struct{ first, last netip.Addr }

func (s span) String() string { return s.first.String() + "-" + s.last.String() }

func (s span) contains(a netip.Addr) bool { return !a.Less(s.first) && !s.last.Less(a) }

// UnmarshalText reads "nodes", "none", a range as 192.0.2.0/28, or its bounds as 192.0.2.10-192.0.2.20; two of these,
// joined by a comma, for both IP families.
func (p *Pool) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "", "nodes":
		*p = Pool{}
		return nil
	case "none":
		*p = Pool{off: true}
		return nil
	default:
		var next Pool
		for part := range strings.SplitSeq(s, ",") {
			r, err := bounds(strings.TrimSpace(part))
			if err != nil {
				return fmt.Errorf("%q is neither nodes nor none nor a range of addresses: %w", part, err)
			}
			if _, has := next.of(family.Of(r.first)); has {
				return fmt.Errorf("%q has two ranges of %s", s, family.Of(r.first))
			}
			next.ranges = append(next.ranges, r)
		}
		*p = next
		return nil
	}
}

// bounds are the first and last address of a range that a load balancer can have.
func bounds(text string) (s span, err error) {
	if from, to, ok := strings.Cut(text, "-"); ok {
		if s.first, err = netip.ParseAddr(strings.TrimSpace(from)); err != nil {
			return s, err
		}
		if s.last, err = netip.ParseAddr(strings.TrimSpace(to)); err != nil {
			return s, err
		}
	} else {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return s, err
		}
		s.first, s.last = prefix.Masked().Addr(), lastOf(prefix)
		if prefix.Bits() < prefix.Addr().BitLen()-1 { // neither the network's own address nor that of all in it
			s.first, s.last = s.first.Next(), s.last.Prev()
		}
	}
	switch {
	case s.first.Is4() != s.last.Is4() || s.first.Is4In6() || s.first.Zone() != "":
		return s, fmt.Errorf("it is not one of IPv4 or IPv6")
	case s.last.Less(s.first):
		return s, fmt.Errorf("it ends before it begins")
	}
	return s, nil
}

func lastOf(prefix netip.Prefix) netip.Addr {
	a := prefix.Masked().Addr().AsSlice()
	for bit := prefix.Bits(); bit < prefix.Addr().BitLen(); bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(a)
	return last
}

// MarshalText is what UnmarshalText reads.
func (p Pool) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p Pool) String() string {
	switch {
	case p.off:
		return "none"
	case p.nodes():
		return "nodes"
	}
	texts := make([]string, len(p.ranges))
	for i, r := range p.ranges {
		texts[i] = r.String()
	}
	return strings.Join(texts, ",")
}

func (p Pool) nodes() bool { return !p.off && len(p.ranges) == 0 }

// Off reports whether no Service gets an address from here.
func (p Pool) Off() bool { return p.off }

// Prefixes are the ranges, as routes have them, that hold just the addresses of the pool; none for addresses of nodes.
func (p Pool) Prefixes() (list []netip.Prefix) {
	for _, r := range p.ranges {
		list = append(list, r.prefixes()...)
	}
	return list
}

func (s span) prefixes() (list []netip.Prefix) {
	for from := s.first; ; {
		prefix := netip.PrefixFrom(from, from.BitLen())
		for prefix.Bits() > 0 {
			wider, _ := from.Prefix(prefix.Bits() - 1)
			if wider.Addr() != from || s.last.Less(lastOf(wider)) {
				break
			}
			prefix = wider
		}
		list = append(list, prefix)
		end := lastOf(prefix)
		if end == s.last {
			return list
		}
		from = end.Next()
	}
}

// of is the range of a family.
func (p Pool) of(f corev1.IPFamily) (s span, ok bool) {
	for _, r := range p.ranges {
		if family.Of(r.first) == f {
			return r, true
		}
	}
	return span{}, false
}

func (p Pool) contains(a netip.Addr) bool {
	r, ok := p.of(family.Of(a))
	return ok && r.contains(a)
}
