package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/proxy"
)

// masqueradeMark is the bit of the packet mark that says "give this packet the
// node's address when it leaves".
const masqueradeMark = "0x4000"

// hook is a jump from a chain of the kernel to one of ours.
type hook struct {
	table, from, chain string
	match              []string
}

// hooks are set up once; the order within a chain of the kernel is that of the
// list, in front of what is there.
var hooks = []hook{
	{"nat", "PREROUTING", "KUBE-SERVICES", comment("kubernetes service portals")},
	{"nat", "OUTPUT", "KUBE-SERVICES", comment("kubernetes service portals")},
	{"nat", "POSTROUTING", "KUBE-POSTROUTING", comment("kubernetes postrouting rules")},
	{"filter", "INPUT", "KUBE-EXTERNAL-SERVICES", newFlow("kubernetes externally-visible service portals")},
	{"filter", "FORWARD", "KUBE-EXTERNAL-SERVICES", newFlow("kubernetes externally-visible service portals")},
	{"filter", "INPUT", "KUBE-PROXY-FIREWALL", newFlow("kubernetes load balancer firewall")},
	{"filter", "OUTPUT", "KUBE-PROXY-FIREWALL", newFlow("kubernetes load balancer firewall")},
	{"filter", "FORWARD", "KUBE-PROXY-FIREWALL", newFlow("kubernetes load balancer firewall")},
	{"filter", "FORWARD", "KUBE-SERVICES", newFlow("kubernetes service portals")},
	{"filter", "OUTPUT", "KUBE-SERVICES", newFlow("kubernetes service portals")},
	{"filter", "FORWARD", "KUBE-FORWARD", comment("kubernetes forwarding rules")},
}

func comment(text string) []string { return []string{"-m", "comment", "--comment", text} }

func newFlow(text string) []string {
	return append([]string{"-m", "conntrack", "--ctstate", "NEW"}, comment(text)...)
}

// fixed are the chains that always exist, by table, in the order they are
// written.
var fixed = map[string][]string{
	"nat":    {"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"},
	"filter": {"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"},
}

// rules collects the chains and rules of one table of iptables-restore.
type rules struct {
	table  string
	chains []string
	known  map[string]bool
	lines  []string
}

func newRules(table string) *rules {
	r := &rules{table: table, known: make(map[string]bool)}
	for _, chain := range fixed[table] {
		r.chain(chain)
	}
	return r
}

// chain declares a chain, which also empties it; it reports whether the chain
// is new here.
func (r *rules) chain(name string) bool {
	if r.known[name] {
		return false
	}
	r.known[name] = true
	r.chains = append(r.chains, name)
	return true
}

// add appends a rule to a chain. about becomes its comment unless empty.
func (r *rules) add(chain, about, format string, args ...any) {
	line := "-A " + chain
	if about != "" {
		line += fmt.Sprintf(" -m comment --comment %q", about)
	}
	r.lines = append(r.lines, line+" "+fmt.Sprintf(format, args...))
}

