package nftables

import (
	"net/netip"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy/nftables/kernel"
)

// The sets and maps of a table. Each packet that begins a flow is looked up in a
// few of them, whatever their number of elements.
const (
	// fronts leads from an address, protocol and port to the number of how to treat
	// it, and those of the pools of endpoints on this node and of all. A node port
	// has the address zero.
	fronts = "fronts"
	// hows leads from that number to a chain.
	hows = "hows"
	// endpoints leads from a pool and a number in it to an address and port.
	endpoints = "endpoints"
	// affinity leads from a client and a pool to the endpoint that the client had
	// last. Rules write it. stays are the endpoints of such pools: what is not there
	// is not gone on with.
	affinity = "affinity"
	stays    = "stays"
	// hairpin are addresses of pods on this node, each twice: source and destination.
	hairpin = "hairpin"
)

// affinityLimit is how many clients are remembered. Those beyond it are spread.
const affinityLimit = 1 << 20

// layout is how packets and registers look in a family.
type layout struct {
	ipFamily    corev1.IPFamily
	protocol    uint8 // of the kernel
	words       kernel.Register
	source      uint32 // where the addresses are in the header
	destination uint32
	addrType    uint32 // as nft numbers it
	unreachable uint8  // ICMP code: nobody listens at the port
}

var (
	ipv4 = layout{corev1.IPv4Protocol, unix.NFPROTO_IPV4, 1, 12, 16, 7, 3}
	ipv6 = layout{corev1.IPv6Protocol, unix.NFPROTO_IPV6, 4, 8, 24, 8, 4}
)

func (l layout) bytes() uint32 { return uint32(l.words) * 4 }

func (l layout) addr() []byte { return make([]byte, l.bytes()) }

// How nft numbers types, and joins them.
const (
	typeProtocol = 12
	typePort     = 13
	typeNumber   = 19 // mark: a plain number of four bytes
	typeBits     = 6
)

func join(types ...uint32) (joined uint32) {
	for _, t := range types {
		joined = joined<<typeBits | t
	}
	return joined
}

func (l layout) sets() []kernel.Set {
	const word = 4
	addr := l.bytes()
	endpoint := join(l.addrType, typePort)
	return []kernel.Set{
		{Name: fronts, KeyType: join(l.addrType, typeProtocol, typePort), KeyLen: addr + 2*word, DataType: join(typeNumber, typeNumber, typeNumber), DataLen: 3 * word},
		{Name: hows, KeyType: typeNumber, KeyLen: word, Verdicts: true},
		{Name: endpoints, KeyType: join(typeNumber, typeNumber), KeyLen: 2 * word, DataType: endpoint, DataLen: addr + word},
		{Name: affinity, KeyType: join(l.addrType, typeNumber), KeyLen: addr + word, DataType: endpoint, DataLen: addr + word, Dynamic: true, Size: affinityLimit},
		{Name: stays, KeyType: join(typeNumber, l.addrType, typePort), KeyLen: addr + 2*word},
		{Name: hairpin, KeyType: join(l.addrType, l.addrType), KeyLen: 2 * addr},
	}
}

// The registers of a rule that looks a front up: its key begins in the first, and
// what the map has for it follows.
func (l layout) how() kernel.Register   { return l.words + 2 }
func (l layout) local() kernel.Register { return l.how() + 1 }
func (l layout) pool() kernel.Register  { return l.how() + 2 }

// front finds what fronts has for the packet; for its port alone if node.
func (l layout) front(node bool) []kernel.Expression {
	address := kernel.Payload(0, kernel.Network, l.destination, l.bytes())
	if node {
		address = kernel.Load(0, l.addr())
	}
	return []kernel.Expression{
		address,
		kernel.Meta(l.words, unix.NFT_META_L4PROTO),
		kernel.Payload(l.words+1, kernel.Transport, 2, 2),
		kernel.Lookup(0, fronts, l.how()),
	}
}

// from matches packets whose source is in a range.
func (l layout) from(p netip.Prefix) []kernel.Expression {
	return l.within(l.source, p, kernel.Equal)
}

func (l layout) notFrom(p netip.Prefix) []kernel.Expression {
	return l.within(l.source, p, kernel.NotEqual)
}

func (l layout) to(p netip.Prefix) []kernel.Expression {
	return l.within(l.destination, p, kernel.Equal)
}

func (l layout) within(offset uint32, p netip.Prefix, compare func(kernel.Register, []byte) kernel.Expression) []kernel.Expression {
	mask := l.addr()
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return []kernel.Expression{
		kernel.Payload(0, kernel.Network, offset, l.bytes()),
		kernel.Bits(0, mask, l.addr()),
		compare(0, p.Masked().Addr().AsSlice()),
	}
}

// fromNode matches packets of the node itself, toNode those to it.
func fromNode() []kernel.Expression {
	return []kernel.Expression{kernel.SourceKind(0), kernel.Equal(0, kernel.Native(unix.RTN_LOCAL))}
}

func toNode() []kernel.Expression {
	return []kernel.Expression{kernel.DestinationKind(0), kernel.Equal(0, kernel.Native(unix.RTN_LOCAL))}
}

// masqueradeMark is the bit of the packet mark that says "give this packet the
// node's address when it leaves". It is the one of the iptables mode too.
const masqueradeMark = 0x4000

func mark() []kernel.Expression {
	return []kernel.Expression{
		kernel.Meta(0, unix.NFT_META_MARK),
		kernel.Bits(0, kernel.Native(^uint32(masqueradeMark)), kernel.Native(masqueradeMark)),
		kernel.SetMark(0),
	}
}
