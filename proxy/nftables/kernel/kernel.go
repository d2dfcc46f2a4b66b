// Package kernel speaks nf_tables with the kernel: transactions of tables, chains,
// rules, sets and elements, and lists of what is there. It needs no program of the
// host. Messages are appended to one buffer, so that tens of thousands of elements
// cost their bytes and little else.
package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Table names a table.
type Table struct {
	Family uint8 // unix.NFPROTO_IPV4, …
	Name   string
}

// Hook makes a chain one that the kernel calls.
type Hook struct {
	Type     string // filter or nat
	Number   uint32 // unix.NF_INET_PRE_ROUTING, …
	Priority int32
}

// Set describes a set or, with DataLen or Verdicts, a map. KeyType and DataType
// are numbers by which the program nft prints elements; the kernel does not care.
type Set struct {
	Name              string
	KeyType, DataType uint32
	KeyLen, DataLen   uint32
	Verdicts          bool   // the data are verdicts
	Dynamic           bool   // rules add elements, which have timeouts
	Size              uint32 // 0: no limit; a dynamic set needs one
}

// Batch is a transaction on one table: all of it happens, or nothing.
type Batch struct {
	table    Table
	message  []byte
	began    int // where the last message begins
	sequence uint32
	what     []string // what each message is about
	rules    map[string]int
}

// New returns an empty transaction.
func New(t Table) *Batch {
	b := &Batch{table: t, rules: make(map[string]int)}
	b.begin("begin", unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES)
	return b
}

// Empty reports whether there is nothing to do.
func (b *Batch) Empty() bool { return b.sequence == 1 }

func (b *Batch) begin(what string, kind, flags uint16, family uint8, resource uint16) {
	b.began = len(b.message)
	b.message = binary.NativeEndian.AppendUint32(b.message, 0)
	b.message = binary.NativeEndian.AppendUint16(b.message, kind)
	b.message = binary.NativeEndian.AppendUint16(b.message, unix.NLM_F_REQUEST|flags)
	b.message = binary.NativeEndian.AppendUint32(b.message, b.sequence)
	b.message = binary.NativeEndian.AppendUint32(b.message, 0)
	b.message = append(b.message, family, unix.NFNETLINK_V0)
	b.message = binary.BigEndian.AppendUint16(b.message, resource)
	b.sequence++
	b.what = append(b.what, what)
	b.end()
}

// end writes the length of the last message; appending to it makes it wrong again.
func (b *Batch) end() {
	binary.NativeEndian.PutUint32(b.message[b.began:], uint32(len(b.message)-b.began))
}

func (b *Batch) do(what string, kind, flags uint16, fill func(a *attributes)) {
	b.begin(what, unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, b.table.Family, 0)
	a := &attributes{b.message}
	fill(a)
	b.message = a.bytes
	b.end()
}

// AddTable makes the table unless it is there.
func (b *Batch) AddTable() {
	b.do("table", unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func(a *attributes) {
		a.text(unix.NFTA_TABLE_NAME, b.table.Name)
	})
}

// DeleteTable takes it away with all that is in it.
func (b *Batch) DeleteTable() {
	b.do("delete table", unix.NFT_MSG_DELTABLE, 0, func(a *attributes) {
		a.text(unix.NFTA_TABLE_NAME, b.table.Name)
	})
}

// AddChain makes a chain; hook may be nil.
func (b *Batch) AddChain(name string, hook *Hook) {
	b.do("chain "+name, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func(a *attributes) {
		a.text(unix.NFTA_CHAIN_TABLE, b.table.Name)
		a.text(unix.NFTA_CHAIN_NAME, name)
		if hook == nil {
			return
		}
		a.nested(unix.NFTA_CHAIN_HOOK, func(a *attributes) {
			a.number(unix.NFTA_HOOK_HOOKNUM, hook.Number)
			a.number(unix.NFTA_HOOK_PRIORITY, uint32(hook.Priority))
		})
		a.text(unix.NFTA_CHAIN_TYPE, hook.Type)
	})
}

// DeleteChain takes a chain and its rules away.
func (b *Batch) DeleteChain(name string) {
	b.rules[name] = 0
	b.do("delete chain "+name, unix.NFT_MSG_DELCHAIN, 0, func(a *attributes) {
		a.text(unix.NFTA_CHAIN_TABLE, b.table.Name)
		a.text(unix.NFTA_CHAIN_NAME, name)
	})
}

// AddRule appends a rule to a chain.
func (b *Batch) AddRule(chain string, expressions ...Expression) {
	b.rules[chain]++
	b.do("rule in "+chain, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func(a *attributes) {
		a.text(unix.NFTA_RULE_TABLE, b.table.Name)
		a.text(unix.NFTA_RULE_CHAIN, chain)
		a.nested(unix.NFTA_RULE_EXPRESSIONS, func(a *attributes) {
			for _, e := range expressions {
				a.nested(unix.NFTA_LIST_ELEM, func(a *attributes) {
					a.text(unix.NFTA_EXPR_NAME, e.name)
					a.nested(unix.NFTA_EXPR_DATA, e.fill)
				})
			}
		})
	})
}

