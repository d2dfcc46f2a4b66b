package nftables

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nftables/kernel"
)

// family keeps the table of one IP family.
type family struct {
	layout
	table kernel.Table
	// What follows is how the table was left; all is empty if that is not known.
	known   bool
	hows    map[how]*chain
	stays   map[name]map[netip.AddrPort]uint32 // the numbers of endpoints that clients stay with
	stayed  uint32                             // the last of them that was given out
	turns   map[netip.Addr]int                 // how many Rules have an address in hairpin
	content map[string]*content
	rules   map[string]int // how many each chain has
	numbers numbers
}

// name is that of a Rule within its family.
type name struct{ name, protocol string }

func nameOf(r *proxy.Rule) name { return name{r.Name, string(r.Protocol)} }

// chain is that of a how.
type chain struct {
	name   string
	number uint32
	users  int
}

// numbers gives out numbers, small ones again.
type numbers struct {
	last uint32
	free []uint32
}

func (n *numbers) take() uint32 {
	if i := len(n.free) - 1; i >= 0 {
		number := n.free[i]
		n.free = n.free[:i]
		return number
	}
	n.last++
	return n.last
}

func (n *numbers) give(number uint32) { n.free = append(n.free, number) }

func (f *family) forget() {
	*f = family{
		layout: f.layout, table: f.table,
		hows: make(map[how]*chain), stays: make(map[name]map[netip.AddrPort]uint32), turns: make(map[netip.Addr]int), content: make(map[string]*content),
		rules: make(map[string]int),
	}
	for _, s := range f.sets() {
		f.content[s.Name] = &content{}
	}
}

// step is the transaction that changes one table into another.
type step struct {
	*family
	batch      *kernel.Batch
	pods       netip.Prefix
	gone, come map[string][]element
}

// apply makes the kernel's table that of changes, or all of it if what is there is
// not known.
func (f *family) apply(t *proxy.Table, changes []proxy.Change) error {
	s := &step{
		family: f, batch: kernel.New(f.table), pods: t.PodsOf(f.ipFamily),
		gone: make(map[string][]element), come: make(map[string][]element),
	}
	if !f.known {
		f.forget()
		// The old table and the new one are of one transaction: no packet meets neither.
		s.batch.AddTable()
		s.batch.DeleteTable()
		s.batch.AddTable()
		f.base(s.batch, t)
	}
	f.known = false
	for _, c := range changes {
		s.change(c)
	}
	s.write()
	if err := s.batch.Commit(); err != nil {
		return err
	}
	f.known = true
	for chain, n := range s.batch.Rules() {
		if f.rules[chain] = n; n == 0 {
			delete(f.rules, chain)
		}
	}
	return nil
}

func (s *step) change(c proxy.Change) {
	// An endpoint keeps its number as long as it is there.
	key := nameOf(cmp.Or(c.Old, c.New))
	before := s.stays[key]
	after := s.number(c.New, before)
	delete(s.stays, key)
	if len(after) > 0 {
		s.stays[key] = after
	}
	there := make(map[string]map[element]bool)
	if c.Old != nil {
		for set, e := range elements(c.Old, s.chainsOf(c.Old, before)) {
			if there[set] == nil {
				there[set] = make(map[element]bool)
			}
			there[set][e] = true
		}
	}
	if c.New != nil {
		s.enter(c.New, after)
		for set, e := range elements(c.New, s.chainsOf(c.New, after)) {
			if there[set][e] {
				delete(there[set], e)
			} else {
				s.come[set] = append(s.come[set], e)
			}
		}
	}
	for set, list := range there {
		s.gone[set] = slices.AppendSeq(s.gone[set], maps.Keys(list))
	}
	if c.Old != nil {
		s.leave(c.Old, before)
	}
}

