package proxy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// TestFamilies has Services with addresses of both families: each family has rules
// of its own, in which nothing of the other is.
func TestFamilies(t *testing.T) {
	slice := func(kind discoveryv1.AddressType, addr string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			AddressType: kind,
			Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080)}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr}}},
		}
	}
	slices4, slices6 := slice(discoveryv1.AddressTypeIPv4, "10.244.0.5"), slice(discoveryv1.AddressTypeIPv6, "fd44::5")
	for name, test := range map[string]struct {
		spec    corev1.ServiceSpec
		ingress []string
		want    string
	}{
		"IPv4 alone": {
			spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"}},
			want: "IPv4 10.96.0.7:80 -> 10.244.0.5:8080",
		},
		"IPv6 alone, in the older field alone": {
			spec: corev1.ServiceSpec{ClusterIP: "fd96::7"},
			want: "IPv6 [fd96::7]:80 -> [fd44::5]:8080",
		},
		"both": {
			spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "fd96::7", ClusterIPs: []string{"fd96::7", "10.96.0.7"},
				ExternalIPs: []string{"203.0.113.5", "fd00::5", "::ffff:203.0.113.6", "fe80::1%eth0", "ff02::1"},
			},
			ingress: []string{"192.0.2.1", "fd00::1"},
			want: "IPv4 10.96.0.7:80 192.0.2.1:80 203.0.113.5:80 node:30080 -> 10.244.0.5:8080; " +
				"IPv6 [fd96::7]:80 [fd00::1]:80 [fd00::5]:80 node:30080 -> [fd44::5]:8080",
		},
		"source ranges of one family let nobody of the other in": {
			spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "fd96::7", ClusterIPs: []string{"fd96::7", "10.96.0.7"},
				LoadBalancerSourceRanges: []string{"198.51.100.0/24"},
			},
			ingress: []string{"192.0.2.1", "fd00::1"},
			want: "IPv4 10.96.0.7:80 192.0.2.1:80[198.51.100.0/24] node:30080 -> 10.244.0.5:8080; " +
				"IPv6 [fd96::7]:80 [fd00::1]:80[] node:30080 -> [fd44::5]:8080",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := service("s", 1, "", nil)
			s.Spec = test.spec
			s.Spec.Ports = []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}
			if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
				s.Spec.Ports[0].NodePort = 30080
				balanced(test.ingress...)(s)
			}
			table := Compute(Node{}, []*corev1.Service{s}, map[string][]*discoveryv1.EndpointSlice{"ns/s": {slices6, slices4}})
			var got []string
			for _, r := range table.Rules {
				text := string(r.Family)
				for _, f := range r.Fronts {
					if f.Kind == NodePort {
						text += fmt.Sprintf(" node:%d", f.Addr.Port())
						continue
					}
					text += " " + f.Addr.String()
					if f.Allow != nil {
						text += fmt.Sprint(f.Allow)
					}
				}
				for _, e := range r.Cluster {
					text += " -> " + e.String()
				}
				got = append(got, text)
			}
			if all := strings.Join(got, "; "); all != test.want {
				t.Errorf("got  %s\nwant %s", all, test.want)
			}
		})
	}
}

// TestChanges compares tables that share rules with some that do not.
func TestChanges(t *testing.T) {
	rule := func(name string, family corev1.IPFamily, port uint16) *Rule {
		return &Rule{Name: name, Protocol: corev1.ProtocolTCP, Family: family, Fronts: []Front{{Kind: NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, port)}}}
	}
	a, b4, b6, c := rule("a", "IPv4", 1), rule("b", "IPv4", 2), rule("b", "IPv6", 2), rule("c", "IPv4", 3)
	moved := rule("b", "IPv6", 4)
	for name, test := range map[string]struct {
		old, now []*Rule
		want     []Change
	}{
		"the same pointers":    {[]*Rule{a, b4}, []*Rule{a, b4}, nil},
		"the same in new ones": {[]*Rule{a}, []*Rule{rule("a", "IPv4", 1)}, nil},
		"all new":              {nil, []*Rule{a, c}, []Change{{New: a}, {New: c}}},
		"all gone":             {[]*Rule{a, c}, nil, []Change{{Old: a}, {Old: c}}},
		"one family changes":   {[]*Rule{a, b4, b6, c}, []*Rule{a, b4, moved, c}, []Change{{b6, moved}}},
		"between":              {[]*Rule{a, c}, []*Rule{a, b4, c}, []Change{{New: b4}}},
		"one for another":      {[]*Rule{a, b4}, []*Rule{b4, c}, []Change{{Old: a}, {New: c}}},
	} {
		if got := Changes(&Table{Rules: test.old}, &Table{Rules: test.now}); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
	if got := Changes(nil, &Table{Rules: []*Rule{a}}); !slices.Equal(got, []Change{{New: a}}) {
		t.Errorf("no table before: got %v", got)
	}
}
