package kernel

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// Expression is a part of a rule. They work one after the other on registers, and
// one that does not match ends its rule.
type Expression struct {
	name string
	fill func(a *attributes)
}

// Register is one of 16 of four bytes each. What is longer goes on in those after
// it; what is shorter fills its last register with zeros.
type Register uint32

func (r Register) number() uint32 { return unix.NFT_REG32_00 + uint32(r) }

// Header is where a payload begins.
type Header uint32

// The headers of a packet.
const (
	Network   Header = unix.NFT_PAYLOAD_NETWORK_HEADER
	Transport Header = unix.NFT_PAYLOAD_TRANSPORT_HEADER
)

// Payload loads bytes of the packet.
func Payload(to Register, header Header, offset, length uint32) Expression {
	return Expression{"payload", func(a *attributes) {
		a.number(unix.NFTA_PAYLOAD_DREG, to.number())
		a.number(unix.NFTA_PAYLOAD_BASE, uint32(header))
		a.number(unix.NFTA_PAYLOAD_OFFSET, offset)
		a.number(unix.NFTA_PAYLOAD_LEN, length)
	}}
}

// Meta loads what the kernel knows of a packet (unix.NFT_META_…).
func Meta(to Register, key uint32) Expression {
	return Expression{"meta", func(a *attributes) {
		a.number(unix.NFTA_META_KEY, key)
		a.number(unix.NFTA_META_DREG, to.number())
	}}
}

// SetMark gives the packet the mark in a register.
func SetMark(from Register) Expression {
	return Expression{"meta", func(a *attributes) {
		a.number(unix.NFTA_META_KEY, unix.NFT_META_MARK)
		a.number(unix.NFTA_META_SREG, from.number())
	}}
}

// ConnectionState loads the state of the packet's flow (unix.NFT_CT_STATE).
func ConnectionState(to Register) Expression {
	return Expression{"ct", func(a *attributes) {
		a.number(unix.NFTA_CT_KEY, unix.NFT_CT_STATE)
		a.number(unix.NFTA_CT_DREG, to.number())
	}}
}

// Load puts bytes into registers.
func Load(to Register, value []byte) Expression {
	return Expression{"immediate", func(a *attributes) {
		a.number(unix.NFTA_IMMEDIATE_DREG, to.number())
		a.nested(unix.NFTA_IMMEDIATE_DATA, func(a *attributes) { a.raw(unix.NFTA_DATA_VALUE, value) })
	}}
}

