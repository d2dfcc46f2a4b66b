package services

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

func balancerNode(name, external, internal string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: internal}, {Type: corev1.NodeExternalIP, Address: external}} {
		if a.Address != "" {
			n.Status.Addresses = append(n.Status.Addresses, a)
		}
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	for _, f := range change {
		f(n)
	}
	return n
}

// balancer is a Service made that many seconds after the first.
func balancer(name string, age int, port int32, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "x", CreationTimestamp: metav1.NewTime(time.Unix(1000+int64(age), 0))},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: port}}},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func TestBalancersFromNodes(t *testing.T) {
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	nodes := []*corev1.Node{
		balancerNode("b", "", "192.0.2.2"),
		balancerNode("a", "203.0.113.1", "192.0.2.1"),
		balancerNode("unready", "", "192.0.2.3", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }),
		balancerNode("excluded", "", "192.0.2.4", func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""} }),
		balancerNode("going", "", "192.0.2.5", func(n *corev1.Node) { n.DeletionTimestamp = ptr.To(metav1.Now()) }),
	}
	for _, test := range []struct {
		name     string
		services []*corev1.Service
		reserved []reservation
		want     map[string]string // addresses, or what the problem has in it
	}{
		{"all nodes that take part", []*corev1.Service{balancer("s", 0, 80)}, nil, map[string]string{"s": "192.0.2.2 203.0.113.1"}},
		{"another's class", []*corev1.Service{balancer("s", 0, 80, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/lb") })}, nil, nil},
		{"being deleted", []*corev1.Service{balancer("s", 0, 80, func(s *corev1.Service) { s.DeletionTimestamp = ptr.To(metav1.Now()) })}, nil, nil},
		{"nodes with an endpoint", []*corev1.Service{balancer("s", 0, 80, local)}, nil, map[string]string{"s": "192.0.2.2"}},
		{"one port twice", []*corev1.Service{balancer("young", 9, 80), balancer("old", 0, 80)}, nil,
			map[string]string{"old": "192.0.2.2 203.0.113.1", "young": "port 80/TCP of the nodes is taken by Service x/old"}},
		{"one port twice, held by the younger", []*corev1.Service{balancer("young", 9, 80, func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.2"}}
		}), balancer("old", 0, 80)}, nil,
			map[string]string{"young": "192.0.2.2 203.0.113.1", "old": "port 80/TCP of the nodes is taken by Service x/young"}},
		{"one port, two protocols", []*corev1.Service{balancer("udp", 9, 80, func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }), balancer("tcp", 0, 80)}, nil,
			map[string]string{"tcp": "192.0.2.2 203.0.113.1", "udp": "192.0.2.2 203.0.113.1"}},
		{"another's node port", []*corev1.Service{balancer("s", 0, 30080), balancer("other", 9, 80, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 })}, nil,
			map[string]string{"other": "192.0.2.2 203.0.113.1", "s": "port 30080/TCP of the nodes is the node port of Service x/other"}},
		{"its own node port", []*corev1.Service{balancer("s", 0, 30080, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 })}, nil, map[string]string{"s": "192.0.2.2 203.0.113.1"}},
		{"reserved before and after", []*corev1.Service{balancer("old", 0, 80), balancer("young", 9, 443)},
			[]reservation{{nodePort{corev1.ProtocolTCP, 80}, "Ingress", metav1.Unix(1005, 0)}, {nodePort{corev1.ProtocolTCP, 443}, "Ingress", metav1.Unix(1005, 0)}},
			map[string]string{"old": "192.0.2.2 203.0.113.1", "young": "port 443/TCP of the nodes is taken by Ingress"}},
	} {
		b := balancing{services: test.services, nodes: nodes, reserved: test.reserved, slices: func(reconcile.Key) []*discoveryv1.EndpointSlice {
			return []*discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{
				{NodeName: ptr.To("a"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}, {NodeName: ptr.To("b")},
			}}}
		}}
		compareOutcomes(t, test.name, b.plan(), test.want)
	}
}

func compareOutcomes(t *testing.T, name string, got map[reconcile.Key]outcome, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: got %v, want %v", name, got, want)
	}
	for key, o := range got {
		text := strings.Trim(fmt.Sprint(o.addresses), "[]")
		if o.problem != "" {
			text = o.problem
		}
		if text != want[key.Name] {
			t.Errorf("%s: %s got %q, want %q", name, key.Name, text, want[key.Name])
		}
	}
}

func TestBalancersFromRange(t *testing.T) {
	var pool Pool
	if err := pool.UnmarshalText([]byte("192.0.2.8/30")); err != nil {
		t.Fatal(err)
	}
	has := func(ip string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}} }
	}
	asks := func(ip string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerIP = ip }
	}
	for _, test := range []struct {
		name     string
		services []*corev1.Service
		want     map[string]string
	}{
		{"one each, until none is left", []*corev1.Service{balancer("a", 0, 80), balancer("b", 1, 80), balancer("c", 2, 80)},
			map[string]string{"a": "192.0.2.9", "b": "192.0.2.10", "c": "no address of the range 192.0.2.9-192.0.2.10 is free"}},
		{"what is held stays", []*corev1.Service{balancer("a", 0, 80), balancer("b", 1, 80, has("192.0.2.9"))}, map[string]string{"a": "192.0.2.10", "b": "192.0.2.9"}},
		{"of an earlier range", []*corev1.Service{balancer("a", 0, 80, has("198.51.100.1"))}, map[string]string{"a": "192.0.2.9"}},
		{"asked for", []*corev1.Service{balancer("a", 0, 80, asks("192.0.2.10"))}, map[string]string{"a": "192.0.2.10"}},
		{"asked for and taken", []*corev1.Service{balancer("a", 1, 80, asks("192.0.2.9")), balancer("b", 0, 80, has("192.0.2.9"))},
			map[string]string{"a": "the address 192.0.2.9 that it asks for is that of Service x/b", "b": "192.0.2.9"}},
		{"asked for elsewhere", []*corev1.Service{balancer("a", 0, 80, asks("10.0.0.1"))},
			map[string]string{"a": "the address 10.0.0.1 that it asks for is not in the range 192.0.2.9-192.0.2.10"}},
	} {
		compareOutcomes(t, test.name, balancing{pool: pool, services: test.services}.plan(), test.want)
	}
}

