package nftables

import (
	"net/netip"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy/nftables/kernel"
)

// The sets and maps of a table. A packet that begins a flow is looked up in a few of
// them, whatever their number of elements. What one map has is never part of the key
// of another: the program nft, at least up to 1.0.6, ends with an assertion when it
// lists such a rule, and then shows no rule of any program of the host.
const (
	// fronts leads from an address, protocol and port to a chain, nodePorts from a
	// protocol and port of the node's own addresses.
	fronts    = "fronts"
	nodePorts = "node-ports"
	// endpoints leads from a key of fronts and a number to an address and port,
	// nodePortEndpoints from one of nodePorts and a number.
	endpoints         = "endpoints"
	nodePortEndpoints = "node-port-endpoints"
	// affinity are clients, each with the number of the endpoint that it stays with.
	// Rules write it.
	affinity = "affinity"
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
		{Name: fronts, KeyType: join(l.addrType, typeProtocol, typePort), KeyLen: addr + 2*word, Verdicts: true},
		{Name: nodePorts, KeyType: join(typeProtocol, typePort), KeyLen: 2 * word, Verdicts: true},
		{Name: endpoints, KeyType: join(l.addrType, typeProtocol, typePort, typeNumber), KeyLen: addr + 3*word, DataType: endpoint, DataLen: addr + word},
		{Name: nodePortEndpoints, KeyType: join(typeProtocol, typePort, typeNumber), KeyLen: 3 * word, DataType: endpoint, DataLen: addr + word},
		{Name: affinity, KeyType: join(l.addrType, typeNumber), KeyLen: addr + word, Dynamic: true, Size: affinityLimit},
		{Name: hairpin, KeyType: join(l.addrType, l.addrType), KeyLen: 2 * addr},
	}
}

// front loads the key by which a packet's front is found, into the registers from 0
// on; next is the one behind it.
func (l layout) front(node bool) (load []kernel.Expression, next kernel.Register) {
	if !node {
		load, next = []kernel.Expression{kernel.Payload(0, kernel.Network, l.destination, l.bytes())}, l.words
	}
	return append(load, kernel.Meta(next, unix.NFT_META_L4PROTO), kernel.Payload(next+1, kernel.Transport, 2, 2)), next + 2
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
