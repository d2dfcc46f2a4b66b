package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nftables/kernel"
)

// services is the chain that every new flow passes.
const services = "services"

// base writes what is there whatever Services there are.
func (l layout) base(b *kernel.Batch, t *proxy.Table) {
	for _, s := range l.sets() {
		b.AddSet(s)
	}
	b.AddChain(services, nil)
	b.AddRule(services, append(l.front(false), kernel.Dispatch(l.how(), hows))...)
	for _, at := range l.nodePortAddresses(t) {
		b.AddRule(services, slices.Concat(at, toNode(), l.front(true), []kernel.Expression{kernel.Dispatch(l.how(), hows)})...)
	}
	for _, p := range t.ServicesOf(l.ipFamily) {
		b.AddRule(services, append(l.to(p), kernel.Reject(l.unreachable))...)
	}
	for _, hook := range []struct {
		name string
		kernel.Hook
	}{
		{"prerouting", kernel.Hook{Type: "nat", Number: unix.NF_INET_PRE_ROUTING, Priority: -100}},
		{"output", kernel.Hook{Type: "nat", Number: unix.NF_INET_LOCAL_OUT, Priority: -100}},
	} {
		b.AddChain(hook.name, &hook.Hook)
		b.AddRule(hook.name, kernel.Jump(services))
	}
	l.postrouting(b)
	l.forward(b)
}

// nodePortAddresses are matches of the destinations at which node ports answer.
func (l layout) nodePortAddresses(t *proxy.Table) (matches [][]kernel.Expression) {
	ranges, all := t.NodePortsOf(l.ipFamily)
	if all {
		return [][]kernel.Expression{nil}
	}
	for _, p := range ranges {
		matches = append(matches, l.to(p))
	}
	return matches
}

// postrouting gives packets the node's address: those with the mark, which ends
// with it, and those of pods that were sent to themselves.
func (l layout) postrouting(b *kernel.Batch) {
	const chain = "postrouting"
	b.AddChain(chain, &kernel.Hook{Type: "nat", Number: unix.NF_INET_POST_ROUTING, Priority: 100})
	b.AddRule(chain,
		kernel.Meta(0, unix.NFT_META_MARK),
		kernel.Bits(0, kernel.Native(masqueradeMark), kernel.Native(0)),
		kernel.NotEqual(0, kernel.Native(0)),
		kernel.Meta(0, unix.NFT_META_MARK),
		kernel.Bits(0, kernel.Native(^uint32(masqueradeMark)), kernel.Native(0)),
		kernel.SetMark(0),
		kernel.Masquerade(),
	)
	b.AddRule(chain,
		kernel.Payload(0, kernel.Network, l.source, l.bytes()),
		kernel.Payload(l.words, kernel.Network, l.destination, l.bytes()),
		kernel.In(0, hairpin),
		kernel.Masquerade(),
	)
}

// forward drops packets of which the kernel knows no flow: they would leave
// untranslated.
func (l layout) forward(b *kernel.Batch) {
	const chain = "forward"
	const invalid = 1 // NF_CT_STATE_INVALID_BIT
	b.AddChain(chain, &kernel.Hook{Type: "filter", Number: unix.NF_INET_FORWARD, Priority: 0})
	b.AddRule(chain,
		kernel.ConnectionState(0),
		kernel.Bits(0, kernel.Native(invalid), kernel.Native(0)),
		kernel.NotEqual(0, kernel.Native(0)),
		kernel.Drop(),
	)
}

// kind is the way of a front's traffic.
type kind string

const (
	refused  kind = "refuse"   // nobody serves it
	silenced kind = "silence"  // somebody does, but not on this node
	internal kind = "internal" // to an endpoint, as the source is
	external kind = "external" // to an endpoint, with the node's address
	local    kind = "local"    // to one on this node; pods and the node itself to any
)

// how is all that a front's chain depends on. Fronts that are alike share one.
type how struct {
	kind     kind
	node     bool // the front is a node port
	all, own int  // how many endpoints there are to choose from, and on this node
	sticky   time.Duration
	allow    string // the clients that are let in, as text; all if empty
}

