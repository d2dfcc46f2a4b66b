package nftables

import (
	"net/netip"
	"slices"
	"strings"

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
	front, _ := l.front(false)
	b.AddRule(services, append(front, kernel.Dispatch(0, fronts))...)
	for _, at := range l.nodePortAddresses(t) {
		port, _ := l.front(true)
		b.AddRule(services, slices.Concat(at, toNode(), port, []kernel.Expression{kernel.Dispatch(0, nodePorts)})...)
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
	all, own := l.pick(h, 0, h.all, h.stayAll), l.pick(h, h.all, h.own, h.stayOwn)
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

// pick is the rules that send a flow to one of so many endpoints of its front, which
// are numbered from the first on. Clients stay with those that have numbers of their
// own.
func (l layout) pick(h how, first, of int, stay string) (rules [][]kernel.Expression) {
	if of == 0 {
		return nil
	}
	remember := []kernel.Expression{kernel.Update(affinity, 0, h.sticky)}
	stays := parseStays(stay)
	for _, s := range stays {
		known := append(l.client(s), kernel.In(0, affinity))
		rules = append(rules, slices.Concat(known, remember, l.translate(s)))
	}
	for i, s := range stays {
		var chance []kernel.Expression
		if left := len(stays) - i; left > 1 {
			chance = []kernel.Expression{kernel.Random(0, uint32(left), 0), kernel.Equal(0, kernel.Native(0))}
		}
		rules = append(rules, slices.Concat(chance, l.client(s), remember, l.translate(s)))
	}
	// The only rule, or the one when there are too many clients to remember.
	key, number := l.front(h.node)
	addr, from := number+1, endpoints
	if h.node {
		from = nodePortEndpoints
	}
	return append(rules, append(key,
		kernel.Random(number, uint32(of), uint32(first)),
		kernel.Lookup(0, from, addr),
		kernel.Translate(l.protocol, addr, addr+l.words),
	))
}

// client loads the key of affinity for the packet's client and an endpoint. The
// number is one of one: nft can print that as a part of a key, a constant it cannot.
func (l layout) client(s stay) []kernel.Expression {
	return []kernel.Expression{
		kernel.Payload(0, kernel.Network, l.source, l.bytes()),
		kernel.Random(l.words, 1, s.number),
	}
}

// translate sends the flow to one endpoint.
func (l layout) translate(s stay) []kernel.Expression {
	const addr = 0
	port := l.words
	return []kernel.Expression{
		kernel.Load(addr, s.endpoint.Addr().AsSlice()),
		kernel.Load(port, []byte{byte(s.endpoint.Port() >> 8), byte(s.endpoint.Port())}),
		kernel.Translate(l.protocol, addr, port),
	}
}
