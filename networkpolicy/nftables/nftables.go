// Package nftables enforces the tables of package networkpolicy in the kernel, in tables of its own of the
// network namespace of the process. A packet is judged by its addresses alone, after Services have been
// translated and before addresses are masqueraded:
//
//	forward: answers pass → egress chain of the source → ingress chain of the destination
//	input:   answers pass → egress chain of the source
//	output:  the same as forward, for what IPVS sends on; only there is IPVS
//
// Maps lead from the address to the chain, so that it does not matter how many policies there are; a chain
// has at most four rules, whatever the policies say, for what they allow is in sets. What the node sends
// itself, probes among it, is not judged.
package nftables

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"

	"github.com/skiff-k8s/skiff/networkpolicy"
)

const (
	// chunk is how many elements a message has, whose size has 16 bits.
	chunk = 500
	// buffers are what the kernel keeps of a transaction, and of its answers.
	buffers = 64 << 20
	// patience is how long the kernel may take for an answer.
	patience = 30 * time.Second
)

// Backend keeps the rules in the network namespace of the process.
type Backend struct {
	entrances []entrance
	applied   []*ruleset // nil: not known
}

// New returns a backend, or an error that says what the host lacks. ipvs says that IPVS spreads the flows of
// Services, whose packets take another way.
func New(ipvs bool) (*Backend, error) {
	// Without this, pods of one node reach each other over their bridge, past all rules.
	if err := bridgesPassRules(); err != nil {
		return nil, fmt.Errorf("network policies need the module br_netfilter of the kernel: %w", err)
	}
	if _, err := dial().ListTables(); err != nil {
		return nil, fmt.Errorf("network policies need nftables: %w", err)
	}
	return &Backend{entrances: entrances(ipvs)}, nil
}

// bridgesPassRules loads the module for that, if it is not there yet and the host can.
func bridgesPassRules() error {
	const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(setting); err == nil {
		return nil
	}
	// Whether it is there now says more than why it could not be loaded.
	_ = exec.Command("modprobe", "br_netfilter").Run()
	_, err := os.Stat(setting)
	return err
}

func dial() *nftables.Conn {
	conn, _ := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error { // opens nothing yet, so cannot fail
		return errors.Join(c.SetReadBuffer(buffers), c.SetWriteBuffer(buffers), c.SetDeadline(time.Now().Add(patience)))
	}))
	return conn
}

// Apply makes the rules match t, in one transaction: no packet is judged by half of it. The first Apply, and
// one after an error, replaces what is there.
func (b *Backend) Apply(t *networkpolicy.Table) error {
	next := make([]*ruleset, 0, len(families))
	for _, f := range families {
		if f.number == nftables.TableFamilyIPv6 && !hasIPv6() {
			continue
		}
		next = append(next, render(t, f))
	}
	before := b.applied
	b.applied = nil // until it is certain
	if before == nil {
		if err := b.replace(next); err != nil {
			return err
		}
		b.applied = next
		return nil
	}
	batch := batch{Conn: dial(), name: tableName}
	for i, r := range next {
		batch.change(before[i], r)
	}
	if err := batch.end(); err != nil {
		return err
	}
	b.applied = next
	return nil
}

// replace makes the tables anew. A packet that comes at the moment in which one takes the other's place may be judged by neither: the
// kernel asks the new one before and the old one after. So tables of another name stand in meanwhile, if there are any of ours.
func (b *Backend) replace(next []*ruleset) error {
	there, err := tables(dial())
	if err != nil {
		return err
	}
	if len(there) == 0 {
		return b.write(tableName, next)
	}
	if err := errors.Join(b.write(standIn, next), b.write(tableName, next)); err != nil {
		return err
	}
	conn := dial()
	for _, r := range next {
		conn.DelTable(&nftables.Table{Name: standIn, Family: r.family.number})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change nftables: %w", err)
	}
	return nil
}

// write makes tables of a name, whatever there is of them.
func (b *Backend) write(name string, next []*ruleset) error {
	batch := batch{Conn: dial(), name: name}
	for _, r := range next {
		batch.replace(r, b.entrances)
	}
	return batch.end()
}

// tables are those of ours, of this run or an earlier one.
func tables(conn *nftables.Conn) ([]*nftables.Table, error) {
	all, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list tables of nftables: %w", err)
	}
	return slices.DeleteFunc(all, func(t *nftables.Table) bool { return t.Name != tableName && t.Name != standIn }), nil
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return !errors.Is(err, fs.ErrNotExist)
}

// Remove takes the rules away, of this run or an earlier one.
func Remove() error {
	conn := dial()
	there, err := tables(conn)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPROTONOSUPPORT) { // no nftables, no rules
		return nil
	}
	if err != nil {
		return err
	}
	for _, t := range there {
		conn.DelTable(t)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables of network policies: %w", err)
	}
	return nil
}

// Intact reports whether the rules are as Apply left them. If not, the next Apply makes everything anew.
func (b *Backend) Intact() (bool, error) {
	for _, r := range b.applied {
		same, err := r.stands(dial(), b.entrances)
		if err != nil {
			return false, fmt.Errorf("look at nftables of network policies: %w", err)
		}
		if !same {
			b.applied = nil
			return false, nil
		}
	}
	return b.applied != nil, nil
}

