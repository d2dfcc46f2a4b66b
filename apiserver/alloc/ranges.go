package alloc

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/family"
)

// ranges are those that addresses of a family may be taken from now, the
// server's own first. They are read anew for every write: ranges come and go as
// ServiceCIDR objects (KEP-1880).
func (s *Services) ranges(ctx context.Context, f corev1.IPFamily) ([]netip.Prefix, error) {
	own, ok := s.cidrs.Of(f)
	if !ok {
		return nil, nil
	}
	r := s.cluster.Resource(networkingv1.GroupName, "servicecidrs")
	if r == nil {
		return nil, errors.New("servicecidrs.networking.k8s.io is not served")
	}
	objs, err := s.cluster.List(ctx, r, "")
	if err != nil {
		return nil, err
	}
	all := make([]*networkingv1.ServiceCIDR, len(objs))
	for i, obj := range objs {
		all[i] = obj.(*networkingv1.ServiceCIDR)
	}
	return usable(own, all), nil
}

// usable are the ranges of the family of own of which one object at least is ready and not
// being deleted. The server's own comes first; it can be used from the start,
// before its object is there or says anything.
func usable(own netip.Prefix, all []*networkingv1.ServiceCIDR) []netip.Prefix {
	ready := make(map[netip.Prefix]bool)
	for _, c := range all {
		condition := meta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		for _, text := range c.Spec.CIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil || family.Of(p.Addr()) != family.Of(own.Addr()) {
				continue
			}
			p = p.Masked()
			is := condition == nil && p == own || condition != nil && condition.Status == metav1.ConditionTrue
			ready[p] = ready[p] || is && c.DeletionTimestamp == nil
		}
	}
	if _, known := ready[own]; !known {
		ready[own] = true
	}
	var list []netip.Prefix
	for p, is := range ready {
		if is && p != own {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	if ready[own] {
		list = slices.Insert(list, 0, own)
	}
	return list
}

// mostHostBits bounds what is chosen from in a range: half of a /64 is more than
// any cluster takes.
const mostHostBits = 63

// pool hands out the addresses of a range.
func (s *Services) pool(p netip.Prefix) *pool[netip.Addr] {
	size := uint64(1) << min(p.Addr().BitLen()-p.Bits(), mostHostBits)
	return &pool[netip.Addr]{
		size: size, low: band(size, 16, 16, 256),
		at:     func(offset uint64) netip.Addr { return addressAt(p, offset) },
		usable: func(a netip.Addr) bool { return isHost(p, a) },
		claims: s.addresses,
	}
}

// isHost reports whether an address is one of a range that a Service may have:
// neither the network's own, nor the one that is broadcast to in IPv4.
func isHost(p netip.Prefix, a netip.Addr) bool {
	return p.Contains(a) && a != p.Addr() && (a.Is6() || p.Contains(a.Next()))
}

// addressAt is the address at an offset into a range.
func addressAt(p netip.Prefix, offset uint64) netip.Addr {
	if p.Addr().Is4() {
		a := p.Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(offset))
		return netip.AddrFrom4(a)
	}
	// The host bits of a range are zero, and no more than 64 of them are used.
	a := p.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], binary.BigEndian.Uint64(a[8:])|offset)
	return netip.AddrFrom16(a)
}
