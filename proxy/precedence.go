package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// claim is what one port of a Service asks for.
type claim struct {
	service string // namespace/name
	created time.Time
	rule    *Rule
}

type claims []claim

// program stands for what listens on the node.
var program = claim{service: "a program of the node"}

// place is what one front alone can have.
type place struct {
	protocol corev1.Protocol
	family   corev1.IPFamily // a node port's address does not tell it
	addr     netip.AddrPort
}

// settle is the rules in the order of a Table, in which every address is one
// rule's, and what was refused.
//
// Anybody who may make a Service may write any address into externalIPs. So kinds
// of front come in the order of their constants, and among those of a kind the
// oldest Service comes first. A cluster IP is its Service's with all ports, used
// or not: what a client of the Service is sent to is never chosen by others.
//
// The address of a load balancer may be the node's own, which the programs of the
// node had first: it is refused where taken says that one listens.
func (c claims) settle(taken func(corev1.Protocol, netip.AddrPort) bool) (rules []*Rule, refused []Refused) {
	slices.SortFunc(c, func(a, b claim) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.service, b.service), a.rule.compare(b.rule))
	})
	owner := make(map[netip.Addr]claim)
	for _, claim := range c {
		for _, f := range claim.rule.Fronts {
			if _, taken := owner[f.Addr.Addr()]; !taken && f.Kind == ClusterIP {
				owner[f.Addr.Addr()] = claim
			}
		}
	}
	given := make(map[place]claim)
	kept := make([][]Front, len(c))
	for kind := ClusterIP; kind <= NodePort; kind++ {
		for i, claim := range c {
			for _, f := range claim.rule.Fronts {
				if f.Kind != kind {
					continue
				}
				at := place{claim.rule.Protocol, claim.rule.Family, f.Addr}
				holder, held := given[at]
				if o, owned := owner[f.Addr.Addr()]; owned && (kind != ClusterIP || o.service != claim.service) {
					holder, held = o, true
				}
				if !held && kind == LoadBalancer && taken != nil && taken(claim.rule.Protocol, f.Addr) {
					holder, held = program, true
				}
				if held {
					refused = append(refused, Refused{Name: claim.rule.Name, Protocol: claim.rule.Protocol, Front: f, Holder: holder.service})
					continue
				}
				given[at] = claim
				kept[i] = append(kept[i], f)
			}
		}
	}
	for i, claim := range c {
		claim.rule.Fronts = kept[i]
		rules = append(rules, claim.rule)
	}
	slices.SortFunc(rules, (*Rule).compare)
	return rules, refused
}

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
