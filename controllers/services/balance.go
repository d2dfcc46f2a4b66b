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
	addresses []netip.Addr // in ascending order
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

// addressesFor are the addresses of the nodes that take traffic for s: all, or with externalTrafficPolicy Local
// those with a ready endpoint.
func (b balancing) addressesFor(s *corev1.Service) (addresses []netip.Addr) {
	local := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	var serving map[string]bool
	if local {
		serving = nodesServing(b.slices(reconcile.KeyOf(s)))
	}
	for _, n := range b.nodes {
		if a := balancerAddress(n); a.IsValid() && (!local || serving[n.Name]) {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
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

// balancerAddress is the address at which a node takes traffic of load balancers: its external one if it has one. It
// is invalid for a node that is not ready, leaves, or is to be left out.
func balancerAddress(n *corev1.Node) netip.Addr {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	if excluded || !ready(n) || n.DeletionTimestamp != nil {
		return netip.Addr{}
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == kind && addr.Is4() {
				return addr
			}
		}
	}
	return netip.Addr{}
}

// fromRange gives every Service an address of its own: the one it has, the one it asks for, or the first that is free.
func (b balancing) fromRange(wanting []*corev1.Service) map[reconcile.Key]outcome {
	outcomes := make(map[reconcile.Key]outcome, len(wanting))
	holder := make(map[netip.Addr]string)
	give := func(key reconcile.Key, a netip.Addr) {
		holder[a] = key.String()
		outcomes[key] = outcome{addresses: []netip.Addr{a}}
	}
	// What is in use stays, so that a Service that comes, however old, takes no other's address.
	for _, s := range wanting {
		if a := heldAddress(s); b.pool.contains(a) && holder[a] == "" && (s.Spec.LoadBalancerIP == "" || s.Spec.LoadBalancerIP == a.String()) {
			give(reconcile.KeyOf(s), a)
		}
	}
	next := b.pool.first
	for _, s := range wanting {
		key := reconcile.KeyOf(s)
		if _, has := outcomes[key]; has {
			continue
		}
		if text := s.Spec.LoadBalancerIP; text != "" {
			a, err := netip.ParseAddr(text)
			switch {
			case err != nil || !b.pool.contains(a):
				outcomes[key] = outcome{problem: fmt.Sprintf("the address %s that it asks for is not in the range %s-%s", text, b.pool.first, b.pool.last)}
			case holder[a] != "":
				outcomes[key] = outcome{problem: fmt.Sprintf("the address %s that it asks for is that of Service %s", a, holder[a])}
			default:
				give(key, a)
			}
			continue
		}
		for b.pool.contains(next) && holder[next] != "" {
			next = next.Next()
		}
		if !b.pool.contains(next) {
			outcomes[key] = outcome{problem: fmt.Sprintf("no address of the range %s-%s is free", b.pool.first, b.pool.last)}
			continue
		}
		give(key, next)
	}
	return outcomes
}

func heldAddress(s *corev1.Service) netip.Addr {
	if len(s.Status.LoadBalancer.Ingress) != 1 {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(s.Status.LoadBalancer.Ingress[0].IP)
	return a
}
