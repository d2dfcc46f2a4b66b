package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Ledger is what Services ask for and have. It follows them one by one: a change
// costs what it is about, not how many Services there are, and rules that it does
// not touch stay the same pointers.
//
// Anybody who may make a Service may write any address into externalIPs. So kinds
// of front come in the order of their constants, and among those of a kind the
// oldest Service comes first. A cluster IP is its Service's with all ports, used
// or not: what a client of the Service is sent to is never chosen by others.
//
// The address of a load balancer may be the node's own, which the programs of the
// node had first: it is refused where Node.Taken says that one listens, unless a
// Service has it already.
//
// Who has one address does not depend on who has another, so that a change of a
// Service concerns those that ask for one of its addresses.
type Ledger struct {
	node     Node
	entries  map[string]*entry // by namespace/name
	asking   map[spot][]*entry // who asks for something at an address
	health   map[string]Health // of the Services that have it
	refusing map[string]*entry // those that were refused something
	changed  map[*entry]bool   // those whose rules may differ from the last Table
	rules    []*Rule           // of the last Table
}

// entry is one Service.
type entry struct {
	claim
	wanted  []*Rule // with all that it asks for
	given   []*Rule // with what it has
	refused []Refused
	// published are those in the last Table.
	published []*Rule
}

// spot is an address, or a node port.
type spot struct {
	addr   netip.Addr
	family corev1.IPFamily
	port   uint16
}

func spotOf(r *Rule, f Front) spot {
	if f.Kind == NodePort {
		return spot{family: r.Family, port: f.Addr.Port()}
	}
	return spot{addr: f.Addr.Addr()}
}

// place is what one front alone can have.
type place struct {
	protocol corev1.Protocol
	family   corev1.IPFamily // a node port's address does not tell it
	addr     netip.AddrPort
}

func placeOf(r *Rule, f Front) place { return place{r.Protocol, r.Family, f.Addr} }

// NewLedger returns an empty one.
func NewLedger(node Node) *Ledger {
	return &Ledger{
		node: node, entries: make(map[string]*entry), asking: make(map[spot][]*entry),
		health: make(map[string]Health), refusing: make(map[string]*entry), changed: make(map[*entry]bool),
	}
}

// Set says what a Service with a name is now, and its slices; nil: there is none.
func (l *Ledger) Set(name string, s *corev1.Service, list []*discoveryv1.EndpointSlice) {
	var service *keptService
	if s != nil {
		service = keepService(s)
	}
	slices := make([]*keptSlice, 0, len(list))
	for _, slice := range list {
		slices = append(slices, keepSlice(slice))
	}
	l.set(name, service, slices)
}