// howOf says how a front is treated.
func howOf(r *proxy.Rule, f proxy.Front) how {
	h := how{node: f.Kind == proxy.NodePort}
	switch {
	case len(r.Endpoints(f)) > 0:
	case len(r.Cluster) == 0:
		h.kind = refused
		return h
	case f.Kind == proxy.ClusterIP:
		h.kind = silenced
		return h
	}
	h.sticky = r.Sticky
	switch {
	case f.Kind == proxy.ClusterIP:
		h.kind, h.all = internal, len(r.Endpoints(f))
	case f.Local:
		h.kind, h.all, h.own = local, len(r.Cluster), len(r.Local)
	default:
		h.kind, h.all = external, len(r.Cluster)
	}
	if f.Allow != nil {
		// A node that asks itself arrives with the address it asked for.
		texts := []string{netip.PrefixFrom(f.Addr.Addr(), f.Addr.Addr().BitLen()).String()}
		for _, p := range f.Allow {
			texts = append(texts, p.Masked().String())
		}
		h.allow = strings.Join(texts, " ")
	}
	return h
}

// inner is the way of those clients that are let in.
func (h how) inner() how {
	h.allow = ""
	return h
}

// chain is the name of the chain, which tells what it is about. Those with lists of
// clients end in the number instead.
func (h how) chain(number uint32) string {
	name := string(h.kind)
	if h.all > 0 {
		name += fmt.Sprintf("-%d", h.all)
	}
	if h.kind == local {
		name += fmt.Sprintf("-%d", h.own)
	}
	if h.sticky > 0 {
		name += fmt.Sprintf("-sticky-%d", int(h.sticky/time.Second))
	}
	if h.node {
		name = "node-" + name
	}
	if h.allow != "" {
		name = fmt.Sprintf("firewall-%d-%s", number, name)
	}
	return name
}

// chain writes the rules of a how.
func (l layout) chain(b *kernel.Batch, name string, h how, inner string, pods netip.Prefix) {
	b.AddChain(name, nil)
	if h.allow != "" {
		for _, text := range strings.Fields(h.allow) {
			if p, err := netip.ParsePrefix(text); err == nil {
				b.AddRule(name, append(l.from(p), kernel.Goto(inner))...)
			}
		}
		b.AddRule(name, kernel.Drop())
		return
	}
	all, own := l.pick(h, l.pool(), h.all), l.pick(h, l.local(), h.own)
	switch h.kind {
	case refused:
		b.AddRule(name, kernel.Reject(l.unreachable))
	case silenced:
		b.AddRule(name, kernel.Drop())
	case internal:
		if pods.IsValid() {
			b.AddRule(name, append(l.notFrom(pods), mark()...)...)
		}
		l.add(b, name, nil, all)
	case external:
		b.AddRule(name, mark()...)
		l.add(b, name, nil, all)
	case local:
		if pods.IsValid() {
			l.add(b, name, l.from(pods), all)
		}
		b.AddRule(name, append(fromNode(), mark()...)...)
		l.add(b, name, fromNode(), all)
		if h.own > 0 {
			l.add(b, name, nil, own)
		} else {
			b.AddRule(name, kernel.Drop())
		}
	}
}

// add writes rules that begin with a match.
func (l layout) add(b *kernel.Batch, chain string, match []kernel.Expression, rules [][]kernel.Expression) {
	for _, r := range rules {
		b.AddRule(chain, slices.Concat(match, r)...)
	}
}

// pick is the rules that send a flow to one of so many endpoints of the pool in a
// register.
//
// In a sticky pool that is first the one that the client had before, if it still
// stays. Around the register of the pool lie those of the keys: the client before
// it, the endpoint, or its number, after it.
func (l layout) pick(h how, pool kernel.Register, of int) [][]kernel.Expression {
	if of == 0 {
		return nil
	}
	client, addr := pool-l.words, pool+1
	port := addr + l.words
	front := l.front(h.node)
	source := kernel.Payload(client, kernel.Network, l.source, l.bytes())
	any := []kernel.Expression{kernel.Random(addr, uint32(of)), kernel.Lookup(pool, endpoints, addr)}
	translate := kernel.Translate(l.protocol, addr, port)
	spread := slices.Concat(front, any, []kernel.Expression{translate})
	if h.sticky == 0 {
		return [][]kernel.Expression{spread}
	}
	remember := kernel.Update(affinity, client, addr, h.sticky)
	return [][]kernel.Expression{
		slices.Concat(front, []kernel.Expression{source, kernel.Lookup(client, affinity, addr), kernel.In(pool, stays), remember, translate}),
		slices.Concat(front, []kernel.Expression{source}, any, []kernel.Expression{remember, translate}),
		spread, // too many clients to remember
	}
}