// Rules is how many rules were added to each chain that is new; 0 for those that are
// deleted.
func (b *Batch) Rules() map[string]int { return b.rules }

// dataVerdict is the type of data that are verdicts (NFT_DATA_VERDICT).
const dataVerdict = 0xffffff00

// AddSet makes a set.
func (b *Batch) AddSet(s Set) {
	b.do("set "+s.Name, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, func(a *attributes) {
		a.text(unix.NFTA_SET_TABLE, b.table.Name)
		a.text(unix.NFTA_SET_NAME, s.Name)
		var flags uint32
		if s.Verdicts || s.DataLen > 0 {
			flags |= unix.NFT_SET_MAP
		}
		if s.Dynamic {
			flags |= unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
		}
		a.number(unix.NFTA_SET_FLAGS, flags)
		a.number(unix.NFTA_SET_KEY_TYPE, s.KeyType)
		a.number(unix.NFTA_SET_KEY_LEN, s.KeyLen)
		switch {
		case s.Verdicts:
			a.number(unix.NFTA_SET_DATA_TYPE, dataVerdict)
		case s.DataLen > 0:
			a.number(unix.NFTA_SET_DATA_TYPE, s.DataType)
			a.number(unix.NFTA_SET_DATA_LEN, s.DataLen)
		}
		if s.Size > 0 {
			a.nested(unix.NFTA_SET_DESC, func(a *attributes) { a.number(unix.NFTA_SET_DESC_SIZE, s.Size) })
		}
		// The kernel wants a number by which the same transaction could name the set.
		a.number(unix.NFTA_SET_ID, b.sequence)
	})
}

// Element is one of a set, with data if that is a map, or with a chain to go to if
// its data are verdicts.
type Element struct {
	Key, Data []byte
	Goto      string
}

// listLimit is how many bytes of elements go into one message, whose attributes
// have lengths of 16 bits.
const listLimit = 48 << 10

// elementSize is about how much an element takes in a message.
const elementSize = 88

// Reserve makes room for so many elements, without which the message grows step by
// step.
func (b *Batch) Reserve(elements int) { b.message = slices.Grow(b.message, elements*elementSize) }

// AddElements adds elements to a set. Whoever yields them may use their memory
// again.
func (b *Batch) AddElements(set string, elements func(yield func(Element) bool)) {
	b.elements("elements of "+set, set, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, elements)
}

// DeleteElements deletes elements of a set, which must be there.
func (b *Batch) DeleteElements(set string, elements func(yield func(Element) bool)) {
	b.elements("delete elements of "+set, set, unix.NFT_MSG_DELSETELEM, 0, elements)
}

func (b *Batch) elements(what, set string, kind, flags uint16, elements func(yield func(Element) bool)) {
	var a *attributes
	var list int
	finish := func() {
		if a != nil {
			a.close(list)
			b.message = a.bytes
			b.end()
			a = nil
		}
	}
	for e := range elements {
		if a == nil {
			b.do(what, kind, flags, func(a *attributes) {
				a.text(unix.NFTA_SET_ELEM_LIST_TABLE, b.table.Name)
				a.text(unix.NFTA_SET_ELEM_LIST_SET, set)
			})
			a = &attributes{b.message}
			list = a.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		}
		a.element(e)
		if len(a.bytes)-list > listLimit {
			finish()
		}
	}
	finish()
}

func (a *attributes) element(e Element) {
	element := a.open(unix.NFTA_LIST_ELEM)
	key := a.open(unix.NFTA_SET_ELEM_KEY)
	a.raw(unix.NFTA_DATA_VALUE, e.Key)
	a.close(key)
	switch {
	case e.Goto != "":
		a.nested(unix.NFTA_SET_ELEM_DATA, func(a *attributes) { a.verdict(unix.NFT_GOTO, e.Goto) })
	case len(e.Data) > 0:
		data := a.open(unix.NFTA_SET_ELEM_DATA)
		a.raw(unix.NFTA_DATA_VALUE, e.Data)
		a.close(data)
	}
	a.close(element)
}

// Commit makes the kernel do all of it.
func (b *Batch) Commit() error {
	if b.Empty() {
		return nil
	}
	// The last message says when the kernel is done.
	flags := binary.NativeEndian.Uint16(b.message[b.began+6:])
	binary.NativeEndian.PutUint16(b.message[b.began+6:], flags|unix.NLM_F_ACK)
	last := b.sequence - 1
	b.begin("end", unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES)
	s, err := dial(len(b.message))
	if err != nil {
		return err
	}
	defer s.close()
	for {
		if err := s.send(b.message); err != nil {
			return fmt.Errorf("nf_tables: %w", err)
		}
		err := s.answer(last, b.what)
		if !errors.Is(err, unix.EINTR) { // by a signal, before anything was done
			return err
		}
	}
}
