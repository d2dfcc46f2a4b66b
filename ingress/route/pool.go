package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Pool is a backend and the endpoints it has at present. It is safe for concurrent use.
type Pool struct {
	Backend
	endpoints atomic.Pointer[[]string]
	next      atomic.Uint32
}

// Set replaces the endpoints: host:port each, in ascending order.
func (p *Pool) Set(endpoints []string) { p.endpoints.Store(&endpoints) }

// Endpoints are those at present. They must not be changed.
func (p *Pool) Endpoints() []string {
	if list := p.endpoints.Load(); list != nil {
		return *list
	}
	return nil
}

// Next is the endpoint whose turn it is but those that were tried; empty if there is none.
func (p *Pool) Next(tried []string) string {
	list := p.Endpoints()
	if len(list) == 0 {
		return ""
	}
	first := int(p.next.Add(1) % uint32(len(list)))
	for i := range list {
		if e := list[(first+i)%len(list)]; !slices.Contains(tried, e) {
			return e
		}
	}
	return ""
}

// Endpoints are where a port of a Service is served: by the endpoints that are ready, or if none is, by those that
// still serve while they end. That of an ExternalName is the name. The Service may be nil.
func Endpoints(b Backend, s *corev1.Service, list []*discoveryv1.EndpointSlice) []string {
	port := servicePort(b, s)
	switch {
	case s == nil:
		return nil
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return externalName(b, s, port)
	case port == nil:
		return nil
	}
	var ready, ending []netip.AddrPort
	for _, slice := range list {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, p := range slice.Ports {
			if value(p.Name) != port.Name || p.Port == nil || cmp.Or(value(p.Protocol), corev1.ProtocolTCP) != corev1.ProtocolTCP {
				continue
			}
			for _, e := range slice.Endpoints {
				addr, err := netip.ParseAddr(firstOf(e.Addresses))
				if err != nil {
					continue
				}
				at := netip.AddrPortFrom(addr, uint16(*p.Port))
				switch c := e.Conditions; {
				case c.Ready == nil || *c.Ready:
					ready = append(ready, at)
				case value(c.Serving) && value(c.Terminating):
					ending = append(ending, at)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	ready = slices.Compact(ready)
	texts := make([]string, 0, len(ready))
	for _, a := range ready {
		texts = append(texts, a.String())
	}
	return texts
}

// Missing says what of a backend is not there; empty if its Service has the port. The Service may be nil.
func Missing(b Backend, s *corev1.Service) string {
	switch {
	case s == nil:
		return fmt.Sprintf("there is no Service %s", b.Service)
	case s.Spec.Type != corev1.ServiceTypeExternalName && servicePort(b, s) == nil:
		return fmt.Sprintf("Service %s has no port %s", b.Service, cmp.Or(b.PortName, strconv.Itoa(int(b.Port))))
	}
	return ""
}

// externalName needs no port in the Service: a number is one of the name's host.
func externalName(b Backend, s *corev1.Service, port *corev1.ServicePort) []string {
	number := b.Port
	if port != nil {
		number = port.Port
	}
	if number == 0 || s.Spec.ExternalName == "" {
		return nil
	}
	return []string{s.Spec.ExternalName + ":" + strconv.Itoa(int(number))}
}

func servicePort(b Backend, s *corev1.Service) *corev1.ServicePort {
	if s == nil {
		return nil
	}
	for i, p := range s.Spec.Ports {
		if b.PortName != "" && p.Name == b.PortName || b.PortName == "" && p.Port == b.Port {
			return &s.Spec.Ports[i]
		}
	}
	return nil
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
