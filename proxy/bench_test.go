package proxy

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// large is how many Services the benchmarks have, each with five endpoints.
const large = 10000

func largeSlice(i, endpoints int) []*discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("s", i, "-1")},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for j := range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.%d.%d", i%256, j)}, NodeName: ptr.To("there")})
	}
	return []*discoveryv1.EndpointSlice{s}
}

func largeLedger() *Ledger {
	l := NewLedger(Node{Name: "here"})
	for i := range large {
		s := numbered(i)
		l.Set("ns/"+s.Name, s, largeSlice(i, 5))
	}
	return l
}

// BenchmarkLedger works out the first table.
func BenchmarkLedger(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if got := len(largeLedger().Table().Rules); got != large {
			b.Fatalf("got %d rules", got)
		}
	}
}

// BenchmarkLedgerChange changes the endpoints of one Service, and back, and works out what that changes.
func BenchmarkLedgerChange(b *testing.B) {
	l := largeLedger()
	last := l.Table()
	s := numbered(large / 2)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Set("ns/"+s.Name, s, largeSlice(large/2, 4+i%2))
		now := l.Table()
		if changes := Changes(last, now); i > 0 && len(changes) != 1 {
			b.Fatalf("got %d changes", len(changes))
		}
		last = now
	}
}

// BenchmarkChanges compares two tables that share all rules but one.
func BenchmarkChanges(b *testing.B) {
	old := largeLedger().Table()
	now := *old
	now.Rules = slices.Clone(old.Rules)
	other := *now.Rules[large/2]
	other.Cluster = nil
	now.Rules[large/2] = &other
	b.ReportAllocs()
	for b.Loop() {
		if changes := Changes(old, &now); len(changes) != 1 {
			b.Fatalf("got %d changes", len(changes))
		}
	}
}

// BenchmarkMemory says what the proxy holds of a Service with five endpoints: what informers keep, and the ledger with its table.
func BenchmarkMemory(b *testing.B) {
	held := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	for b.Loop() {
		before := held()
		services, list := make([]any, large), make([]any, large)
		for i := range large {
			services[i], list[i] = received(b, stored(i), new(corev1.Service)), received(b, largeSlice(i, 5)[0], new(discoveryv1.EndpointSlice))
		}
		kept := held()
		l := NewLedger(Node{Name: "here"})
		for i := range large {
			l.set(serviceOf(services[i]), services[i].(*keptService), []*keptSlice{list[i].(*keptSlice)})
		}
		table := l.Table()
		b.ReportMetric(float64(kept-before)/large, "B/kept")
		b.ReportMetric(float64(held()-kept)/large, "B/computed")
		runtime.KeepAlive([]any{services, list, l, table})
	}
}

// stored is a Service as the API server fills it in.
func stored(i int) *corev1.Service {
	s := numbered(i)
	s.UID, s.ResourceVersion = types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i)), fmt.Sprint(1000+i)
	s.Spec.Type, s.Spec.SessionAffinity, s.Spec.ClusterIPs = corev1.ServiceTypeClusterIP, corev1.ServiceAffinityNone, []string{s.Spec.ClusterIP}
	s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv4Protocol}, ptr.To(corev1.IPFamilyPolicySingleStack)
	s.Spec.InternalTrafficPolicy, s.Spec.Ports[0].TargetPort = ptr.To(corev1.ServiceInternalTrafficPolicyCluster), intstr.FromInt32(8080)
	return s
}

// received is what an informer keeps of an object that has come by the wire.
func received[T interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}](b *testing.B, sent, into T) any {
	b.Helper()
	data, err := sent.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	if err := into.Unmarshal(data); err != nil {
		b.Fatal(err)
	}
	object, err := keep(into)
	if err != nil {
		b.Fatal(err)
	}
	return object
}
