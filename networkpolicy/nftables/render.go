package nftables

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/networkpolicy"
)

// tableName is the name of both tables, one for each family of addresses.
const tableName = "skiff-network-policy"

// standIn is the name of those that judge while the others are replaced.
const standIn = tableName + "-meanwhile"

// family is what differs between the families of addresses.
type family struct {
	number nftables.TableFamily
	bits   int
	addr   nftables.SetDatatype
	// Where headers have the addresses.
	source, destination uint32
}

var families = []family{
	{nftables.TableFamilyIPv4, 32, nftables.TypeIPAddr, 12, 16},
	{nftables.TableFamilyIPv6, 128, nftables.TypeIP6Addr, 8, 24},
}

func (f family) table() *nftables.Table { return &nftables.Table{Name: tableName, Family: f.number} }

// set is a set or a map as it should be. Its elements are by their keys, those of ranges with both ends.
type set struct {
	kind  kind
	elems map[string]element
}

// element is what a key leads to, if the set is a map.
type element struct {
	class uint32
	chain string
}

// kind is what is in a set.
type kind struct {
	key    []nftables.SetDatatype
	ranges bool
	value  nftables.SetDatatype // of a map
}

func (f family) addresses(value nftables.SetDatatype) kind {
	return kind{key: []nftables.SetDatatype{f.addr}, value: value}
}

// The sets that are always there.
const (
	classMap = "class" // addresses of pods to their classes
	selfSet  = "self"  // pairs of the same address
)

// Sets of a profile have the profile's name and one of these.
const (
	anyoneSuffix  = "-anyone"  // protocol, port
	classesSuffix = "-classes" // any byte, class, protocol, port; see loadClass
	blocksSuffix  = "-blocks"  // address, protocol, port
)

// ruleset is what a table of nftables is to have. Chains of profiles have the profile's name, and rules that
// never change.
type ruleset struct {
	family family
	sets   map[string]*set
	chains map[string]*networkpolicy.Profile
}

// render is t for one family.
func render(t *networkpolicy.Table, f family) *ruleset {
	r := &ruleset{family: f, sets: make(map[string]*set), chains: make(map[string]*networkpolicy.Profile)}
	class := r.set(classMap, f.addresses(nftables.TypeMark))
	self := r.set(selfSet, kind{key: []nftables.SetDatatype{f.addr, f.addr}})
	for addr, c := range t.Classes {
		if addr.BitLen() == f.bits {
			class.elems[string(addr.AsSlice())] = element{class: uint32(c)}
		}
	}
	for d, isolated := range t.Isolated {
		verdicts := r.set(networkpolicy.Direction(d).String(), f.addresses(nftables.TypeVerdict))
		for addr, profile := range isolated {
			if addr.BitLen() != f.bits {
				continue
			}
			key := addr.AsSlice()
			self.elems[string(append(key, key...))] = element{}
			verdicts.elems[string(key)] = element{chain: profile.Name}
			if r.chains[profile.Name] == nil {
				r.chains[profile.Name] = profile
				r.profile(profile)
			}
		}
	}
	return r
}

func (r *ruleset) set(name string, k kind) *set {
	s := &set{kind: k, elems: make(map[string]element)}
	r.sets[name] = s
	return s
}

// profile fills the sets of a profile.
func (r *ruleset) profile(p *networkpolicy.Profile) {
	f := r.family
	for suffix, k := range f.setsOf(p) {
		s := r.set(p.Name+suffix, k)
		switch suffix {
		case anyoneSuffix:
			s.add(nil, nil, p.Anyone)
		case classesSuffix:
			for c, ports := range p.Classes {
				key := binary.BigEndian.AppendUint32(nil, uint32(c)) // as nft shows it
				s.add(append([]byte{0, 0, 0, 0}, key...), append([]byte{255, 0, 0, 0}, key...), ports)
			}
		case blocksSuffix:
			for _, b := range p.Blocks {
				if b.First.BitLen() == f.bits {
					s.add(b.First.AsSlice(), b.Last.AsSlice(), b.Ports)
				}
			}
		}
	}
}

// add adds ports of what first and last are the ends of.
func (s *set) add(first, last []byte, ports []networkpolicy.Ports) {
	for _, p := range ports {
		from := append(slices.Clone(first), p.FirstProtocol, 0, 0, 0, byte(p.First>>8), byte(p.First), 0, 0)
		to := append(slices.Clone(last), p.LastProtocol, 0, 0, 0, byte(p.Last>>8), byte(p.Last), 0, 0)
		s.elems[string(append(from, to...))] = element{}
	}
}

// setsOf are the sets of a profile by the ends of their names. They depend on what never changes in profiles
// of one name.
func (f family) setsOf(p *networkpolicy.Profile) map[string]kind {
	ports := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	sets := make(map[string]kind)
	if len(p.Anyone) > 0 {
		sets[anyoneSuffix] = kind{key: ports, ranges: true}
	}
	if p.Classes != nil {
		sets[classesSuffix] = kind{key: append([]nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeMark}, ports...), ranges: true}
	}
	if p.HasBlocks {
		sets[blocksSuffix] = kind{key: append([]nftables.SetDatatype{f.addr}, ports...), ranges: true}
	}
	return sets
}

// Registers of 4 bytes, which lookups of several fields take in a row.
const firstRegister = unix.NFT_REG32_00

