package nftables

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/proxy"
)

// kind is the way of a front's traffic.
type kind string

const (
	refused  kind = "refuse"   // nobody serves it
	silenced kind = "silence"  // somebody does, but not on this node
	internal kind = "internal" // to an endpoint, as the source is
	external kind = "external" // to an endpoint, with the node's address
	local    kind = "local"    // to one on this node; pods and the node itself to any
)

// how is all that a front's chain depends on. Fronts that are alike share one; those
// whose clients stay with their endpoints are alike with none of other Rules.
type how struct {
	kind     kind
	node     bool // the front is a node port
	all, own int  // how many endpoints there are to choose from, and on this node
	sticky   time.Duration
	// The endpoints that clients stay with, as text.
	stayAll, stayOwn string
	allow            string // the clients that are let in, as text; all if empty
}

// howOf says how a front is treated. stays are the numbers of the endpoints of a Rule
// that is sticky.
func howOf(r *proxy.Rule, f proxy.Front, stays map[netip.AddrPort]uint32) how {
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
	all, own := served(r, f)
	h.all, h.own = len(all), len(own)
	switch {
	case f.Kind == proxy.ClusterIP:
		h.kind = internal
	case f.Local:
		h.kind = local
	default:
		h.kind = external
	}
	if r.Sticky > 0 {
		h.sticky, h.stayAll, h.stayOwn = r.Sticky, formatStays(all, stays), formatStays(own, stays)
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

// served are the endpoints of a front: those to choose from, and, if those are not
// for all of its clients, those on this node for the others.
func served(r *proxy.Rule, f proxy.Front) (all, own []netip.AddrPort) {
	switch {
	case f.Kind == proxy.ClusterIP:
		return r.Endpoints(f), nil
	case f.Local:
		return r.Cluster, r.Local
	}
	return r.Cluster, nil
}

// inner is the way of those clients that are let in.
func (h how) inner() how {
	h.allow = ""
	return h
}

// chain is the name of the chain, which tells what it is about. Those that are for
// some Rules alone begin with a number that nobody else has.
func (h how) chain(number uint32) string {
	name := string(h.kind)
	if h.all > 0 {
		name += fmt.Sprintf("-%d", h.all)
	}
	if h.kind == local {
		name += fmt.Sprintf("-%d", h.own)
	}
	if h.node {
		name = "node-" + name
	}
	switch {
	case h.allow != "":
		name = fmt.Sprintf("firewall-%d-%s", number, name)
	case h.sticky > 0:
		name = fmt.Sprintf("sticky-%d-%s", number, name)
	}
	return name
}

// stay is an endpoint that clients stay with. The number is its own for as long as it
// is one of its Rule without interruption: when it comes back, nobody stays with it.
type stay struct {
	number   uint32
	endpoint netip.AddrPort
}

func formatStays(list []netip.AddrPort, numbers map[netip.AddrPort]uint32) string {
	texts := make([]string, 0, len(list))
	for _, e := range list {
		texts = append(texts, fmt.Sprintf("%d=%s", numbers[e], e))
	}
	return strings.Join(texts, " ")
}

// parseStays reads what formatStays wrote.
func parseStays(text string) (list []stay) {
	for _, field := range strings.Fields(text) {
		number, endpoint, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseUint(number, 10, 32)
		list = append(list, stay{uint32(n), netip.MustParseAddrPort(endpoint)})
	}
	return list
}