// text is the input for iptables-restore; stale chains are emptied and deleted.
func (r *rules) text(stale []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", r.table)
	for _, chain := range r.chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
	}
	for _, chain := range stale {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
	}
	for _, line := range r.lines {
		b.WriteString(line + "\n")
	}
	for _, chain := range stale {
		fmt.Fprintf(&b, "-X %s\n", chain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// render is t as rules of the tables nat and filter.
func render(t *proxy.Table) (nat, filter *rules) {
	nat, filter = newRules("nat"), newRules("filter")
	nat.add("KUBE-MARK-MASQ", "", "-j MARK --or-mark %s", masqueradeMark)
	nat.add("KUBE-POSTROUTING", "", "-m mark ! --mark %[1]s/%[1]s -j RETURN", masqueradeMark)
	nat.add("KUBE-POSTROUTING", "", "-j MARK --xor-mark %s", masqueradeMark)
	nat.add("KUBE-POSTROUTING", "kubernetes service traffic requiring SNAT", "-j MASQUERADE --random-fully")
	filter.add("KUBE-FORWARD", "", "-m conntrack --ctstate INVALID -j DROP")
	filter.add("KUBE-FORWARD", "kubernetes forwarding rules", "-m mark --mark %[1]s/%[1]s -j ACCEPT", masqueradeMark)
	filter.add("KUBE-FORWARD", "kubernetes forwarding conntrack rule", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	for i := range t.Rules {
		service{t: t, r: &t.Rules[i], nat: nat, filter: filter}.render()
	}
	nat.add("KUBE-SERVICES", "kubernetes service nodeports; NOTE: this must be the last rule in this chain", "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
	return nat, filter
}

// service renders one port of one Service.
type service struct {
	t           *proxy.Table
	r           *proxy.Rule
	nat, filter *rules
}

func (s service) render() {
	for _, f := range s.r.Fronts {
		s.front(f)
	}
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
		s.nat.add(chain, about, "%s -j %s", where, target)
		return
	}
	target := s.external(f)
	if f.Allow == nil {
		s.nat.add(chain, about, "%s -j %s", where, target)
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
		s.filter.add("KUBE-SERVICES", about, "%s -j %s", where, verdict)
	case proxy.NodePort:
		s.filter.add("KUBE-EXTERNAL-SERVICES", about, "-m addrtype --dst-type LOCAL %s -j %s", where, verdict)
	default:
		s.filter.add("KUBE-EXTERNAL-SERVICES", about, "%s -j %s", where, verdict)
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
		if f.Kind == proxy.ClusterIP && f.Local == local {
			s.nat.add(chain, s.r.Name+" cluster IP", "! -s %s %s -d %s --dport %d -j KUBE-MARK-MASQ", s.t.Pods, s.proto(), f.Addr.Addr(), f.Addr.Port())
		}
	}
	if s.r.Sticky > 0 {
		for _, e := range endpoints {
			s.nat.add(chain, about(s.r.Name, e), "-m recent --name %s --rcheck --seconds %d --reap -j %[1]s", s.endpoint(e), int(s.r.Sticky/time.Second))
		}
	}
	for i, e := range endpoints {
		if left := len(endpoints) - i; left > 1 {
			s.nat.add(chain, about(s.r.Name, e), "-m statistic --mode random --probability %.10f -j %s", 1/float64(left), s.endpoint(e))
		} else {
			s.nat.add(chain, about(s.r.Name, e), "-j %s", s.endpoint(e))
		}
	}
	return chain
}

func about(name string, e netip.AddrPort) string { return name + " -> " + e.String() }

// endpoint makes the chain that sends a packet to one endpoint.
func (s service) endpoint(e netip.AddrPort) string {
	chain := "KUBE-SEP-" + hash(s.r.Name+s.protocol()+e.String())
	if !s.nat.chain(chain) {
		return chain
	}
	// A pod that reaches itself must see the node's address, or it would answer itself.
	s.nat.add(chain, s.r.Name, "-s %s -j KUBE-MARK-MASQ", e.Addr())
	remember := ""
	if s.r.Sticky > 0 {
		remember = "-m recent --name " + chain + " --set "
	}
	s.nat.add(chain, s.r.Name, "%s%s -j DNAT --to-destination %s", remember, s.proto(), e)
	return chain
}

// external makes the chain for traffic from outside the cluster.
func (s service) external(f proxy.Front) string {
	chain := "KUBE-EXT-" + s.id()
	if !s.nat.chain(chain) {
		return chain
	}
	if !f.Local {
		s.nat.add(chain, "masquerade traffic for "+s.r.Name+" external destinations", "-j KUBE-MARK-MASQ")
		s.nat.add(chain, "", "-j %s", s.pick(false))
		return chain
	}
	if len(s.r.Cluster) > 0 {
		s.nat.add(chain, "pod traffic for "+s.r.Name+" external destinations", "-s %s -j %s", s.t.Pods, s.pick(false))
		s.nat.add(chain, "masquerade LOCAL traffic for "+s.r.Name+" external destinations", "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ")
		s.nat.add(chain, "route LOCAL traffic for "+s.r.Name+" external destinations", "-m addrtype --src-type LOCAL -j %s", s.pick(false))
	}
	if len(s.r.Local) > 0 {
		s.nat.add(chain, "", "-j %s", s.pick(true))
	}
	return chain
}

// firewall lets only the allowed clients of a load balancer address through.
func (s service) firewall(f proxy.Front, about, where, target string) {
	chain := "KUBE-FW-" + s.id()
	s.nat.add("KUBE-SERVICES", about, "%s -j %s", where, chain)
	s.filter.add("KUBE-PROXY-FIREWALL", s.r.Name+" traffic not accepted by "+chain, "%s -j DROP", where)
	if !s.nat.chain(chain) {
		return
	}
	for _, from := range f.Allow {
		s.nat.add(chain, about, "-s %s -j %s", from, target)
	}
	// A node that asks itself arrives with the address it asked for.
	s.nat.add(chain, about, "-s %s -j %s", f.Addr.Addr(), target)
	s.nat.add(chain, "other traffic to "+about+" will be dropped by KUBE-PROXY-FIREWALL", "-j RETURN")
}

// hash shortens a name to what fits into the name of a chain, which is 28
// characters at most.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}
