package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
)

// masqueradeMark is the bit of the packet mark that says "give this packet the
// node's address when it leaves".
const masqueradeMark = "0x4000"

// hooks lead to the chains, in this order within a chain of the kernel.
var hooks = []Hook{
	{Table: "nat", From: "PREROUTING", Chain: "KUBE-SERVICES", Match: comment("kubernetes service portals")},
	{Table: "nat", From: "OUTPUT", Chain: "KUBE-SERVICES", Match: comment("kubernetes service portals")},
	{Table: "nat", From: "POSTROUTING", Chain: "KUBE-POSTROUTING", Match: comment("kubernetes postrouting rules")},
	{Table: "filter", From: "INPUT", Chain: "KUBE-EXTERNAL-SERVICES", Match: newFlow("kubernetes externally-visible service portals")},
	{Table: "filter", From: "FORWARD", Chain: "KUBE-EXTERNAL-SERVICES", Match: newFlow("kubernetes externally-visible service portals")},
	{Table: "filter", From: "OUTPUT", Chain: "KUBE-EXTERNAL-SERVICES", Match: newFlow("kubernetes externally-visible service portals")},
	{Table: "filter", From: "INPUT", Chain: "KUBE-PROXY-FIREWALL", Match: newFlow("kubernetes load balancer firewall")},
	{Table: "filter", From: "OUTPUT", Chain: "KUBE-PROXY-FIREWALL", Match: newFlow("kubernetes load balancer firewall")},
	{Table: "filter", From: "FORWARD", Chain: "KUBE-PROXY-FIREWALL", Match: newFlow("kubernetes load balancer firewall")},
	{Table: "filter", From: "FORWARD", Chain: "KUBE-SERVICES", Match: newFlow("kubernetes service portals")},
	{Table: "filter", From: "OUTPUT", Chain: "KUBE-SERVICES", Match: newFlow("kubernetes service portals")},
	{Table: "filter", From: "FORWARD", Chain: "KUBE-FORWARD", Match: comment("kubernetes forwarding rules")},
}

func comment(text string) []string { return []string{"-m", "comment", "--comment", text} }

func newFlow(text string) []string {
	return append([]string{"-m", "conntrack", "--ctstate", "NEW"}, comment(text)...)
}

// shared are the chains that all Services have rules in. Each of those matches an
// address of one Service, so that their order means nothing; what must come after
// them is there from the beginning.
var shared = []string{"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL"}

