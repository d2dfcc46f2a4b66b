package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// service is one that was made at a minute, with a port 53 for both protocols
// unless change says otherwise.
func service(name string, minute int, clusterIP string, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(minute)*60, 0))},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP,
			Ports: []corev1.ServicePort{{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "tcp", Protocol: corev1.ProtocolTCP, Port: 53}},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

func external(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.ExternalIPs = ips }
}

func balanced(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		for _, ip := range ips {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
	}
}

// TestPrecedence has Services ask for the addresses of others. Whatever the order
// of the Services is, each address has one holder.
func TestPrecedence(t *testing.T) {
	const dns, web, outside = "10.96.0.10", "10.96.0.20", "203.0.113.5"
	port := func(change func(*corev1.ServicePort)) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Ports = s.Spec.Ports[:1]
			change(&s.Spec.Ports[0])
		}
	}
	for name, test := range map[string]struct {
		services []*corev1.Service
		want     []string // address/protocol holder; those of dns and web themselves left out
		refused  int
	}{
		"an external IP is another's cluster IP": {
			services: []*corev1.Service{service("dns", 2, dns, nil), service("evil", 1, web, external(dns))},
			refused:  2,
		},
		"an external IP is another's cluster IP, on a port that it does not have": {
			services: []*corev1.Service{
				service("dns", 2, dns, port(func(p *corev1.ServicePort) {})),
				service("evil", 1, web, func(s *corev1.Service) { s.Spec.ExternalIPs, s.Spec.Ports[0].Port = []string{dns}, 5353 }),
			},
			refused: 2,
		},
		"a load balancer has another's cluster IP": {
			services: []*corev1.Service{service("dns", 2, dns, nil), service("evil", 1, web, balanced(dns))},
			refused:  2,
		},
		"an external IP is another's load balancer": {
			services: []*corev1.Service{service("dns", 2, dns, balanced(outside)), service("evil", 1, web, external(outside))},
			want:     []string{outside + ":53/TCP ns/dns:tcp", outside + ":53/UDP ns/dns:udp"},
			refused:  2,
		},
		"one external IP, the older Service has it": {
			services: []*corev1.Service{service("dns", 2, dns, external(outside)), service("web", 1, web, external(outside))},
			want:     []string{outside + ":53/TCP ns/web:tcp", outside + ":53/UDP ns/web:udp"},
			refused:  2,
		},
		"one external IP, of the same age": {
			services: []*corev1.Service{service("dns", 1, dns, external(outside)), service("web", 1, web, external(outside)), service("x", 1, "10.96.0.30", external(outside))},
			want:     []string{"10.96.0.30:53/TCP ns/x:tcp", "10.96.0.30:53/UDP ns/x:udp", outside + ":53/TCP ns/dns:tcp", outside + ":53/UDP ns/dns:udp"},
			refused:  4,
		},
		"one external IP, two ports": {
			services: []*corev1.Service{
				service("dns", 1, dns, external(outside)),
				service("web", 2, web, func(s *corev1.Service) {
					s.Spec.ExternalIPs = []string{outside}
					s.Spec.Ports[0].Port, s.Spec.Ports[1].Port = 80, 80
				}),
			},
			want: []string{outside + ":53/TCP ns/dns:tcp", outside + ":53/UDP ns/dns:udp", outside + ":80/TCP ns/web:tcp", outside + ":80/UDP ns/web:udp"},
		},
		"an external IP that is the Service's own cluster IP and load balancer": {
			services: []*corev1.Service{service("dns", 1, dns, func(s *corev1.Service) {
				balanced(outside)(s)
				external(outside, dns)(s)
			})},
			want:    []string{outside + ":53/TCP ns/dns:tcp", outside + ":53/UDP ns/dns:udp"},
			refused: 4,
		},
		"one node port": {
			services: []*corev1.Service{
				service("dns", 2, dns, port(func(p *corev1.ServicePort) { p.NodePort = 30053 })),
				service("web", 1, web, port(func(p *corev1.ServicePort) { p.NodePort = 30053 })),
			},
			want:    []string{":30053/UDP ns/web:udp"},
			refused: 1,
		},
		"one cluster IP, while a Service replaces another": {
			services: []*corev1.Service{service("old", 1, "10.96.0.30", nil), service("next", 2, "10.96.0.30", nil)},
			want:     []string{"10.96.0.30:53/TCP ns/old:tcp", "10.96.0.30:53/UDP ns/old:udp"},
			refused:  2,
		},
		"an external IP is a loopback": {
			services: []*corev1.Service{service("dns", 1, dns, external("127.0.0.1"))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for order := range permutations(test.services) {
				table := Compute(Node{}, order, nil)
				if got := holders(table, dns, web); !slices.Equal(got, test.want) {
					t.Fatalf("got %q, want %q", got, test.want)
				}
				if len(table.Refused) != test.refused {
					t.Fatalf("refused: got %v, want %d", table.Refused, test.refused)
				}
			}
		})
	}
}

// holders says which rule has which address, sorted, but for the cluster IPs of
// but; whoever else has one of those is there too.
func holders(t *Table, but ...string) []string {
	var list []string
	for _, r := range t.Rules {
		for _, f := range r.Fronts {
			if f.Kind == ClusterIP && slices.Contains(but, f.Addr.Addr().String()) {
				continue
			}
			addr := strings.TrimPrefix(f.Addr.String(), "invalid AddrPort")
			if f.Kind == NodePort {
				addr = fmt.Sprintf(":%d", f.Addr.Port())
			}
			list = append(list, fmt.Sprintf("%s/%s %s", addr, r.Protocol, r.Name))
		}
	}
	slices.Sort(list)
	return list
}
