package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/family"
)

// Node is what the table depends on besides Services and endpoints.
type Node struct {
	Name string
	Zone string
	// Pods are the ranges of all pods of the cluster, at most one of each family.
	Pods []netip.Prefix
	// Services are the ranges of the cluster IPs.
	Services []netip.Prefix
	// NodePorts are ranges of the node's addresses at which node ports answer; nil:
	// at all.
	NodePorts []netip.Prefix
	// Taken reports whether a program of the node listens at an address; nil: none
	// does.
	Taken func(corev1.Protocol, netip.AddrPort) bool
}

// labelProxyName marks Services that another proxy serves
// (service.kubernetes.io/service-proxy-name).
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// Compute is the table for a node. slices are grouped by namespace/name of
// their Service.
func Compute(node Node, services []*corev1.Service, slicesOf map[string][]*discoveryv1.EndpointSlice) *Table {
	l := NewLedger(node)
	for _, s := range services {
		name := s.Namespace + "/" + s.Name
		l.Set(name, s, slicesOf[name])
	}
	return l.Table()
}

// wanted is what the ports of a Service ask for.
func wanted(node Node, s *keptService, list []*keptSlice) (rules []*Rule) {
	for i := range s.rules {
		rules = append(rules, withEndpoints(node, s.rules[i], list))
	}
	return rules
}

// readyHere is how many endpoints of a Service on the node are ready. Those that only still serve while they end do not
// count: they get what comes, but load balancers that ask are to send nothing more.
func readyHere(node Node, s *keptService, list []*keptSlice) (most int) {
	for i := range s.rules {
		ready := filter(onNode(endpoints(node, &s.rules[i], list)), func(e endpoint) bool { return e.ready })
		most = max(most, len(ready))
	}
	return most
}

// served reports whether a Service has an address of its own that this proxy
// is to serve.
func served(s *corev1.Service) bool {
	return len(clusterIPs(s)) > 0 && s.Spec.Type != corev1.ServiceTypeExternalName && s.Labels[labelProxyName] == ""
}

// clusterIPs are the addresses of a Service, one of each of its families.
func clusterIPs(s *corev1.Service) []netip.Addr {
	texts := s.Spec.ClusterIPs
	if len(texts) == 0 { // who writes only the older field
		texts = []string{s.Spec.ClusterIP}
	}
	var list []netip.Addr
	for _, text := range texts {
		if addr := address(text); addr.IsValid() {
			list = append(list, addr)
		}
	}
	return list
}

// bareRule is the Rule of a port at one of its Service's addresses, without endpoints. full is the Service's namespace/name.
func bareRule(full string, s *corev1.Service, ip netip.Addr, port *corev1.ServicePort) Rule {
	r := Rule{Name: full, Protocol: corev1.Protocol(unique.Make(string(port.Protocol)).Value()), Family: family.Of(ip), Fronts: fronts(s, ip, port)}
	if port.Name != "" {
		r.Name += ":" + port.Name
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		r.Sticky = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			r.Sticky = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	return r
}

// withEndpoints is a Rule with its endpoints. Lists that are alike share their memory.
func withEndpoints(node Node, r Rule, list []*keptSlice) *Rule {
	candidates := endpoints(node, &r, list)
	r.Cluster = addresses(usable(candidates, func(ready []endpoint) []endpoint { return nearest(node, ready) }))
	r.Local = same(r.Cluster, addresses(usable(onNode(candidates), all)))
	r.Serving = same(r.Cluster, addresses(filter(candidates, func(e endpoint) bool { return e.ready || e.serving })))
	for _, e := range candidates {
		if addr := e.addr.Addr(); !e.elsewhere && (len(r.Hairpin) == 0 || r.Hairpin[len(r.Hairpin)-1] != addr) {
			r.Hairpin = append(r.Hairpin, addr)
		}
	}
	return &r
}

// same is list, in the memory of another that is alike.
func same(other, list []netip.AddrPort) []netip.AddrPort {
	if slices.Equal(other, list) {
		return other
	}
	return list
}

// fronts are the addresses of one port of a Service, in the family of its address
// ip.
func fronts(s *corev1.Service, ip netip.Addr, port *corev1.ServicePort) []Front {
	number := uint16(port.Port)
	internalLocal := ptr.Deref(s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal
	externalLocal := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	list := []Front{{Kind: ClusterIP, Addr: netip.AddrPortFrom(ip, number), Local: internalLocal}}
	for _, text := range s.Spec.ExternalIPs {
		list = append(list, Front{Kind: ExternalIP, Addr: netip.AddrPortFrom(address(text), number), Local: externalLocal})
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		allow := sourceRanges(s, family.Of(ip))
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			if ptr.Deref(ingress.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
				list = append(list, Front{Kind: LoadBalancer, Addr: netip.AddrPortFrom(address(ingress.IP), number), Local: externalLocal, Allow: allow})
			}
		}
	}
	if port.NodePort > 0 {
		list = append(list, Front{Kind: NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, uint16(port.NodePort)), Local: externalLocal})
	}
	slices.SortStableFunc(list, func(a, b Front) int { return cmp.Compare(a.Kind, b.Kind) })
	return slices.DeleteFunc(list, func(f Front) bool { return f.Kind != NodePort && family.Of(f.Addr.Addr()) != family.Of(ip) })
}

