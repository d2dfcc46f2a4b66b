package proxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// TestLedgerFollows has Services that want the same few addresses come, change and
// go. After each change the ledger must say what one says that has never seen
// anything else, and what did not change must be shared.
func TestLedgerFollows(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		follows := NewLedger(Node{Name: "here"})
		services := make(map[string]*corev1.Service)
		slicesOf := make(map[string][]*discoveryv1.EndpointSlice)
		last := follows.Table()
		for step := range 150 {
			for range 1 + random.IntN(3) {
				name := fmt.Sprintf("ns/s%d", random.IntN(8))
				if random.IntN(4) == 0 {
					delete(services, name)
					delete(slicesOf, name)
				} else {
					services[name], slicesOf[name] = randomService(random, name)
				}
				follows.Set(name, services[name], slicesOf[name])
			}
			got := follows.Table()
			var list []*corev1.Service
			for _, s := range services {
				list = append(list, s)
			}
			want := Compute(Node{Name: "here"}, list, slicesOf)
			if !slices.EqualFunc(got.Rules, want.Rules, (*Rule).equal) {
				t.Fatalf("seed %d, step %d: got\n%v\nwant\n%v", seed, step, texts(got), texts(want))
			}
			if fmt.Sprint(got.Refused, got.Health) != fmt.Sprint(want.Refused, want.Health) {
				t.Fatalf("seed %d, step %d: got %v %v, want %v %v", seed, step, got.Refused, got.Health, want.Refused, want.Health)
			}
			for _, r := range got.Rules {
				if slices.ContainsFunc(last.Rules, func(before *Rule) bool { return before != r && before.equal(r) }) {
					t.Fatalf("seed %d, step %d: %s did not change, but is made anew", seed, step, r.Name)
				}
			}
			last = got
		}
	}
}

func texts(t *Table) (list []string) {
	for _, r := range t.Rules {
		list = append(list, fmt.Sprintf("%+v\n", *r))
	}
	return list
}

func randomService(random *rand.Rand, name string) (*corev1.Service, []*discoveryv1.EndpointSlice) {
	s := service(name[len("ns/"):], random.IntN(4), fmt.Sprintf("10.96.0.%d", random.IntN(8)), nil)
	some := func() string { return fmt.Sprintf("203.0.113.%d", random.IntN(3)) }
	for range random.IntN(3) {
		s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, some())
	}
	if random.IntN(3) == 0 {
		s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, fmt.Sprintf("10.96.0.%d", random.IntN(8)))
	}
	if random.IntN(2) == 0 {
		balanced(some())(s)
		s.Spec.Ports[0].NodePort = 30000 + int32(random.IntN(4))
		s.Spec.HealthCheckNodePort = 32000 + int32(random.IntN(4))
	}
	slice := &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("udp"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To[int32](8080)}},
	}
	for range random.IntN(3) {
		slice.Endpoints = append(slice.Endpoints, at(fmt.Sprintf("10.244.0.%d", 1+random.IntN(3)), "ready here"))
	}
	return s, []*discoveryv1.EndpointSlice{slice}
}
