package proxy

import (
	"iter"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// permutations are all orders of list.
func permutations[T any](list []T) iter.Seq[[]T] {
	var visit func(done, left []T, yield func([]T) bool) bool
	visit = func(done, left []T, yield func([]T) bool) bool {
		if len(left) == 0 {
			return yield(done)
		}
		for i := range left {
			rest := slices.Delete(slices.Clone(left), i, i+1)
			if !visit(append(slices.Clone(done), left[i]), rest, yield) {
				return false
			}
		}
		return true
	}
	return func(yield func([]T) bool) { visit(nil, list, yield) }
}

// at is an endpoint of an address with some of the words ready, unready, serving,
// broken, going, here, and hints such as zone=a and node=n.
func at(address, words string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{NodeName: ptr.To("there")}
	if address != "" {
		e.Addresses = []string{address}
	}
	for _, word := range strings.Fields(words) {
		word, value, _ := strings.Cut(word, "=")
		if value != "" && e.Hints == nil {
			e.Hints = &discoveryv1.EndpointHints{}
		}
		switch word {
		case "ready", "unready":
			e.Conditions.Ready = ptr.To(word == "ready")
		case "serving", "broken":
			e.Conditions.Serving = ptr.To(word == "serving")
		case "going":
			e.Conditions.Terminating = ptr.To(true)
		case "here":
			e.NodeName = ptr.To("here")
		case "zone":
			e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: value})
		case "node":
			e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: value})
		}
	}
	return e
}

// TestEndpoints has endpoints of a Service in every order, in one slice and in a
// slice each: the outcome must be one.
func TestEndpoints(t *testing.T) {
	const one, two, three = "10.0.0.1", "10.0.0.2", "10.0.0.3"
	for name, test := range map[string]struct {
		list                    []discoveryv1.Endpoint
		cluster, local, serving string
	}{
		"one address, the terminating one does not serve": {
			list:    []discoveryv1.Endpoint{at(one, "unready broken going here"), at(one, "ready serving here")},
			cluster: one, local: one, serving: one,
		},
		"one address, the terminating one serves": {
			list:    []discoveryv1.Endpoint{at(one, "unready serving going here"), at(one, "ready serving here")},
			cluster: one, local: one, serving: one,
		},
		"one address, two ended before the third began": {
			list:    []discoveryv1.Endpoint{at(one, "unready broken going here"), at(one, "unready serving going here"), at(one, "ready here")},
			cluster: one, local: one, serving: one,
		},
		"one address, the next is not ready yet": {
			list: []discoveryv1.Endpoint{at(one, "unready serving going"), at(one, "unready broken")},
		},
		"one address, a slice is out of date": {
			list:    []discoveryv1.Endpoint{at(one, "unready broken"), at(one, "ready serving")},
			cluster: one, serving: one,
		},
		"one address on two nodes": {
			list:    []discoveryv1.Endpoint{at(one, "ready"), at(one, "ready here")},
			cluster: one, local: one, serving: one,
		},
		"one address with two hints": {
			list:    []discoveryv1.Endpoint{at(one, "ready zone=b"), at(one, "ready zone=a"), at(two, "ready zone=b")},
			cluster: one, serving: one + " " + two,
		},
		"several published before they are ready": {
			list:    []discoveryv1.Endpoint{at(one, "ready broken going"), at(two, "ready broken")},
			cluster: one + " " + two, serving: one + " " + two,
		},
		"only terminating ones": {
			list:    []discoveryv1.Endpoint{at(one, "unready serving going"), at(two, "unready broken going here"), at(three, "unready serving going here")},
			cluster: one + " " + three, local: three, serving: one + " " + three,
		},
		"hints do not choose among terminating ones": {
			list:    []discoveryv1.Endpoint{at(one, "unready serving going zone=a"), at(two, "unready serving going zone=b")},
			cluster: one + " " + two, serving: one + " " + two,
		},
		"hints for the node come before those for the zone": {
			list:    []discoveryv1.Endpoint{at(one, "ready zone=a node=there"), at(two, "ready zone=b node=here here")},
			cluster: two, local: two, serving: one + " " + two,
		},
		"a terminating one goes on with what began": {
			list:    []discoveryv1.Endpoint{at(one, "unready serving going"), at(two, "ready serving")},
			cluster: two, serving: one + " " + two,
		},
		"nothing said of it means that it serves": {
			list:    []discoveryv1.Endpoint{at(one, "unready going")},
			cluster: one, serving: one,
		},
		"addresses that nobody can be sent to": {
			list:    []discoveryv1.Endpoint{at("", "ready"), at("127.0.0.1", "ready"), at("0.0.0.0", "ready"), at("x", "ready"), at(one, "ready")},
			cluster: one, serving: one,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for order := range permutations(test.list) {
				for _, size := range []int{1, len(order)} {
					rule := ruleOf(t, slices.Collect(slices.Chunk(order, size)))
					for _, list := range []struct {
						name, want string
						got        []netip.AddrPort
					}{{"cluster", test.cluster, rule.Cluster}, {"local", test.local, rule.Local}, {"serving", test.serving, rule.Serving}} {
						var want []string
						for _, address := range strings.Fields(list.want) {
							want = append(want, address+":8080")
						}
						var got []string
						for _, addr := range list.got {
							got = append(got, addr.String())
						}
						if !reflect.DeepEqual(got, want) {
							t.Fatalf("%s, %d in a slice, order %+v: got %v, want %v", list.name, size, order, got, want)
						}
					}
				}
			}
		})
	}
}

// ruleOf is the rule of a Service with slices of endpoints.
func ruleOf(t *testing.T, lists [][]discoveryv1.Endpoint) *Rule {
	t.Helper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.7",
			Ports:     []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	var found []*discoveryv1.EndpointSlice
	for _, list := range lists {
		found = append(found, &discoveryv1.EndpointSlice{
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{
				{Name: ptr.To("other"), Port: ptr.To[int32](9090), Protocol: ptr.To(corev1.ProtocolTCP)},
				{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)},
				{Name: ptr.To("http"), Port: ptr.To[int32](7070), Protocol: ptr.To(corev1.ProtocolUDP)},
				{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP)},
			},
			Endpoints: list,
		})
	}
	table := Compute(Node{Name: "here", Zone: "a"}, []*corev1.Service{service}, map[string][]*discoveryv1.EndpointSlice{"default/web": found})
	if len(table.Rules) != 1 {
		t.Fatalf("got rules %+v, want one", table.Rules)
	}
	return table.Rules[0]
}
