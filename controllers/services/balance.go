package services

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/family"
)

// balancing is all that decides which addresses load balancers have.
type balancing struct {
	pool     Pool
	services []*corev1.Service // all of the cluster
	nodes    []*corev1.Node
	// slices are the endpoints of a Service.
	slices func(reconcile.Key) []*discoveryv1.EndpointSlice
	// reserved are ports of the nodes that are in use since a time, by what is named.
	reserved []reservation
}

// reservation is a port of the nodes' addresses and its holder.
type reservation struct {
	port   nodePort
	holder string
	since  metav1.Time
}

// nodePort is a port of the nodes' addresses.
type nodePort struct {
	protocol corev1.Protocol
	number   int32
}

func (p nodePort) String() string { return fmt.Sprintf("%d/%s", p.number, p.protocol) }

// outcome is what a load balancer gets.
type outcome struct {
	addresses []netip.Addr // in the order of the Service's families, ascending in each
	problem   string       // why it gets none
}

// wantsAddress reports whether s is a load balancer of ours: one with a class is another controller's.
func wantsAddress(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil && s.DeletionTimestamp == nil
}

// plan says what every load balancer of ours gets. What several want has the one that has it already, else the oldest.
func (b balancing) plan() map[reconcile.Key]outcome {
	wanting := slices.DeleteFunc(slices.Clone(b.services), func(s *corev1.Service) bool { return !wantsAddress(s) })
	slices.SortFunc(wanting, func(x, y *corev1.Service) int {
		return cmp.Or(holding(y)-holding(x), x.CreationTimestamp.Compare(y.CreationTimestamp.Time), byName(x, y))
	})
	if b.pool.nodes() {
		return b.fromNodes(wanting)
	}
	return b.fromRange(wanting)
}

// holding is 1 for a Service that has an address, else 0.
func holding(s *corev1.Service) int { return min(1, len(s.Status.LoadBalancer.Ingress)) }

func byName(x, y *corev1.Service) int {
	return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
}

// fromNodes gives every Service the addresses of nodes, if no other has its ports there.
func (b balancing) fromNodes(wanting []*corev1.Service) map[reconcile.Key]outcome {
	nodePorts := make(map[nodePort]string)
	for _, s := range b.services {
		for _, p := range s.Spec.Ports {
			if p.NodePort > 0 {
				nodePorts[nodePort{p.Protocol, p.NodePort}] = s.Namespace + "/" + s.Name
			}
		}
	}
	held := make(map[nodePort]string)
	outcomes := make(map[reconcile.Key]outcome, len(wanting))
	for _, s := range wanting {
		key := reconcile.KeyOf(s)
		if problem := b.conflict(s, held, nodePorts); problem != "" {
			outcomes[key] = outcome{problem: problem}
			continue
		}
		for _, p := range s.Spec.Ports {
			held[nodePort{p.Protocol, p.Port}] = key.String()
		}
		outcomes[key] = outcome{addresses: b.addressesFor(s)}
	}
	return outcomes
}

// conflict says which port of s something else has on the nodes.
func (b balancing) conflict(s *corev1.Service, held, nodePorts map[nodePort]string) string {
	self := s.Namespace + "/" + s.Name
	for _, p := range s.Spec.Ports {
		port := nodePort{p.Protocol, p.Port}
		if holder, taken := held[port]; taken {
			return fmt.Sprintf("port %s of the nodes is taken by Service %s", port, holder)
		}
		if holder, taken := nodePorts[port]; taken && holder != self {
			return fmt.Sprintf("port %s of the nodes is the node port of Service %s", port, holder)
		}
		for _, r := range b.reserved {
			if r.port == port && holding(s) == 0 && !s.CreationTimestamp.Before(&r.since) {
				return fmt.Sprintf("port %s of the nodes is taken by %s", port, r.holder)
			}
		}
	}
	return ""
}

// addressesFor are the addresses of the nodes that take traffic for s, of its families: all, or with
// externalTrafficPolicy Local those with a ready endpoint.
func (b balancing) addressesFor(s *corev1.Service) (addresses []netip.Addr) {
	local := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	var serving map[string]bool
	if local {
		serving = nodesServing(b.slices(reconcile.KeyOf(s)))
	}
	for _, f := range familiesOf(s) {
		var list []netip.Addr
		for _, n := range b.nodes {
			if a := balancerAddress(n, f); a.IsValid() && (!local || serving[n.Name]) {
				list = append(list, a)
			}
		}
		slices.SortFunc(list, netip.Addr.Compare)
		addresses = append(addresses, slices.Compact(list)...)
	}
	return addresses
}

