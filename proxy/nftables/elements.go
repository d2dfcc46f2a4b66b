package nftables

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nftables/kernel"
)

// words are what a register or several hold; the longest are two addresses of IPv6.
type words struct {
	bytes  [32]byte
	length uint8
}

func (w words) number(n uint32) words {
	binary.NativeEndian.PutUint32(w.bytes[w.length:], n)
	w.length += 4
	return w
}

func (w words) addr(a netip.Addr) words {
	w.length += uint8(copy(w.bytes[w.length:], a.AsSlice()))
	return w
}

// short is a number of one or two bytes as packets have it.
func (w words) short(bytes ...byte) words {
	copy(w.bytes[w.length:], bytes)
	w.length += 4
	return w
}

func (w words) port(n uint16) words { return w.short(byte(n>>8), byte(n)) }

func (w words) addrPort(a netip.AddrPort) words { return w.addr(a.Addr()).port(a.Port()) }

// element is one of a set.
type element struct{ key, data words }

// protocols are the numbers of the protocols that Services can have.
var protocols = map[corev1.Protocol]byte{
	corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP,
}

// pools are the numbers of those of a Rule.
type pools struct{ all, own uint32 }

// elements are those of a Rule, by their sets; number says what a how is numbered.
func elements(r *proxy.Rule, p pools, number func(how) uint32) iter.Seq2[string, element] {
	return func(yield func(string, element) bool) {
		for _, f := range r.Fronts {
			// An internal front of this node alone has its endpoints in the pool of all.
			all := p.all
			if f.Kind == proxy.ClusterIP && f.Local {
				all = p.own
			}
			addr := f.Addr.Addr()
			if f.Kind == proxy.NodePort {
				addr = anywhere(r.Family)
			}
			key := words{}.addr(addr).short(protocols[r.Protocol]).port(f.Addr.Port())
			if !yield(fronts, element{key, words{}.number(number(howOf(r, f))).number(p.own).number(all)}) {
				return
			}
		}
		for _, pool := range []struct {
			number uint32
			list   []netip.AddrPort
		}{{p.all, r.Cluster}, {p.own, r.Local}} {
			for i, e := range pool.list {
				if !yield(endpoints, element{words{}.number(pool.number).number(uint32(i)), words{}.addrPort(e)}) {
					return
				}
				if r.Sticky > 0 && !yield(stays, element{key: words{}.number(pool.number).addrPort(e)}) {
					return
				}
			}
		}
	}
}

// anywhere is the address that stands for all of a family.
func anywhere(family corev1.IPFamily) netip.Addr {
	if family == corev1.IPv6Protocol {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// kernel is the element as the kernel has it. It shares the memory of e.
func (e *element) kernel() kernel.Element {
	return kernel.Element{Key: e.key.bytes[:e.key.length], Data: e.data.bytes[:e.data.length]}
}

// content tells two contents of a set apart, in whatever order they are.
type content struct {
	count int
	sum   uint64
}

var seed = maphash.MakeSeed()

func (c *content) add(e element)    { c.count, c.sum = c.count+1, c.sum+maphash.Comparable(seed, e) }
func (c *content) remove(e element) { c.count, c.sum = c.count-1, c.sum-maphash.Comparable(seed, e) }

// found is an element that the kernel has.
func found(k kernel.Element) (e element) {
	e.key.length, e.data.length = uint8(copy(e.key.bytes[:], k.Key)), uint8(copy(e.data.bytes[:], k.Data))
	return e
}
