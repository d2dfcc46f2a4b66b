package podnet

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Node is a node as the pod network sees it.
type Node struct {
	Name string
	// Addresses are those by which other nodes reach it.
	Addresses []netip.Addr
	// Pods are the ranges of its pods, one for each IP family.
	Pods []netip.Prefix
}

// backend is a way for packets to travel.
type backend interface {
	// device makes what the machine itself needs, whose pods have the ranges self; there are none yet before it is
	// known as a node. What device found out before may be believed, unless it is to look at the whole.
	device(self []netip.Prefix, whole bool) (device, error)
	// lead adds the entries that lead to the pods of another node.
	lead(t table, peer Node) error
}

// device is what carries packets to other nodes.
type device struct {
	link int // whose entries are kept; 0: none
	mtu  int // for pods; 0: not known
}

// kind is a kind of entry. Packets need those of earlier kinds for those of later ones to lead anywhere.
type kind int

const (
	forwarding kind = iota // from a hardware address to the address of a node
	neighbour              // from an address to a hardware address
	route                  // from a range to an address
)

// hardware is an Ethernet address.
type hardware [6]byte

func (h hardware) String() string { return net.HardwareAddr(h[:]).String() }

// key is what an entry is about: a range for a route, an address for a neighbour, a hardware address for a
// forwarding.
type key struct {
	kind kind
	dst  netip.Prefix
	mac  hardware
}

// value is where an entry leads. A route to nowhere is unreachable.
type value struct {
	via netip.Addr
	mac hardware
}

// table is what the kernel holds, or is to hold.
type table map[key]value

func (t table) forward(mac hardware, to netip.Addr) {
	t[key{kind: forwarding, mac: mac}] = value{via: to}
}
func (t table) neighbour(addr netip.Addr, mac hardware) {
	t[key{kind: neighbour, dst: netip.PrefixFrom(addr, addr.BitLen())}] = value{mac: mac}
}
func (t table) route(to netip.Prefix, via netip.Addr) { t[key{kind: route, dst: to}] = value{via: via} }

func (k key) String() string {
	switch k.kind {
	case forwarding:
		return "forwarding of " + k.mac.String()
	case neighbour:
		return "neighbour " + k.dst.Addr().String()
	default:
		return "route to " + k.dst.String()
	}
}

// want is what the kernel is to hold for nodes. A node that nothing leads to costs an error, and no other node.
func (m *machine) want(nodes []Node) (table, []error) {
	t := make(table, 3*len(nodes)+len(m.Ranges))
	for _, r := range m.Ranges {
		t.route(r, netip.Addr{})
	}
	var errs []error
	owners := make(map[netip.Prefix]string, len(nodes))
	for _, n := range slices.SortedFunc(slices.Values(nodes), func(a, b Node) int { return cmp.Compare(a.Name, b.Name) }) {
		if n.Name == m.Node || len(n.Pods) == 0 {
			continue
		}
		if err := m.lead(t, owners, n); err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", n.Name, err))
		}
	}
	return t, errs
}

// lead adds what leads to a node. What a Node object says is not believed beyond the node's own part: a range
// outside of that of pods, or of another node, would draw away what is others'.
func (m *machine) lead(t table, owners map[netip.Prefix]string, n Node) error {
	for _, pods := range n.Pods {
		if !slices.ContainsFunc(m.Ranges, func(r netip.Prefix) bool { return r.Bits() < pods.Bits() && r.Contains(pods.Addr()) }) {
			return fmt.Errorf("its range %s is not within that of pods", pods)
		}
		if owner, taken := owners[pods]; taken {
			return fmt.Errorf("node %s has its range %s", owner, pods)
		}
		owners[pods] = n.Name
	}
	if slices.Contains(n.Addresses, m.Address) {
		return fmt.Errorf("%s is the address of this machine", m.Address)
	}
	return m.backend.lead(t, n)
}

// of returns the node's address of a family.
func (n Node) of(is6 bool) (netip.Addr, error) {
	for _, addr := range n.Addresses {
		if addr.Is6() == is6 && addr.IsGlobalUnicast() {
			return addr, nil
		}
	}
	if is6 {
		return netip.Addr{}, fmt.Errorf("it has no IPv6 address")
	}
	return netip.Addr{}, fmt.Errorf("it has no IPv4 address")
}

func (s Share) equal(o Share) bool { return s.MTU == o.MTU && slices.Equal(s.Pods, o.Pods) }

// change is one entry that the kernel is to hold, or no longer.
type change struct {
	key   key
	value value
	gone  bool
}

// diff is what makes of held what is wanted, in an order in which no packet takes an entry whose next one is
// missing: what leads on comes first, and goes last.
func diff(held, want table) []change {
	var come, gone []change
	for k, v := range want {
		if now, ok := held[k]; !ok || now != v {
			come = append(come, change{key: k, value: v})
		}
	}
	for k, v := range held {
		if _, ok := want[k]; !ok {
			gone = append(gone, change{key: k, value: v, gone: true})
		}
	}
	slices.SortFunc(come, func(a, b change) int { return compare(a.key, b.key) })
	slices.SortFunc(gone, func(a, b change) int { return compare(b.key, a.key) })
	return append(come, gone...)
}

func compare(a, b key) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), a.dst.Addr().Compare(b.dst.Addr()), cmp.Compare(a.dst.Bits(), b.dst.Bits()), slices.Compare(a.mac[:], b.mac[:]))
}