// rulesOf are the rules of a profile's chain: it returns for what is allowed, and drops the rest.
func (f family) rulesOf(p *networkpolicy.Profile) [][]expr.Any {
	peer := f.source
	if p.Direction == networkpolicy.Egress {
		peer = f.destination
	}
	var rules [][]expr.Any
	sets := f.setsOf(p)
	for _, suffix := range slices.Sorted(maps.Keys(sets)) {
		var match []expr.Any
		next := uint32(firstRegister)
		switch suffix {
		case classesSuffix:
			match, next = f.loadClass(peer), next+2
		case blocksSuffix:
			match, next = []expr.Any{f.load(peer, next)}, next+uint32(f.bits/32)
		}
		rules = append(rules, append(match,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
			&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // where all have the destination's port
			&expr.Lookup{SourceRegister: firstRegister, SetName: p.Name + suffix},
			&expr.Verdict{Kind: expr.VerdictReturn},
		))
	}
	return append(rules, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
}

// loadClass loads something of no matter and the class of an address into the first two registers. nft takes
// what is loaded first, 16 bytes of which the rest is overwritten, for all that is looked up. Versions up to
// 1.0.6 at least abort at the lookup of something that comes from a map, and the rules of all programs on the
// host could not be listed any more.
func (f family) loadClass(offset uint32) []expr.Any {
	const free = firstRegister + 4
	return []expr.Any{
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: 0, Len: 16},
		f.load(offset, free),
		&expr.Lookup{SourceRegister: free, SetName: classMap, DestRegister: firstRegister + 1, IsDestRegSet: true},
	}
}

// load loads an address into registers.
func (f family) load(offset, register uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(f.bits / 8)}
}

// entrance is a chain that the kernel enters, with what is judged there.
type entrance struct {
	name     string
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	// ingress has the destination judged too, unless the node itself sends.
	ingress bool
}

const (
	forwardChain = "forward"
	inputChain   = "input"
	outputChain  = "output"
)

// entrances are those of a node, and those that it has besides if IPVS spreads flows.
// What IPVS sends on passes output, with the addresses that it goes between: there the
// node itself sends to pods as well. Before, it goes in, to an address that says nothing
// about where it ends: IPVS takes it at the priorities 98 and 99, so that the chain
// input, which comes later, has only what is for the node.
func entrances(ipvs bool) []entrance {
	list := []entrance{
		{name: forwardChain, hook: nftables.ChainHookForward, priority: *nftables.ChainPriorityFilter, ingress: true},
		{name: inputChain, hook: nftables.ChainHookInput, priority: *nftables.ChainPriorityFilter},
	}
	if ipvs {
		list[1].priority = 110
		list = append(list, entrance{name: outputChain, hook: nftables.ChainHookOutput, priority: *nftables.ChainPriorityFilter, ingress: true})
	}
	return list
}

// rulesOfEntrance are the rules of a chain that packets enter by.
func (f family) rulesOfEntrance(e entrance) [][]expr.Any {
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	related := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitRELATED)
	var rules [][]expr.Any
	if e.name == outputChain { // The node reaches all pods.
		rules = append(rules, []expr.Any{
			&expr.Fib{Register: firstRegister, ResultADDRTYPE: true, FlagSADDR: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
			accept,
		})
	}
	rules = append(rules,
		[]expr.Any{ // Answers to what was allowed. All packets that go the way of the first are judged, so that a change counts at once.
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: firstRegister},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{1}},
			accept,
		},
		[]expr.Any{ // Errors of the network.
			&expr.Ct{Key: expr.CtKeySTATE, Register: firstRegister},
			&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4, Mask: related, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: make([]byte, 4)},
			accept,
		},
	)
	if f.number == nftables.TableFamilyIPv6 {
		rules = append(rules, neighbours(e.name)...)
	}
	if !e.ingress {
		return append(rules, f.judge(f.source, networkpolicy.Egress))
	}
	return append(rules,
		[]expr.Any{ // A pod that reaches itself by a Service.
			f.load(f.source, firstRegister), f.load(f.destination, firstRegister+uint32(f.bits/32)),
			&expr.Lookup{SourceRegister: firstRegister, SetName: selfSet},
			accept,
		},
		f.judge(f.source, networkpolicy.Egress),
		f.judge(f.destination, networkpolicy.Ingress),
	)
}

// judge goes to the chain of the address's profile, if there is one.
func (f family) judge(offset uint32, d networkpolicy.Direction) []expr.Any {
	return []expr.Any{
		f.load(offset, firstRegister),
		// The register 0 is the verdict.
		&expr.Lookup{SourceRegister: firstRegister, SetName: d.String(), DestRegister: 0, IsDestRegSet: true},
	}
}

// neighbours lets the discovery of neighbours pass (RFC 4861), without which there is no IPv6, and keeps pods
// from reaching each other over their bridge by addresses of the link, which no policy knows.
func neighbours(chain string) [][]expr.Any {
	rules := [][]expr.Any{{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: firstRegister, FromData: []byte{133}, ToData: []byte{137}},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}}
	if chain != forwardChain {
		return rules
	}
	link := netip.MustParsePrefix("fe80::/10")
	for _, offset := range []uint32{8, 24} {
		rules = append(rules, []expr.Any{
			&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 2},
			&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 2, Mask: []byte{0xff, 0xc0}, Xor: []byte{0, 0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: link.Addr().AsSlice()[:2]},
			&expr.Verdict{Kind: expr.VerdictDrop},
		})
	}
	return rules
}