// stands reports whether the kernel has as many rules and elements as it should, in chains and sets of the
// same names.
func (r *ruleset) stands(conn *nftables.Conn, entrances []entrance) (bool, error) {
	rules, elems, err := count(conn, r.family)
	if err != nil {
		return false, err
	}
	wantRules := make(map[string]int)
	for _, e := range entrances {
		wantRules[e.name] = len(r.family.rulesOfEntrance(e))
	}
	for name, p := range r.chains {
		wantRules[name] = len(r.family.rulesOf(p))
	}
	wantElems := make(map[string]int)
	for name, s := range r.sets {
		wantElems[name] = len(s.elems)
	}
	return maps.Equal(rules, wantRules) && maps.Equal(elems, wantElems), nil
}

// count counts what the kernel has: rules by chain, elements by set.
func count(conn *nftables.Conn, f family) (rules, elems map[string]int, err error) {
	rules, elems = make(map[string]int), make(map[string]int)
	chains, err := conn.ListChainsOfTableFamily(f.number)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range chains {
		if c.Table.Name != tableName {
			continue
		}
		list, err := conn.GetRules(f.table(), c)
		if err != nil {
			return nil, nil, err
		}
		rules[c.Name] = len(list)
	}
	if len(rules) == 0 {
		return rules, elems, nil
	}
	sets, err := conn.GetSets(f.table())
	if err != nil {
		return nil, nil, err
	}
	for _, s := range sets {
		s.Table = f.table()
		list, err := conn.GetSetElements(s)
		if err != nil {
			return nil, nil, err
		}
		elems[s.Name] = len(list)
	}
	return rules, elems, nil
}

// batch is a transaction that is being written.
type batch struct {
	*nftables.Conn
	name string // of the tables
	ids  uint32 // of sets, which need one that is unique in the batch
	err  error
}

// end has the kernel make the transaction.
func (b *batch) end() error {
	if b.err != nil {
		return b.err
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("change nftables: %w", err)
	}
	return nil
}

func (b *batch) table(f family) *nftables.Table {
	return &nftables.Table{Name: b.name, Family: f.number}
}

// replace makes a table anew, whatever there is of it.
func (b *batch) replace(r *ruleset, entrances []entrance) {
	table := b.table(r.family)
	b.AddTable(table) // so that there is one to delete
	b.DelTable(table)
	b.AddTable(table)
	b.change(&ruleset{family: r.family}, r)
	for _, e := range entrances {
		chain := b.AddChain(&nftables.Chain{
			Name: e.name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: e.hook, Priority: &e.priority,
		})
		b.addRules(table, chain, r.family.rulesOfEntrance(e))
	}
}

// change makes a table that is like old like r.
func (b *batch) change(old, r *ruleset) {
	table := b.table(r.family)
	for _, name := range missing(r.sets, old.sets) {
		b.addSet(table, name, r.sets[name].kind)
	}
	for _, name := range missing(r.chains, old.chains) {
		chain := b.AddChain(&nftables.Chain{Name: name, Table: table})
		b.addRules(table, chain, r.family.rulesOf(r.chains[name]))
	}
	for name, s := range r.sets {
		before := &set{}
		if old.sets[name] != nil {
			before = old.sets[name]
		}
		b.changeElements(table, name, before, s)
	}
	for _, name := range missing(old.chains, r.chains) {
		chain := &nftables.Chain{Name: name, Table: table}
		b.FlushChain(chain)
		b.DelChain(chain)
	}
	for _, name := range missing(old.sets, r.sets) {
		b.DelSet(&nftables.Set{Name: name, Table: table})
	}
}

// missing are the names in a that b lacks.
func missing[V any](a, b map[string]V) []string {
	var names []string
	for name := range a {
		if _, ok := b[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (b *batch) addRules(table *nftables.Table, chain *nftables.Chain, rules [][]expr.Any) {
	for _, exprs := range rules {
		b.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
}

func (b *batch) addSet(table *nftables.Table, name string, k kind) {
	b.ids++ // the library's own counter is not safe for two users in a process
	s := k.set(table, name)
	s.ID = b.ids
	b.err = errors.Join(b.err, b.AddSet(s, nil))
}

func (k kind) set(table *nftables.Table, name string) *nftables.Set {
	s := &nftables.Set{
		Table: table, Name: name, KeyType: k.key[0], Interval: k.ranges, Concatenation: len(k.key) > 1,
		IsMap: k.value.Name != "", DataType: k.value, KeyByteOrder: binaryutil.BigEndian,
	}
	if s.Concatenation {
		s.KeyType = nftables.MustConcatSetType(k.key...)
	}
	return s
}

func (b *batch) changeElements(table *nftables.Table, name string, old, s *set) {
	target := s.kind.set(table, name)
	var gone, fresh []nftables.SetElement
	for key, e := range old.elems {
		if now, ok := s.elems[key]; !ok || now != e {
			gone = append(gone, s.kind.element(key, e))
		}
	}
	for key, e := range s.elems {
		if before, ok := old.elems[key]; !ok || before != e {
			fresh = append(fresh, s.kind.element(key, e))
		}
	}
	for part := range slices.Chunk(gone, chunk) {
		b.err = errors.Join(b.err, b.SetDeleteElements(target, part))
	}
	for part := range slices.Chunk(fresh, chunk) {
		b.err = errors.Join(b.err, b.SetAddElements(target, part))
	}
}

func (k kind) element(key string, e element) nftables.SetElement {
	out := nftables.SetElement{Key: []byte(key)}
	if k.ranges {
		out.Key, out.KeyEnd = []byte(key[:len(key)/2]), []byte(key[len(key)/2:])
	}
	switch k.value.Name {
	case nftables.TypeMark.Name:
		out.Val = binaryutil.BigEndian.PutUint32(e.class)
	case nftables.TypeVerdict.Name:
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: e.chain}
	}
	return out
}