// render is what t has of a family as rules of the tables nat and filter.
func render(t *proxy.Table, f corev1.IPFamily) []*Rules {
	tables := renderRules(t, f, slices.Values(t.Rules))
	nat, filter := tables[0], tables[1]
	for _, chain := range []string{"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"} {
		nat.chain(chain)
	}
	for _, chain := range []string{"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"} {
		filter.chain(chain)
	}
	nat.Add("KUBE-MARK-MASQ", "", "-j MARK --or-mark %s", masqueradeMark)
	nat.Add("KUBE-POSTROUTING", "", "-m mark ! --mark %[1]s/%[1]s -j RETURN", masqueradeMark)
	nat.Add("KUBE-POSTROUTING", "", "-j MARK --xor-mark %s", masqueradeMark)
	nat.Add("KUBE-POSTROUTING", "kubernetes service traffic requiring SNAT", "-j MASQUERADE --random-fully")
	filter.Add("KUBE-FORWARD", "", "-m conntrack --ctstate INVALID -j DROP")
	filter.Add("KUBE-FORWARD", "kubernetes forwarding rules", "-m mark --mark %[1]s/%[1]s -j ACCEPT", masqueradeMark)
	filter.Add("KUBE-FORWARD", "kubernetes forwarding conntrack rule", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	for _, at := range nodePortAddresses(t, f) {
		nat.Add("KUBE-SERVICES", "kubernetes service nodeports; NOTE: this must be the last rule in this chain", "%s-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS", at)
	}
	for _, p := range t.ServicesOf(f) {
		filter.Add("KUBE-SERVICES", "no Service has the address", "-d %s -j REJECT", p)
	}
	return tables
}

// nodePortAddresses are matches of the destinations at which node ports answer.
func nodePortAddresses(t *proxy.Table, f corev1.IPFamily) (matches []string) {
	ranges, all := t.NodePortsOf(f)
	if all {
		return []string{""}
	}
	for _, p := range ranges {
		matches = append(matches, fmt.Sprintf("-d %s ", p))
	}
	return matches
}

// renderRules is some rules of t, of a family.
func renderRules(t *proxy.Table, f corev1.IPFamily, rules iter.Seq[*proxy.Rule]) []*Rules {
	nat, filter := NewRules("nat"), NewRules("filter")
	for r := range rules {
		if r != nil && r.Family == f {
			s := service{pods: t.PodsOf(f), nodePorts: nodePortAddresses(t, f), r: r, nat: nat, filter: filter}
			for _, front := range r.Fronts {
				s.front(front)
			}
		}
	}
	return []*Rules{nat, filter}
}

// service renders one port of one Service.
type service struct {
	pods        netip.Prefix
	nodePorts   []string
	r           *proxy.Rule
	nat, filter *Rules
}

// protocol is the protocol as iptables and the names of chains have it.
func (s service) protocol() string { return strings.ToLower(string(s.r.Protocol)) }

// proto matches the protocol, with its extension.
func (s service) proto() string { return "-m " + s.protocol() + " -p " + s.protocol() }

// id is what the names of the service's chains end in.
func (s service) id() string { return hash(s.r.Name + s.protocol()) }

// front directs one address to the endpoints, or refuses what would come to
// none.
func (s service) front(f proxy.Front) {
	chain, where, about := "KUBE-SERVICES", fmt.Sprintf("%s -d %s --dport %d", s.proto(), f.Addr.Addr(), f.Addr.Port()), ""
	switch f.Kind {
	case proxy.ClusterIP:
		about = "cluster IP"
	case proxy.LoadBalancer:
		about = "loadbalancer IP"
	case proxy.ExternalIP:
		about = "external IP"
	case proxy.NodePort:
		chain, where = "KUBE-NODEPORTS", fmt.Sprintf("%s --dport %d", s.proto(), f.Addr.Port())
	}
	about = strings.TrimSpace(s.r.Name + " " + about)
	if len(s.r.Endpoints(f)) == 0 {
		s.refuse(f, where)
		// Pods and the node itself may still reach endpoints elsewhere.
		if !f.Local || f.Kind == proxy.ClusterIP || len(s.r.Cluster) == 0 {
			return
		}
	}
	if f.Kind == proxy.ClusterIP {
		target := s.pick(f.Local)
		s.nat.Add(chain, about, "%s -j %s", where, target)
		return
	}
	target := s.external(f)
	if f.Allow == nil {
		s.nat.Add(chain, about, "%s -j %s", where, target)
		return
	}
	s.firewall(f, about, where, target)
}

// refuse answers for a front without endpoints: at once if there are none at
// all, with silence if there are some, but not on this node.
func (s service) refuse(f proxy.Front, where string) {
	verdict, about := "REJECT", s.r.Name+" has no endpoints"
	if f.Local && len(s.r.Cluster) > 0 {
		verdict, about = "DROP", s.r.Name+" has no local endpoints"
	}
	switch f.Kind {
	case proxy.ClusterIP:
		s.filter.Add("KUBE-SERVICES", about, "%s -j %s", where, verdict)
	case proxy.NodePort:
		for _, at := range s.nodePorts {
			s.filter.Add("KUBE-EXTERNAL-SERVICES", about, "%s-m addrtype --dst-type LOCAL %s -j %s", at, where, verdict)
		}
	default:
		s.filter.Add("KUBE-EXTERNAL-SERVICES", about, "%s -j %s", where, verdict)
	}
}

// pick makes the chain that chooses among the endpoints, those of this node
// alone if local.
func (s service) pick(local bool) string {
	prefix, endpoints := "KUBE-SVC-", s.r.Cluster
	if local {
		prefix, endpoints = "KUBE-SVL-", s.r.Local
	}
	chain := prefix + s.id()
	if !s.nat.chain(chain) {
		return chain
	}
	for _, f := range s.r.Fronts {
		if f.Kind == proxy.ClusterIP && f.Local == local && s.pods.IsValid() {
			s.nat.Add(chain, s.r.Name+" cluster IP", "! -s %s %s -d %s --dport %d -j KUBE-MARK-MASQ", s.pods, s.proto(), f.Addr.Addr(), f.Addr.Port())
		}
	}
	if s.r.Sticky > 0 {
		for _, e := range endpoints {
			s.nat.Add(chain, about(s.r.Name, e), "-m recent --name %s --rcheck --seconds %d --reap -j %[1]s", s.endpoint(e), int(s.r.Sticky/time.Second))
		}
	}
	for i, e := range endpoints {
		chance := ""
		if left := len(endpoints) - i; left > 1 {
			chance = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(left))
		}
		s.nat.Add(chain, about(s.r.Name, e), "%s%s", chance, s.to(e))
	}
	return chain
}

