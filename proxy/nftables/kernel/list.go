package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Generation is a number that every transaction of every program in the network
// namespace raises.
func Generation() (uint32, error) {
	s, err := dial(4096)
	if err != nil {
		return 0, err
	}
	defer s.close()
	request := &Batch{}
	request.do("generation", unix.NFT_MSG_GETGEN, 0, func(*attributes) {})
	if err := s.send(request.message); err != nil {
		return 0, fmt.Errorf("nf_tables: %w", err)
	}
	var generation uint32
	var failed error
	err = s.receive(make([]byte, 4096), func(kind, _ uint16, _ uint32, body []byte) {
		switch {
		case kind == unix.NLMSG_ERROR:
			failed = failure(body)
		case len(body) >= 4:
			generation = number(find(body[4:], unix.NFTA_GEN_ID))
		}
	})
	return generation, errors.Join(err, failed)
}

// Chain is one of any table.
type Chain struct {
	Table, Name string
	Hook        *Hook // nil: the kernel does not call it
	Drops       bool  // it drops what none of its rules decides about
}

// Chains are all of a family.
func Chains(family uint8) ([]Chain, error) {
	var list []Chain
	err := dump(unix.NFT_MSG_GETCHAIN, Table{Family: family}, func(*attributes) {}, func() { list = nil }, func(attributes []byte) {
		c := Chain{Table: text(find(attributes, unix.NFTA_CHAIN_TABLE)), Name: text(find(attributes, unix.NFTA_CHAIN_NAME))}
		if hook := find(attributes, unix.NFTA_CHAIN_HOOK); hook != nil {
			c.Hook = &Hook{
				Type: text(find(attributes, unix.NFTA_CHAIN_TYPE)), Number: number(find(hook, unix.NFTA_HOOK_HOOKNUM)),
				Priority: int32(number(find(hook, unix.NFTA_HOOK_PRIORITY))),
			}
			policy := find(attributes, unix.NFTA_CHAIN_POLICY)
			c.Drops = policy != nil && number(policy) == drop
		}
		list = append(list, c)
	})
	return list, err
}

// Rules is how many rules each chain of a table has; those without any are left
// out.
func (t Table) Rules() (map[string]int, error) {
	var count map[string]int
	err := dump(unix.NFT_MSG_GETRULE, t, func(a *attributes) { a.text(unix.NFTA_RULE_TABLE, t.Name) },
		func() { count = make(map[string]int) },
		func(attributes []byte) {
			if text(find(attributes, unix.NFTA_RULE_TABLE)) == t.Name {
				count[text(find(attributes, unix.NFTA_RULE_CHAIN))]++
			}
		})
	return count, err
}

// Elements calls f with every element of a set, after again, which may be called
// more than once: what came before then does not count.
func (t Table) Elements(set string, again func(), f func(Element)) error {
	return dump(unix.NFT_MSG_GETSETELEM, t, func(a *attributes) {
		a.text(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
		a.text(unix.NFTA_SET_ELEM_LIST_SET, set)
	}, again, func(attributes []byte) {
		each(find(attributes, unix.NFTA_SET_ELEM_LIST_ELEMENTS), func(_ uint16, value []byte) {
			e := Element{Key: find(find(value, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE)}
			data := find(value, unix.NFTA_SET_ELEM_DATA)
			e.Data = find(data, unix.NFTA_DATA_VALUE)
			e.Goto = text(find(find(data, unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CHAIN))
			f(e)
		})
	})
}