// Bits computes (register & mask) ^ xor, in place.
func Bits(r Register, mask, xor []byte) Expression {
	return Expression{"bitwise", func(a *attributes) {
		a.number(unix.NFTA_BITWISE_SREG, r.number())
		a.number(unix.NFTA_BITWISE_DREG, r.number())
		a.number(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		a.nested(unix.NFTA_BITWISE_MASK, func(a *attributes) { a.raw(unix.NFTA_DATA_VALUE, mask) })
		a.nested(unix.NFTA_BITWISE_XOR, func(a *attributes) { a.raw(unix.NFTA_DATA_VALUE, xor) })
	}}
}

// Equal matches registers that hold a value, NotEqual others.
func Equal(r Register, value []byte) Expression { return compare(r, unix.NFT_CMP_EQ, value) }

// NotEqual is the opposite of Equal.
func NotEqual(r Register, value []byte) Expression { return compare(r, unix.NFT_CMP_NEQ, value) }

func compare(r Register, operator uint32, value []byte) Expression {
	return Expression{"cmp", func(a *attributes) {
		a.number(unix.NFTA_CMP_SREG, r.number())
		a.number(unix.NFTA_CMP_OP, operator)
		a.nested(unix.NFTA_CMP_DATA, func(a *attributes) { a.raw(unix.NFTA_DATA_VALUE, value) })
	}}
}

// In matches registers that are an element of a set.
func In(r Register, set string) Expression {
	return Expression{"lookup", func(a *attributes) {
		a.text(unix.NFTA_LOOKUP_SET, set)
		a.number(unix.NFTA_LOOKUP_SREG, r.number())
	}}
}

// Lookup loads what a map has for registers; what it does not have does not match.
func Lookup(key Register, set string, to Register) Expression {
	return Expression{"lookup", func(a *attributes) {
		a.text(unix.NFTA_LOOKUP_SET, set)
		a.number(unix.NFTA_LOOKUP_SREG, key.number())
		a.number(unix.NFTA_LOOKUP_DREG, to.number())
	}}
}

// Dispatch goes where a map of verdicts says.
func Dispatch(key Register, set string) Expression {
	return Expression{"lookup", func(a *attributes) {
		a.text(unix.NFTA_LOOKUP_SET, set)
		a.number(unix.NFTA_LOOKUP_SREG, key.number())
		a.number(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
	}}
}

// Update makes a dynamic set have a key, for a time from now on. It does not match if
// the set is full.
func Update(set string, key Register, timeout time.Duration) Expression {
	return Expression{"dynset", func(a *attributes) {
		a.text(unix.NFTA_DYNSET_SET_NAME, set)
		a.number(unix.NFTA_DYNSET_SREG_KEY, key.number())
		a.number(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE)
		a.long(unix.NFTA_DYNSET_TIMEOUT, uint64(timeout.Milliseconds()))
	}}
}

// Random loads a number that is one of so many from the first on.
func Random(to Register, of, first uint32) Expression {
	return Expression{"numgen", func(a *attributes) {
		a.number(unix.NFTA_NG_DREG, to.number())
		a.number(unix.NFTA_NG_MODULUS, of)
		a.number(unix.NFTA_NG_OFFSET, first)
		a.number(unix.NFTA_NG_TYPE, unix.NFT_NG_RANDOM)
	}}
}

// SourceKind and DestinationKind load what an address is to the node, such as
// unix.RTN_LOCAL.
func SourceKind(to Register) Expression { return addressKind(to, unix.NFTA_FIB_F_SADDR) }

// DestinationKind is SourceKind for the destination.
func DestinationKind(to Register) Expression { return addressKind(to, unix.NFTA_FIB_F_DADDR) }

func addressKind(to Register, flags uint32) Expression {
	return Expression{"fib", func(a *attributes) {
		a.number(unix.NFTA_FIB_DREG, to.number())
		a.number(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		a.number(unix.NFTA_FIB_FLAGS, flags)
	}}
}

// Translate sends the flow to an address and port in registers.
func Translate(family uint8, addr, port Register) Expression {
	return Expression{"nat", func(a *attributes) {
		a.number(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		a.number(unix.NFTA_NAT_FAMILY, uint32(family))
		a.number(unix.NFTA_NAT_REG_ADDR_MIN, addr.number())
		a.number(unix.NFTA_NAT_REG_PROTO_MIN, port.number())
	}}
}

// fullyRandom has masqueraded flows leave by unpredictable ports
// (NF_NAT_RANGE_PROTO_RANDOM_FULLY).
const fullyRandom = 1 << 4

// Masquerade gives the flow the address of the link by which it leaves.
func Masquerade() Expression {
	return Expression{"masq", func(a *attributes) { a.number(unix.NFTA_MASQ_FLAGS, fullyRandom) }}
}

// Reject answers that the destination cannot be reached, for the reason that an
// ICMP code of the family stands for.
func Reject(code uint8) Expression {
	return Expression{"reject", func(a *attributes) {
		a.number(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMP_UNREACH)
		a.raw(unix.NFTA_REJECT_ICMP_CODE, []byte{code})
	}}
}

// drop is the verdict NF_DROP.
const drop = 0

// Drop ends the packet.
func Drop() Expression { return verdict(drop, "") }

// Jump goes on in a chain, and after that behind this rule.
func Jump(chain string) Expression { return verdict(unix.NFT_JUMP, chain) }

// Goto goes on in a chain, and after that behind the last Jump.
func Goto(chain string) Expression { return verdict(unix.NFT_GOTO, chain) }

func verdict(code int32, chain string) Expression {
	return Expression{"immediate", func(a *attributes) {
		a.number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		a.nested(unix.NFTA_IMMEDIATE_DATA, func(a *attributes) { a.verdict(code, chain) })
	}}
}

func (a *attributes) verdict(code int32, chain string) {
	a.nested(unix.NFTA_DATA_VERDICT, func(a *attributes) {
		a.number(unix.NFTA_VERDICT_CODE, uint32(code))
		if chain != "" {
			a.text(unix.NFTA_VERDICT_CHAIN, chain)
		}
	})
}

// Native is a number as registers hold those that do not come from a packet.
func Native(number uint32) []byte { return binary.NativeEndian.AppendUint32(nil, number) }