// TestBalancersOfFamilies: a Service has addresses of its families, in their order.
func TestBalancersOfFamilies(t *testing.T) {
	of := func(families ...corev1.IPFamily) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.IPFamilies = families }
	}
	asks := func(ip string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerIP = ip }
	}
	has := func(ips ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			for _, ip := range ips {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
			}
		}
	}
	const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
	for _, test := range []struct {
		name, pool string
		services   []*corev1.Service
		want       map[string]string
	}{
		{"of each family", "192.0.2.8/30,2001:db8::/126", []*corev1.Service{balancer("a", 0, 80, of(v4, v6)), balancer("b", 1, 80, of(v6)), balancer("c", 2, 80)},
			map[string]string{"a": "192.0.2.9 2001:db8::1", "b": "2001:db8::2", "c": "192.0.2.10"}},
		{"in their order", "192.0.2.8/30,2001:db8::/126", []*corev1.Service{balancer("a", 0, 80, of(v6, v4))}, map[string]string{"a": "2001:db8::1 192.0.2.9"}},
		{"no range", "192.0.2.8/30", []*corev1.Service{balancer("a", 0, 80, of(v6)), balancer("b", 0, 80, of(v6, v4))},
			map[string]string{"a": "the range 192.0.2.9-192.0.2.10 has no address of IPv6", "b": "192.0.2.9"}},
		{"what is held stays", "192.0.2.8/30,2001:db8::/126",
			[]*corev1.Service{balancer("a", 0, 80, of(v4, v6)), balancer("b", 1, 80, of(v4, v6), has("192.0.2.9", "2001:db8::2"))},
			map[string]string{"a": "192.0.2.10 2001:db8::1", "b": "192.0.2.9 2001:db8::2"}},
		{"an upgrade", "192.0.2.8/30,2001:db8::/126", []*corev1.Service{balancer("a", 0, 80, of(v4, v6), has("192.0.2.10"))}, map[string]string{"a": "192.0.2.10 2001:db8::1"}},
		{"a downgrade", "192.0.2.8/30,2001:db8::/126", []*corev1.Service{balancer("a", 0, 80, of(v4), has("192.0.2.10", "2001:db8::1"))}, map[string]string{"a": "192.0.2.10"}},
		{"asked for one of two", "192.0.2.8/30,2001:db8::/126", []*corev1.Service{balancer("a", 0, 80, of(v4, v6), asks("2001:db8::2"))}, map[string]string{"a": "192.0.2.9 2001:db8::2"}},
		{"asked for the other family", "192.0.2.8/30,2001:db8::/126", []*corev1.Service{balancer("a", 0, 80, of(v4), asks("2001:db8::2"))},
			map[string]string{"a": "the address 2001:db8::2 that it asks for is not in the range 192.0.2.9-192.0.2.10,2001:db8::1-2001:db8::2"}},
	} {
		var pool Pool
		if err := pool.UnmarshalText([]byte(test.pool)); err != nil {
			t.Fatal(err)
		}
		compareOutcomes(t, test.name, balancing{pool: pool, services: test.services}.plan(), test.want)
	}
	node := &corev1.Node{Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"}},
	}}
	services := []*corev1.Service{balancer("a", 0, 80, of(v6, v4)), balancer("b", 0, 81, of(v6)), balancer("c", 0, 82)}
	compareOutcomes(t, "of nodes", balancing{services: services, nodes: []*corev1.Node{node}}.plan(),
		map[string]string{"a": "2001:db8::1 192.0.2.1", "b": "2001:db8::1", "c": "192.0.2.1"})
}

func TestPool(t *testing.T) {
	for text, want := range map[string]string{
		"nodes": "nodes []", "": "nodes []", "none": "none []",
		"192.0.2.0/29":                "192.0.2.1-192.0.2.6 [192.0.2.1/32 192.0.2.2/31 192.0.2.4/31 192.0.2.6/32]",
		"192.0.2.0/31":                "192.0.2.0-192.0.2.1 [192.0.2.0/31]",
		"192.0.2.7-192.0.2.8":         "192.0.2.7-192.0.2.8 [192.0.2.7/32 192.0.2.8/32]",
		"0.0.0.0-255.255.255.255":     "0.0.0.0-255.255.255.255 [0.0.0.0/0]",
		"2001:db8::/125,192.0.2.0/31": "2001:db8::1-2001:db8::6,192.0.2.0-192.0.2.1 [2001:db8::1/128 2001:db8::2/127 2001:db8::4/127 2001:db8::6/128 192.0.2.0/31]",
		"fd00::1-fd00::2":             "fd00::1-fd00::2 [fd00::1/128 fd00::2/128]",
		"192.0.2.8-192.0.2.7":         "error", "fd00::1-192.0.2.1": "error", "fe80::1%eth0-fe80::2%eth0": "error", "192.0.2.1": "error", "node": "error",
		"192.0.2.0/31,198.51.100.0/24": "error", "192.0.2.0/31,nodes": "error",
	} {
		var p Pool
		got := "error"
		if err := p.UnmarshalText([]byte(text)); err == nil {
			again, _ := p.MarshalText()
			got = fmt.Sprint(string(again), " ", slices.Clip(p.Prefixes()))
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
