package ipvs

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
)

// place is where a virtual server is.
type place struct {
	protocol uint8
	addr     netip.AddrPort
}

var protocols = map[corev1.Protocol]uint8{
	corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP,
}

// ruleKey tells the Rules of a Table apart.
type ruleKey struct {
	name     string
	protocol corev1.Protocol
	family   corev1.IPFamily
}

func keyOf(r *proxy.Rule) ruleKey { return ruleKey{r.Name, r.Protocol, r.Family} }

// planned is a Rule with the virtual servers of its endpoints: all of them, and
// those on this node. A place without address is not needed.
type planned struct {
	rule     *proxy.Rule
	all, own place
}

// pools are the virtual servers with their endpoints.
func (p planned) pools(yield func(place, []netip.AddrPort) bool) {
	if p.all.addr.IsValid() && !yield(p.all, p.rule.Cluster) {
		return
	}
	if p.own.addr.IsValid() {
		yield(p.own, p.rule.Local)
	}
}

// plan gives the Rules of a Table their virtual servers. Those with two keep the
// second where it was before, if they can. A Rule without a cluster IP has none, nor
// has one whose clients stay with their endpoints: IPVS would remember a client for
// minutes longer than it is told to, as long as it remembers a connection.
func plan(t *proxy.Table, before map[ruleKey]planned) map[ruleKey]planned {
	next := make(map[ruleKey]planned, len(t.Rules))
	taken := make(map[place]bool, len(t.Rules))
	var two []*proxy.Rule
	for _, r := range t.Rules {
		front, ok := clusterIP(r)
		if !ok {
			continue
		}
		at := place{protocols[r.Protocol], front.Addr}
		taken[at] = true
		if r.Sticky > 0 {
			continue
		}
		p := planned{rule: r}
		all, own := needs(r)
		switch {
		case all && own:
			two = append(two, r)
			continue
		case all:
			p.all = at
		case own:
			p.own = at
		}
		next[keyOf(r)] = p
	}
	// Ports beside the cluster IPs are known only now.
	for _, keep := range []bool{true, false} {
		for _, r := range two {
			key := keyOf(r)
			if _, done := next[key]; done {
				continue
			}
			front, _ := clusterIP(r)
			first := place{protocols[r.Protocol], front.Addr}
			second := before[key].second(front)
			if !keep {
				second = spare(first, taken)
			}
			if taken[second] || second.addr.Addr() != front.Addr.Addr() {
				continue
			}
			taken[second] = true
			if front.Local {
				next[key] = planned{r, second, first}
			} else {
				next[key] = planned{r, first, second}
			}
		}
	}
	return next
}

// second is the place that is not the one of a front.
func (p planned) second(front proxy.Front) place {
	if p.all.addr == front.Addr {
		return p.own
	}
	return p.all
}

// spare is the highest port of an address that is not taken.
func spare(at place, taken map[place]bool) place {
	for port := uint16(0xffff); port > 0; port-- {
		if at.addr = netip.AddrPortFrom(at.addr.Addr(), port); !taken[at] {
			break
		}
	}
	return at
}

func clusterIP(r *proxy.Rule) (proxy.Front, bool) {
	for _, f := range r.Fronts {
		if f.Kind == proxy.ClusterIP {
			return f, true
		}
	}
	return proxy.Front{}, false
}

// needs says which endpoints the fronts of a Rule lead to. Pods and the node itself
// come to all of them at fronts that keep traffic from outside on this node.
func needs(r *proxy.Rule) (all, own bool) {
	for _, f := range r.Fronts {
		all = all || !f.Local || f.Kind != proxy.ClusterIP
		own = own || f.Local
	}
	return all, own
}

// pass is the Table for the rules that lead to virtual servers: those are the only
// endpoints. A Rule that has not changed stays the same pointer.
func pass(t *proxy.Table, next, before map[ruleKey]planned, passed *proxy.Table) *proxy.Table {
	old := make(map[ruleKey]*proxy.Rule)
	if passed != nil {
		for _, r := range passed.Rules {
			old[keyOf(r)] = r
		}
	}
	out := *t
	out.Rules = make([]*proxy.Rule, 0, len(t.Rules))
	for _, r := range t.Rules {
		key := keyOf(r)
		p, ok := next[key]
		if !ok {
			out.Rules = append(out.Rules, r)
			continue
		}
		was, kept := before[key]
		kept = kept && was == p
		if led := old[key]; kept && led != nil {
			out.Rules = append(out.Rules, led)
		} else {
			out.Rules = append(out.Rules, p.led())
		}
		if port, ok := loopbackPort(t, r); ok {
			at := atLoopback(r, port)
			if same := old[keyOf(at)]; kept && same != nil {
				at = same
			}
			out.Rules = append(out.Rules, at)
		}
	}
	slices.SortFunc(out.Rules, func(a, b *proxy.Rule) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(string(a.Protocol), string(b.Protocol)), strings.Compare(string(a.Family), string(b.Family)))
	})
	return &out
}

// led is the Rule with virtual servers for endpoints.
func (p planned) led() *proxy.Rule {
	r := *p.rule
	r.Cluster, r.Local = nil, nil
	if len(p.rule.Local) > 0 && p.own.addr.IsValid() {
		r.Local = []netip.AddrPort{p.own.addr}
	}
	if len(p.rule.Cluster) > 0 {
		// Where nobody is led to all of them, that there are some still makes a
		// difference to what has none on this node: silence, not refusal.
		r.Cluster = []netip.AddrPort{p.all.addr}
		if !p.all.addr.IsValid() {
			r.Cluster[0] = p.own.addr
		}
	}
	return &r
}

// loopback is where programs of the node find node ports too.
var loopback = netip.MustParseAddr("127.0.0.1")

// loopbackPort is the node port of a Rule that answers at the loopback.
func loopbackPort(t *proxy.Table, r *proxy.Rule) (uint16, bool) {
	ranges, all := t.NodePortsOf(corev1.IPv4Protocol)
	answers := all || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(loopback) })
	if !answers || r.Family != corev1.IPv4Protocol || len(r.Cluster) == 0 {
		return 0, false
	}
	for _, f := range r.Fronts {
		if f.Kind == proxy.NodePort {
			return f.Addr.Port(), true
		}
	}
	return 0, false
}

// atLoopback is the Rule of a node port at the loopback. It has the endpoints
// themselves: IPVS lets nothing from there leave the machine.
func atLoopback(r *proxy.Rule, port uint16) *proxy.Rule {
	at := *r
	at.Name += " at the loopback"
	at.Fronts = []proxy.Front{{Kind: proxy.ExternalIP, Addr: netip.AddrPortFrom(loopback, port)}}
	at.Local = nil
	return &at
}