// set is Set with what is kept of the objects.
func (l *Ledger) set(name string, s *keptService, list []*keptSlice) {
	asks := s != nil && len(s.rules) > 0
	e := l.entries[name]
	if e == nil {
		if !asks {
			return
		}
		e = &entry{claim: claim{service: name}}
		l.entries[name] = e
	}
	before := e.wanted
	concerned := map[*entry]bool{e: true}
	for at := range e.spots() {
		for _, other := range l.asking[at] {
			concerned[other] = true
		}
		l.asking[at] = slices.DeleteFunc(l.asking[at], func(o *entry) bool { return o == e })
		if len(l.asking[at]) == 0 {
			delete(l.asking, at)
		}
	}
	e.wanted = nil
	delete(l.health, name)
	if asks {
		e.created = s.created
		e.wanted = reuse(before, wanted(l.node, s, list))
		if s.healthPort > 0 {
			l.health[name] = Health{Port: s.healthPort, Local: readyHere(l.node, s, list)}
		}
	}
	for at := range e.spots() {
		l.asking[at] = append(l.asking[at], e)
		for _, other := range l.asking[at] {
			concerned[other] = true
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(concerned), func(a, b *entry) int { return strings.Compare(a.service, b.service) }) {
		l.settle(e)
	}
}

// Retry looks again whether programs of the node still listen where Services were
// refused for their sake.
func (l *Ledger) Retry() {
	for _, e := range slices.Collect(maps.Values(l.refusing)) {
		if slices.ContainsFunc(e.refused, func(r Refused) bool { return r.Holder == program }) {
			l.settle(e)
		}
	}
}

// spots are those of all that e asks for.
func (e *entry) spots() map[spot]bool {
	found := make(map[spot]bool)
	for _, r := range e.wanted {
		for _, f := range r.Fronts {
			found[spotOf(r, f)] = true
		}
	}
	return found
}

// reuse has the old pointers for rules that are alike.
func reuse(old, now []*Rule) []*Rule {
	for i, r := range now {
		if at := slices.IndexFunc(old, r.equal); at >= 0 {
			now[i] = old[at]
		}
	}
	return now
}

// settle gives e what it has a right to.
func (l *Ledger) settle(e *entry) {
	var given []*Rule
	var refused []Refused
	for _, r := range e.wanted {
		kept := make([]Front, 0, len(r.Fronts))
		for i, f := range r.Fronts {
			holder := l.holder(e, r, i)
			if holder == "" {
				kept = append(kept, f)
				continue
			}
			refused = append(refused, Refused{Name: r.Name, Protocol: r.Protocol, Front: f, Holder: holder})
		}
		if len(kept) < len(r.Fronts) {
			less := *r
			less.Fronts = kept
			r = &less
		}
		given = append(given, r)
	}
	e.given, e.refused = reuse(e.published, reuse(e.given, given)), refused
	l.changed[e] = true
	delete(l.refusing, e.service)
	if len(refused) > 0 {
		l.refusing[e.service] = e
	}
}

// holder says who has the address of a front that e asks for; empty: e.
func (l *Ledger) holder(e *entry, r *Rule, front int) string {
	f := r.Fronts[front]
	others := l.asking[spotOf(r, f)]
	if owner := owner(others, f.Addr.Addr()); owner != nil && (f.Kind != ClusterIP || owner != e) {
		return owner.service
	}
	at := placeOf(r, f)
	if f.Kind == LoadBalancer && !has(others, at) && l.node.Taken != nil && l.node.Taken(r.Protocol, f.Addr) {
		return program
	}
	mine := bid{f.Kind, e.claim, r, front}
	lowest := mine
	for _, other := range others {
		for _, theirs := range other.wanted {
			for i, f := range theirs.Fronts {
				if b := (bid{f.Kind, other.claim, theirs, i}); placeOf(theirs, f) == at && b.compare(lowest) < 0 {
					lowest = b
				}
			}
		}
	}
	if lowest == mine {
		return ""
	}
	return lowest.service
}

// owner is the Service whose cluster IP an address is.
func owner(asking []*entry, addr netip.Addr) (first *entry) {
	for _, e := range asking {
		if (first == nil || e.claim.compare(first.claim) < 0) && slices.ContainsFunc(e.wanted, func(r *Rule) bool {
			return slices.ContainsFunc(r.Fronts, func(f Front) bool { return f.Kind == ClusterIP && f.Addr.Addr() == addr })
		}) {
			first = e
		}
	}
	return first
}

// has reports whether one of the Services has a place already.
func has(asking []*entry, at place) bool {
	return slices.ContainsFunc(asking, func(e *entry) bool {
		return slices.ContainsFunc(e.given, func(r *Rule) bool {
			return slices.ContainsFunc(r.Fronts, func(f Front) bool { return placeOf(r, f) == at })
		})
	})
}

// Table is what there is to be done now.
func (l *Ledger) Table() *Table {
	l.publish()
	t := &Table{Rules: l.rules, Pods: l.node.Pods, Services: l.node.Services, NodePorts: l.node.NodePorts, Health: maps.Clone(l.health)}
	for _, e := range l.refusing {
		t.Refused = append(t.Refused, e.refused...)
	}
	slices.SortFunc(t.Refused, func(a, b Refused) int { return strings.Compare(a.String(), b.String()) })
	return t
}

// publish puts what has changed into rules, of which earlier tables keep the old.
func (l *Ledger) publish() {
	gone := make(map[*Rule]bool)
	var come []*Rule
	for e := range l.changed {
		for _, r := range e.published {
			gone[r] = !slices.Contains(e.given, r)
		}
		for _, r := range e.given {
			if !slices.Contains(e.published, r) {
				come = append(come, r)
			}
		}
		e.published = e.given
		if len(e.wanted) == 0 {
			delete(l.entries, e.service)
		}
	}
	clear(l.changed)
	if len(gone)+len(come) == 0 {
		return
	}
	slices.SortFunc(come, (*Rule).compare)
	rules := make([]*Rule, 0, len(l.rules)+len(come))
	for _, r := range l.rules {
		if gone[r] {
			continue
		}
		for len(come) > 0 && come[0].compare(r) < 0 {
			rules, come = append(rules, come[0]), come[1:]
		}
		rules = append(rules, r)
	}
	l.rules = append(rules, come...)
}

// claim says which Service comes first.
type claim struct {
	service string // namespace/name
	created time.Time
}

func (c claim) compare(other claim) int {
	return cmp.Or(c.created.Compare(other.created), strings.Compare(c.service, other.service))
}

// bid is a front that asks for a place; the lowest has it.
type bid struct {
	kind FrontKind
	claim
	rule  *Rule
	front int
}

func (b bid) compare(other bid) int {
	return cmp.Or(cmp.Compare(b.kind, other.kind), b.claim.compare(other.claim), b.rule.compare(other.rule), cmp.Compare(b.front, other.front))
}

// program stands for what listens on the node.
const program = "a program of the node"

// Refused is a front that a Service asked for and another has.
type Refused struct {
	Name     string // as that of the Rule
	Protocol corev1.Protocol
	Front    Front
	Holder   string // namespace/name of the other Service, or what else has it
}

func (r Refused) String() string {
	return fmt.Sprintf("%s: %s of %s is %s's", r.Name, r.Protocol, r.Front.Addr, r.Holder)
}

// Service is the namespace and name of the Service that is refused.
func (r Refused) Service() (namespace, name string) {
	namespace, name, _ = strings.Cut(r.Name, "/")
	name, _, _ = strings.Cut(name, ":")
	return namespace, name
}