// familiesOf are the IP families of a Service; one that was stored before Services had them is of IPv4.
func familiesOf(s *corev1.Service) []corev1.IPFamily {
	if len(s.Spec.IPFamilies) == 0 {
		return []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return s.Spec.IPFamilies
}

// nodesServing are the nodes with a ready endpoint.
func nodesServing(list []*discoveryv1.EndpointSlice) map[string]bool {
	nodes := make(map[string]bool)
	for _, slice := range list {
		for _, e := range slice.Endpoints {
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				nodes[*e.NodeName] = true
			}
		}
	}
	return nodes
}

// balancerAddresses are those of both families.
func balancerAddresses(n *corev1.Node) [2]netip.Addr {
	return [2]netip.Addr{balancerAddress(n, corev1.IPv4Protocol), balancerAddress(n, corev1.IPv6Protocol)}
}

// balancerAddress is the address of a family at which a node takes traffic of load balancers: its external one if it
// has one. It is invalid for a node that is not ready, leaves, or is to be left out.
func balancerAddress(n *corev1.Node, f corev1.IPFamily) netip.Addr {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	if excluded || !ready(n) || n.DeletionTimestamp != nil {
		return netip.Addr{}
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == kind && family.Of(addr) == f {
				return addr
			}
		}
	}
	return netip.Addr{}
}

// fromRange gives every Service an address of its own in each of its families that there is a range of: the one it
// has, the one it asks for, or the first that is free.
func (b balancing) fromRange(wanting []*corev1.Service) map[reconcile.Key]outcome {
	g := giving{pool: b.pool, holder: make(map[netip.Addr]string), next: make(map[corev1.IPFamily]netip.Addr)}
	// What is in use stays, so that a Service that comes, however old, takes no other's address.
	kept := make(map[reconcile.Key]map[corev1.IPFamily]netip.Addr, len(wanting))
	for _, s := range wanting {
		kept[reconcile.KeyOf(s)] = g.keep(s)
	}
	outcomes := make(map[reconcile.Key]outcome, len(wanting))
	for _, s := range wanting {
		var o outcome
		for _, f := range familiesOf(s) {
			a, problem := kept[reconcile.KeyOf(s)][f], ""
			if !a.IsValid() {
				a, problem = g.give(s, f)
			}
			if problem != "" {
				o.problem = problem
				continue
			}
			o.addresses = append(o.addresses, a)
		}
		if len(o.addresses) > 0 {
			o.problem = ""
		}
		outcomes[reconcile.KeyOf(s)] = o
	}
	return outcomes
}

// giving is what has been given out of a pool.
type giving struct {
	pool   Pool
	holder map[netip.Addr]string
	next   map[corev1.IPFamily]netip.Addr // the first that may be free
}

// keep leaves a Service the addresses it has, one of each of its families, unless it asks for another.
func (g giving) keep(s *corev1.Service) map[corev1.IPFamily]netip.Addr {
	kept := make(map[corev1.IPFamily]netip.Addr)
	for _, in := range s.Status.LoadBalancer.Ingress {
		a, err := netip.ParseAddr(in.IP)
		if err != nil || kept[family.Of(a)].IsValid() || !slices.Contains(familiesOf(s), family.Of(a)) {
			continue
		}
		if asked := askedOf(s, family.Of(a)); g.pool.contains(a) && g.holder[a] == "" && (asked == "" || asked == a.String()) {
			g.holder[a] = reconcile.KeyOf(s).String()
			kept[family.Of(a)] = a
		}
	}
	return kept
}

// askedOf is the address that a Service asks for, "" if it is not about this of its two families.
func askedOf(s *corev1.Service, f corev1.IPFamily) string {
	if is, ok := family.OfText(s.Spec.LoadBalancerIP); len(familiesOf(s)) > 1 && (!ok || is != f) {
		return ""
	}
	return s.Spec.LoadBalancerIP
}

// give is an address of a family for a Service, or says why there is none.
func (g giving) give(s *corev1.Service, f corev1.IPFamily) (a netip.Addr, problem string) {
	if asked := askedOf(s, f); asked != "" {
		a, err := netip.ParseAddr(asked)
		switch {
		case err != nil || !g.pool.contains(a) || family.Of(a) != f:
			return a, fmt.Sprintf("the address %s that it asks for is not in the range %s", asked, g.pool)
		case g.holder[a] != "":
			return a, fmt.Sprintf("the address %s that it asks for is that of Service %s", a, g.holder[a])
		}
		g.holder[a] = reconcile.KeyOf(s).String()
		return a, ""
	}
	r, ok := g.pool.of(f)
	if !ok {
		return a, fmt.Sprintf("the range %s has no address of %s", g.pool, f)
	}
	a = g.next[f]
	if !a.IsValid() {
		a = r.first
	}
	for r.contains(a) && g.holder[a] != "" {
		a = a.Next()
	}
	g.next[f] = a
	if !r.contains(a) {
		return a, fmt.Sprintf("no address of the range %s is free", r)
	}
	g.holder[a] = reconcile.KeyOf(s).String()
	return a, ""
}
