package services

import (
	"fmt"
	"net/netip"
	"strings"
)

// Pool says where Services of type LoadBalancer have their addresses from. The zero value are the nodes: a Service
// shares their addresses with others and has its ports there.
type Pool struct {
	off         bool
	first, last netip.Addr // a range, of which every Service has one address for itself
}

// UnmarshalText reads "nodes", "none", a range as 192.0.2.0/28, or its bounds as 192.0.2.10-192.0.2.20.
func (p *Pool) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "", "nodes":
		*p = Pool{}
		return nil
	case "none":
		*p = Pool{off: true}
		return nil
	default:
		first, last, err := bounds(s)
		if err != nil {
			return fmt.Errorf("%q is neither nodes nor none nor a range of IPv4 addresses: %w", s, err)
		}
		*p = Pool{first: first, last: last}
		return nil
	}
}

// bounds are the first and last address of a range that a load balancer can have.
func bounds(text string) (first, last netip.Addr, err error) {
	if from, to, ok := strings.Cut(text, "-"); ok {
		if first, err = netip.ParseAddr(strings.TrimSpace(from)); err != nil {
			return first, last, err
		}
		if last, err = netip.ParseAddr(strings.TrimSpace(to)); err != nil {
			return first, last, err
		}
	} else {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return first, last, err
		}
		first = prefix.Masked().Addr()
		last = lastOf(prefix)
		if prefix.Addr().Is4() && prefix.Bits() < 31 { // neither the network's own address nor that of all in it
			first, last = first.Next(), last.Prev()
		}
	}
	switch {
	case !first.Is4() || !last.Is4():
		return first, last, fmt.Errorf("it is not one of IPv4")
	case last.Less(first):
		return first, last, fmt.Errorf("it ends before it begins")
	}
	return first, last, nil
}

func lastOf(prefix netip.Prefix) netip.Addr {
	if !prefix.Addr().Is4() {
		return prefix.Addr()
	}
	a := prefix.Masked().Addr().As4()
	for bit := prefix.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// MarshalText is what UnmarshalText reads.
func (p Pool) MarshalText() ([]byte, error) {
	switch {
	case p.off:
		return []byte("none"), nil
	case p.nodes():
		return []byte("nodes"), nil
	}
	return []byte(p.first.String() + "-" + p.last.String()), nil
}

func (p Pool) nodes() bool { return !p.off && !p.first.IsValid() }

// Off reports whether no Service gets an address from here.
func (p Pool) Off() bool { return p.off }

// Prefixes are the ranges, as routes have them, that hold just the addresses of a range; none for addresses of nodes.
func (p Pool) Prefixes() (list []netip.Prefix) {
	if !p.first.IsValid() {
		return nil
	}
	for from := p.first; ; {
		prefix := netip.PrefixFrom(from, 32)
		for prefix.Bits() > 0 {
			wider, _ := from.Prefix(prefix.Bits() - 1)
			if wider.Addr() != from || p.last.Less(lastOf(wider)) {
				break
			}
			prefix = wider
		}
		list = append(list, prefix)
		end := lastOf(prefix)
		if end == p.last {
			return list
		}
		from = end.Next()
	}
}

func (p Pool) contains(a netip.Addr) bool {
	return p.first.IsValid() && !a.Less(p.first) && !p.last.Less(a)
}
