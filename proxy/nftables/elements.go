package nftables

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"

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

// element is one of a set; to is the chain that a verdict leads to.
type element struct {
	key, data words
	to        string
}

// protocols are the numbers of the protocols that Services can have.
var protocols = map[corev1.Protocol]byte{
	corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP,
}

// elements are those of a Rule, by their sets; chain says what the chain of a front is
// called.
func elements(r *proxy.Rule, chain func(proxy.Front) string) iter.Seq2[string, element] {
	return func(yield func(string, element) bool) {
		for _, f := range r.Fronts {
			set, pool, key := fronts, endpoints, words{}
			if f.Kind == proxy.NodePort {
				set, pool = nodePorts, nodePortEndpoints
			} else {
				key = key.addr(f.Addr.Addr())
			}
			key = key.short(protocols[r.Protocol]).port(f.Addr.Port())
			if !yield(set, element{key: key, to: chain(f)}) {
				return
			}
			all, own := served(r, f)
			for i, e := range slices.Concat(all, own) {
				if !yield(pool, element{key: key.number(uint32(i)), data: words{}.addrPort(e)}) {
					return
				}
			}
		}
	}
}

// kernel is the element as the kernel has it. It shares the memory of e.
func (e *element) kernel() kernel.Element {
	return kernel.Element{Key: e.key.bytes[:e.key.length], Data: e.data.bytes[:e.data.length], Goto: e.to}
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
	e.to = k.Goto
	return e
}