// to sends a packet to an endpoint. Without anything else to do with it that takes no
// chain: iptables-restore works longer for each chain the more there are.
func (s service) to(e netip.AddrPort) string {
	if s.r.Sticky == 0 && !slices.Contains(s.r.Hairpin, e.Addr()) {
		return s.translate(e)
	}
	return "-j " + s.endpoint(e)
}

func (s service) translate(e netip.AddrPort) string {
	return fmt.Sprintf("%s -j DNAT --to-destination %s", s.proto(), e)
}

func about(name string, e netip.AddrPort) string { return name + " -> " + e.String() }

// endpoint makes the chain that sends a packet to one endpoint, and remembers that.
func (s service) endpoint(e netip.AddrPort) string {
	chain := "KUBE-SEP-" + hash(s.r.Name+s.protocol()+e.String())
	if !s.nat.chain(chain) {
		return chain
	}
	// A pod that reaches itself must see the node's address, or it would answer itself.
	if slices.Contains(s.r.Hairpin, e.Addr()) {
		s.nat.Add(chain, s.r.Name, "-s %s -j KUBE-MARK-MASQ", e.Addr())
	}
	remember := ""
	if s.r.Sticky > 0 {
		remember = "-m recent --name " + chain + " --set "
	}
	s.nat.Add(chain, s.r.Name, "%s%s", remember, s.translate(e))
	return chain
}

// external makes the chain for traffic from outside the cluster.
func (s service) external(f proxy.Front) string {
	chain := "KUBE-EXT-" + s.id()
	if !s.nat.chain(chain) {
		return chain
	}
	if !f.Local {
		s.nat.Add(chain, "masquerade traffic for "+s.r.Name+" external destinations", "-j KUBE-MARK-MASQ")
		s.nat.Add(chain, "", "-j %s", s.pick(false))
		return chain
	}
	if len(s.r.Cluster) > 0 {
		if s.pods.IsValid() {
			s.nat.Add(chain, "pod traffic for "+s.r.Name+" external destinations", "-s %s -j %s", s.pods, s.pick(false))
		}
		s.nat.Add(chain, "masquerade LOCAL traffic for "+s.r.Name+" external destinations", "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ")
		s.nat.Add(chain, "route LOCAL traffic for "+s.r.Name+" external destinations", "-m addrtype --src-type LOCAL -j %s", s.pick(false))
	}
	if len(s.r.Local) > 0 {
		s.nat.Add(chain, "", "-j %s", s.pick(true))
	}
	return chain
}

// firewall lets only the allowed clients of a load balancer address through.
func (s service) firewall(f proxy.Front, about, where, target string) {
	chain := "KUBE-FW-" + s.id()
	s.nat.Add("KUBE-SERVICES", about, "%s -j %s", where, chain)
	s.filter.Add("KUBE-PROXY-FIREWALL", s.r.Name+" traffic not accepted by "+chain, "%s -j DROP", where)
	if !s.nat.chain(chain) {
		return
	}
	for _, from := range f.Allow {
		s.nat.Add(chain, about, "-s %s -j %s", from, target)
	}
	// A node that asks itself arrives with the address it asked for.
	s.nat.Add(chain, about, "-s %s -j %s", f.Addr.Addr(), target)
	s.nat.Add(chain, "other traffic to "+about+" will be dropped by KUBE-PROXY-FIREWALL", "-j RETURN")
}

// hash shortens a name to what fits into the name of a chain, which is 28
// characters at most.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}
