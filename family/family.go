// Package family says of which IP families a cluster is: that of its first
// range of addresses is the primary one, and there may be a second.
package family

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// All are the families that there are.
var All = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

// Of is the family of an address; empty if it is not valid.
func Of(a netip.Addr) corev1.IPFamily {
	switch {
	case a.Unmap().Is4():
		return corev1.IPv4Protocol
	case a.Is6():
		return corev1.IPv6Protocol
	}
	return ""
}

// OfText is the family of a text that holds an address; ok is false if it holds
// none.
func OfText(text string) (f corev1.IPFamily, ok bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return "", false
	}
	return Of(a), true
}

// Other is the family that f is not.
func Other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// Ranges are one range of addresses, or one of each family, the primary one
// first. As text they are joined by a comma.
type Ranges []netip.Prefix

// Parse reads ranges and masks them.
func Parse(text string) (Ranges, error) {
	var r Ranges
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		r = append(r, p.Masked())
	}
	return r, r.Check()
}

// MustParse is Parse for texts that are right.
func MustParse(text string) Ranges {
	r, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return r
}

// Check says what is wrong with the number of ranges or with their families.
func (r Ranges) Check() error {
	switch {
	case len(r) == 0:
		return fmt.Errorf("no range of addresses")
	case len(r) > 2:
		return fmt.Errorf("ranges %s: there may be one of each IP family", r)
	case len(r) == 2 && Of(r[0].Addr()) == Of(r[1].Addr()):
		return fmt.Errorf("ranges %s: both are of family %s", r, Of(r[0].Addr()))
	}
	return nil
}

// Families are those of the ranges, in their order.
func (r Ranges) Families() []corev1.IPFamily {
	list := make([]corev1.IPFamily, len(r))
	for i, p := range r {
		list[i] = Of(p.Addr())
	}
	return list
}

// Of is the range of a family.
func (r Ranges) Of(f corev1.IPFamily) (p netip.Prefix, ok bool) {
	for _, p := range r {
		if Of(p.Addr()) == f {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Has reports whether there is a range of a family.
func (r Ranges) Has(f corev1.IPFamily) bool {
	_, ok := r.Of(f)
	return ok
}

// Contains reports whether an address is in one of the ranges.
func (r Ranges) Contains(a netip.Addr) bool {
	for _, p := range r {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Strings are the texts of the ranges.
func (r Ranges) Strings() []string {
	list := make([]string, len(r))
	for i, p := range r {
		list[i] = p.String()
	}
	return list
}

func (r Ranges) String() string { return strings.Join(r.Strings(), ",") }

// MarshalText is String, for flags.
func (r Ranges) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is Parse, for flags.
func (r *Ranges) UnmarshalText(text []byte) (err error) {
	*r, err = Parse(string(text))
	return err
}
