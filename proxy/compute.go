package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// Node is what the table depends on besides Services and endpoints.
type Node struct {
	Name string
	Zone string
	// Pods is the range of all pods of the cluster.
	Pods netip.Prefix
}

// labelProxyName marks Services that another proxy serves
// (service.kubernetes.io/service-proxy-name).
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// Compute is the table for a node. slices are grouped by namespace/name of
// their Service. Only IPv4 is served.
func Compute(node Node, services []*corev1.Service, slicesOf map[string][]*discoveryv1.EndpointSlice) *Table {
	t := &Table{Pods: node.Pods, Health: make(map[string]Health)}
	for _, s := range services {
		if !served(s) {
			continue
		}
		key := s.Namespace + "/" + s.Name
		local := 0
		for i := range s.Spec.Ports {
			rule := newRule(node, s, &s.Spec.Ports[i], slicesOf[key])
			local = max(local, len(rule.Local))
			t.Rules = append(t.Rules, rule)
		}
		if s.Spec.HealthCheckNodePort > 0 {
			t.Health[key] = Health{Port: uint16(s.Spec.HealthCheckNodePort), Local: local}
		}
	}
	slices.SortFunc(t.Rules, func(a, b Rule) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	return t
}

// served reports whether a Service has an address of its own that this proxy
// is to serve.
func served(s *corev1.Service) bool {
	addr, err := netip.ParseAddr(s.Spec.ClusterIP)
	return err == nil && addr.Is4() && s.Spec.Type != corev1.ServiceTypeExternalName && s.Labels[labelProxyName] == ""
}

func newRule(node Node, s *corev1.Service, port *corev1.ServicePort, list []*discoveryv1.EndpointSlice) Rule {
	r := Rule{Name: s.Namespace + "/" + s.Name, Protocol: port.Protocol, Fronts: fronts(s, port)}
	if port.Name != "" {
		r.Name += ":" + port.Name
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		r.Sticky = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			r.Sticky = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	candidates := endpoints(node, port, list)
	r.Cluster = addresses(nearest(node, usable(candidates)))
	r.Local = addresses(usable(onNode(candidates)))
	return r
}

// fronts are the addresses of one port of a Service.
func fronts(s *corev1.Service, port *corev1.ServicePort) []Front {
	number := uint16(port.Port)
	internalLocal := ptr.Deref(s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal
	externalLocal := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	list := []Front{{Kind: ClusterIP, Addr: addrPort(s.Spec.ClusterIP, number), Local: internalLocal}}
	for _, ip := range s.Spec.ExternalIPs {
		list = append(list, Front{Kind: ExternalIP, Addr: addrPort(ip, number), Local: externalLocal})
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		allow := sourceRanges(s)
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			if ptr.Deref(ingress.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
				list = append(list, Front{Kind: LoadBalancer, Addr: addrPort(ingress.IP, number), Local: externalLocal, Allow: allow})
			}
		}
	}
	if port.NodePort > 0 {
		list = append(list, Front{Kind: NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, uint16(port.NodePort)), Local: externalLocal})
	}
	return slices.DeleteFunc(list, func(f Front) bool { return f.Kind != NodePort && !f.Addr.Addr().Is4() })
}

// addrPort is invalid if the address does not parse.
func addrPort(ip string, port uint16) netip.AddrPort {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, port)
}

// sourceRanges are the clients a load balancer lets in; nil: everyone. A list
// without a range that parses lets nobody in, as a list would that names none
// of the clients.
func sourceRanges(s *corev1.Service) []netip.Prefix {
	if len(s.Spec.LoadBalancerSourceRanges) == 0 {
		return nil
	}
	ranges := []netip.Prefix{}
	for _, text := range s.Spec.LoadBalancerSourceRanges {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil && prefix.Addr().Is4() {
			ranges = append(ranges, prefix)
		}
	}
	return ranges
}

// endpoint is one address that serves a port.
type endpoint struct {
	addr                        netip.AddrPort
	here, ready, serving, going bool
	zones, nodes                []string // hints
}

// endpoints are those of one port in all slices of a Service, each once.
func endpoints(node Node, port *corev1.ServicePort, list []*discoveryv1.EndpointSlice) []endpoint {
	var found []endpoint
	for _, slice := range list {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, p := range slice.Ports {
			if ptr.Deref(p.Name, "") != port.Name || ptr.Deref(p.Protocol, corev1.ProtocolTCP) != port.Protocol || p.Port == nil {
				continue
			}
			for i := range slice.Endpoints {
				e := &slice.Endpoints[i]
				addr := addrPort(e.Addresses[0], uint16(*p.Port))
				if addr.IsValid() {
					found = append(found, newEndpoint(node, e, addr))
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return slices.CompactFunc(found, func(a, b endpoint) bool { return a.addr == b.addr })
}

func newEndpoint(node Node, e *discoveryv1.Endpoint, addr netip.AddrPort) endpoint {
	ready := ptr.Deref(e.Conditions.Ready, true)
	found := endpoint{
		addr:    addr,
		here:    ptr.Deref(e.NodeName, "") == node.Name,
		ready:   ready,
		serving: ptr.Deref(e.Conditions.Serving, ready),
		going:   ptr.Deref(e.Conditions.Terminating, false),
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			found.zones = append(found.zones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			found.nodes = append(found.nodes, n.Name)
		}
	}
	return found
}

// usable are the ready endpoints, or, if there is none, those that still serve
// while they terminate (KEP-1669).
func usable(list []endpoint) []endpoint {
	if ready := filter(list, func(e endpoint) bool { return e.ready }); len(ready) > 0 {
		return ready
	}
	return filter(list, func(e endpoint) bool { return e.serving && e.going })
}

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
