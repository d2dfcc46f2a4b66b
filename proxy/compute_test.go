package proxy

import (
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestUsableEndpoints(t *testing.T) {
	ready := endpoint{addr: netip.MustParseAddrPort("10.0.0.1:80"), ready: true, serving: true}
	going := endpoint{addr: netip.MustParseAddrPort("10.0.0.2:80"), serving: true, going: true}
	broken := endpoint{addr: netip.MustParseAddrPort("10.0.0.3:80")}
	for name, test := range map[string]struct{ list, want []endpoint }{
		"ready ones alone":                        {[]endpoint{ready, going, broken}, []endpoint{ready}},
		"terminating ones when none is ready":     {[]endpoint{going, broken}, []endpoint{going}},
		"neither ready nor serving is not usable": {[]endpoint{broken}, []endpoint{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := usable(test.list, all); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestComputeNodePortService(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.7",
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Ports:                 []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080}},
		},
	}
	slice := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.0.5"}, NodeName: ptr.To("here")},
			{Addresses: []string{"10.244.1.5"}, NodeName: ptr.To("there")},
		},
	}
	table := Compute(Node{Name: "here"}, []*corev1.Service{service}, map[string][]*discoveryv1.EndpointSlice{"default/web": {slice}})
	want := []*Rule{{
		Name: "default/web:http", Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol,
		Fronts: []Front{
			{Kind: ClusterIP, Addr: netip.MustParseAddrPort("10.96.0.7:80")},
			{Kind: NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30080), Local: true},
		},
		Cluster: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.5:8080"), netip.MustParseAddrPort("10.244.1.5:8080")},
		Local:   []netip.AddrPort{netip.MustParseAddrPort("10.244.0.5:8080")},
		Serving: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.5:8080"), netip.MustParseAddrPort("10.244.1.5:8080")},
		Hairpin: []netip.Addr{netip.MustParseAddr("10.244.0.5")},
	}}
	if !reflect.DeepEqual(table.Rules, want) {
		t.Errorf("got  %+v\nwant %+v", table.Rules[0], want[0])
	}
}

// TestHealthOfBalancedServices: a node has traffic sent to it while an endpoint there is ready. One that only still serves
// while it ends gets what comes to the node, but no more is to come.
func TestHealthOfBalancedServices(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.7", HealthCheckNodePort: 30999,
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Ports:                 []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	ending := discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}
	for name, test := range map[string]struct {
		endpoints []discoveryv1.Endpoint
		want      int
		local     int
	}{
		"ready":            {[]discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}, NodeName: ptr.To("here")}}, 1, 1},
		"on another node":  {[]discoveryv1.Endpoint{{Addresses: []string{"10.244.1.5"}, NodeName: ptr.To("there")}}, 0, 0},
		"ending":           {[]discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}, NodeName: ptr.To("here"), Conditions: ending}}, 0, 1},
		"ready and ending": {[]discoveryv1.Endpoint{{Addresses: []string{"10.244.0.5"}, NodeName: ptr.To("here"), Conditions: ending}, {Addresses: []string{"10.244.0.6"}, NodeName: ptr.To("here")}}, 1, 1},
	} {
		slice := &discoveryv1.EndpointSlice{
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: test.endpoints,
			Ports: []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
		}
		table := Compute(Node{Name: "here"}, []*corev1.Service{service}, map[string][]*discoveryv1.EndpointSlice{"default/web": {slice}})
		if got := table.Health["default/web"]; got.Port != 30999 || got.Local != test.want || len(table.Rules[0].Local) != test.local {
			t.Errorf("%s: got %+v and %v, want %d", name, got, table.Rules[0].Local, test.want)
		}
	}
}

func TestServicesThatAreNotServed(t *testing.T) {
	for name, change := range map[string]func(*corev1.Service){
		"headless":      func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone },
		"external name": func(s *corev1.Service) { s.Spec.Type, s.Spec.ClusterIP = corev1.ServiceTypeExternalName, "" },
		"another proxy": func(s *corev1.Service) { s.Labels = map[string]string{labelProxyName: "mine"} },
	} {
		t.Run(name, func(t *testing.T) {
			s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Port: 80}}}}
			change(s)
			if got := Compute(Node{}, []*corev1.Service{s}, nil).Rules; len(got) != 0 {
				t.Errorf("got rules %v, want none", got)
			}
		})
	}
}
