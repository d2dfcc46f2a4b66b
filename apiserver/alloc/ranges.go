package alloc

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// everywhere is the range that holds all addresses that can be claimed.
var everywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// ranges are the pools that addresses may be taken from now, the server's own
// first. They are read anew for every write: ranges come and go as ServiceCIDR
// objects (KEP-1880).
func (s *Services) ranges(ctx context.Context) ([]*pool, error) {
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
	var pools []*pool
	for _, p := range usable(s.cidr, all) {
		pools = append(pools, s.pool(p))
	}
	return pools, nil
}

// usable are the IPv4 ranges of which one object at least is ready and not
// being deleted. The server's own comes first; it can be used from the start,
// before its object is there or says anything.
func usable(own netip.Prefix, all []*networkingv1.ServiceCIDR) []netip.Prefix {
	ready := make(map[netip.Prefix]bool)
	for _, c := range all {
		condition := meta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		for _, text := range c.Spec.CIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil || !p.Addr().Is4() {
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

// pool hands out the addresses of a range. The network's own address and the
// broadcast address are no hosts.
func (s *Services) pool(p netip.Prefix) *pool {
	size := 1 << (32 - p.Bits())
	host := func(value int) bool { return value > 0 && value < size-1 }
	return &pool{prefix: p, size: size, low: band(size, 16, 16, 256), usable: host, claims: &addressClaims{services: s, prefix: p}}
}

// addressAt is the address at an offset into an IPv4 range.
func addressAt(p netip.Prefix, value int) netip.Addr {
	base := p.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+uint32(value))
	return netip.AddrFrom4(a)
}

// offset is where an address is in an IPv4 range.
func offset(p netip.Prefix, a netip.Addr) (int, bool) {
	if !p.Contains(a) {
		return 0, false
	}
	base, b := p.Addr().As4(), a.As4()
	return int(binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:])), true
}