// number numbers the endpoints that clients of a Rule stay with; r may be nil.
func (s *step) number(r *proxy.Rule, before map[netip.AddrPort]uint32) map[netip.AddrPort]uint32 {
	if r == nil || r.Sticky == 0 {
		return nil
	}
	after := make(map[netip.AddrPort]uint32)
	for _, e := range slices.Concat(r.Cluster, r.Local) {
		if number, ok := before[e]; ok {
			after[e] = number
		} else if after[e] == 0 {
			s.stayed++
			after[e] = s.stayed
		}
	}
	return after
}

// chainsOf says what the chains of a Rule's fronts are called.
func (s *step) chainsOf(r *proxy.Rule, stays map[netip.AddrPort]uint32) func(proxy.Front) string {
	return func(f proxy.Front) string { return s.family.hows[howOf(r, f, stays)].name }
}

// enter counts what a Rule uses, and makes what it is the first to use.
func (s *step) enter(r *proxy.Rule, stays map[netip.AddrPort]uint32) {
	for _, f := range r.Fronts {
		s.use(howOf(r, f, stays))
	}
	for _, a := range r.Hairpin {
		if s.turns[a]++; s.turns[a] == 1 {
			s.come[hairpin] = append(s.come[hairpin], element{key: words{}.addr(a).addr(a)})
		}
	}
}

func (s *step) leave(r *proxy.Rule, stays map[netip.AddrPort]uint32) {
	for _, f := range r.Fronts {
		s.disuse(howOf(r, f, stays))
	}
	for _, a := range r.Hairpin {
		if s.turns[a]--; s.turns[a] == 0 {
			delete(s.turns, a)
			s.gone[hairpin] = append(s.gone[hairpin], element{key: words{}.addr(a).addr(a)})
		}
	}
}

func (s *step) use(h how) {
	inner := ""
	if h.allow != "" {
		s.use(h.inner())
		inner = s.family.hows[h.inner()].name
	}
	c := s.family.hows[h]
	if c == nil {
		c = &chain{number: s.numbers.take()}
		c.name = h.chain(c.number)
		s.family.hows[h] = c
		s.layout.chain(s.batch, c.name, h, inner, s.pods)
	}
	c.users++
}

func (s *step) disuse(h how) {
	s.family.hows[h].users--
	if h.allow != "" {
		s.disuse(h.inner())
	}
}

// write puts the elements into the transaction, and takes away chains that nobody
// uses any more.
func (s *step) write() {
	for _, set := range s.sets() {
		s.batch.Reserve(len(s.gone[set.Name]) + len(s.come[set.Name]))
	}
	for _, set := range s.sets() {
		s.batch.DeleteElements(set.Name, s.list(s.gone[set.Name], s.content[set.Name].remove))
	}
	for _, set := range s.sets() {
		s.batch.AddElements(set.Name, s.list(s.come[set.Name], s.content[set.Name].add))
	}
	var unused []how
	for h, c := range s.family.hows {
		if c.users == 0 {
			unused = append(unused, h)
		}
	}
	// Those with lists of clients lead to others.
	slices.SortFunc(unused, func(a, b how) int { return len(b.allow) - len(a.allow) })
	for _, h := range unused {
		c := s.family.hows[h]
		s.batch.DeleteChain(c.name)
		s.numbers.give(c.number)
		delete(s.family.hows, h)
	}
}

func (s *step) list(elements []element, count func(element)) func(yield func(kernel.Element) bool) {
	return func(yield func(kernel.Element) bool) {
		for i := range elements {
			count(elements[i])
			if !yield(elements[i].kernel()) {
				return
			}
		}
	}
}

// intact compares the table with how it was left.
func (f *family) intact() (bool, error) {
	if !f.known {
		return false, nil
	}
	rules, err := f.table.Rules()
	if err != nil {
		return false, err
	}
	if !maps.Equal(rules, f.rules) {
		return false, nil
	}
	for _, set := range f.sets() {
		if set.Name == affinity {
			continue // the rules write it
		}
		var there content
		err := f.table.Elements(set.Name, func() { there = content{} }, func(e kernel.Element) { there.add(found(e)) })
		if err != nil {
			return false, err
		}
		if there != *f.content[set.Name] {
			return false, nil
		}
	}
	return true, nil
}