// address is not valid unless text is an address that other machines can have.
// What listens on a node's loopback is no Service's business, and an address with
// a zone means something on one machine alone.
func address(text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Is4In6() || addr.Zone() != "" || addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Addr{}
	}
	return addr
}

// sourceRanges are the clients of a family that a load balancer lets in; nil:
// everyone. A list without a range of the family, or without one that parses, lets
// nobody in, as a list would that names none of the clients.
func sourceRanges(s *corev1.Service, f corev1.IPFamily) []netip.Prefix {
	if len(s.Spec.LoadBalancerSourceRanges) == 0 {
		return nil
	}
	ranges := []netip.Prefix{}
	for _, text := range s.Spec.LoadBalancerSourceRanges {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil && !prefix.Addr().Is4In6() && family.Of(prefix.Addr()) == f {
			ranges = append(ranges, prefix)
		}
	}
	return ranges
}

// endpoint is one address that serves a port.
type endpoint struct {
	addr                        netip.AddrPort
	here, ready, serving, going bool
	elsewhere                   bool     // known to be on another node
	zones, nodes                []string // hints
}

// endpoints are those of a Rule in all slices of its Service, each
// address once and in ascending order. Of several with one address the best is taken, in
// whatever order they are found: a pod that terminates may share its address with
// the next, and an endpoint that moves is in two slices for a while.
func endpoints(node Node, r *Rule, list []*keptSlice) []endpoint {
	var found []endpoint
	_, port, _ := strings.Cut(r.Name, ":")
	for _, slice := range list {
		if slice.family != r.Family {
			continue
		}
		for _, p := range slice.ports {
			if p.name != port || p.protocol != r.Protocol {
				continue
			}
			for i := range slice.endpoints {
				found = append(found, newEndpoint(node, &slice.endpoints[i], p.number))
			}
		}
	}
	slices.SortFunc(found, func(a, b endpoint) int { return cmp.Or(a.addr.Compare(b.addr), better(a, b)) })
	return slices.CompactFunc(found, func(a, b endpoint) bool { return a.addr == b.addr })
}

// better orders endpoints that have one address, the best first. Zones and nodes
// only make it a total order.
func better(a, b endpoint) int {
	trueFirst := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	return cmp.Or(
		trueFirst(!a.going, !b.going),
		trueFirst(a.ready, b.ready),
		trueFirst(a.serving, b.serving),
		trueFirst(a.here, b.here),
		slices.Compare(a.zones, b.zones),
		slices.Compare(a.nodes, b.nodes),
	)
}

func newEndpoint(node Node, e *keptEndpoint, port uint16) endpoint {
	on := e.node.Value()
	found := endpoint{
		addr: netip.AddrPortFrom(e.addr, port), ready: e.ready, serving: e.serving, going: e.going,
		here: on == node.Name, elsewhere: on != node.Name && on != "",
	}
	if e.hints != nil {
		found.zones, found.nodes = e.hints.zones, e.hints.nodes
	}
	return found
}

// usable are those of the ready endpoints that choose picks, or, if none is
// ready, those that still serve while they terminate (KEP-1669).
func usable(list []endpoint, choose func([]endpoint) []endpoint) []endpoint {
	if ready := filter(list, func(e endpoint) bool { return e.ready }); len(ready) > 0 {
		return choose(ready)
	}
	return filter(list, func(e endpoint) bool { return e.serving && e.going })
}

func all(list []endpoint) []endpoint { return list }

func onNode(list []endpoint) []endpoint {
	return filter(list, func(e endpoint) bool { return e.here })
}

// nearest follows the hints of topology-aware routing, if every endpoint has
// one and some are for this node or its zone (KEP-2433, KEP-3015).
func nearest(node Node, list []endpoint) []endpoint {
	hinted := func(hints func(endpoint) []string, value string) []endpoint {
		if value == "" || slices.ContainsFunc(list, func(e endpoint) bool { return len(hints(e)) == 0 }) {
			return nil
		}
		return filter(list, func(e endpoint) bool { return slices.Contains(hints(e), value) })
	}
	if near := hinted(func(e endpoint) []string { return e.nodes }, node.Name); len(near) > 0 {
		return near
	}
	if near := hinted(func(e endpoint) []string { return e.zones }, node.Zone); len(near) > 0 {
		return near
	}
	return list
}

func filter(list []endpoint, keep func(endpoint) bool) []endpoint {
	return slices.DeleteFunc(slices.Clone(list), func(e endpoint) bool { return !keep(e) })
}

func addresses(list []endpoint) []netip.AddrPort {
	addrs := make([]netip.AddrPort, 0, len(list))
	for _, e := range list {
		addrs = append(addrs, e.addr)
	}
	return addrs
}
