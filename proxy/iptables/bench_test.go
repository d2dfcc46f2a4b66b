package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// numbered is a Service with a number and five endpoints, which are on other nodes.
func numbered(i int) *proxy.Rule {
	r := &proxy.Rule{
		Name: fmt.Sprintf("ns/s%05d", i), Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol,
		Fronts: []proxy.Front{{Kind: proxy.ClusterIP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)}},
	}
	for j := range 5 {
		r.Cluster = append(r.Cluster, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), byte(j)}), 8080))
	}
	return r
}

// BenchmarkSync writes 10,000 Services with 5 endpoints each into an empty namespace.
func BenchmarkSync(b *testing.B) {
	full := many()
	for b.Loop() {
		b.StopTimer()
		n := nettest.New(b)
		b.StartTimer()
		n.Do(b, func() {
			if err := New().Apply(b.Context(), full); err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkChange changes the endpoints of one of them, and back.
func BenchmarkChange(b *testing.B) {
	full := many()
	changed := *full
	changed.Rules = slices.Clone(full.Rules)
	less := *full.Rules[5000]
	less.Cluster = less.Cluster[:4]
	changed.Rules[5000] = &less
	n, backend := nettest.New(b), New()
	apply := func(t *proxy.Table) {
		n.Do(b, func() {
			if err := backend.Apply(b.Context(), t); err != nil {
				b.Error(err)
			}
		})
	}
	apply(full)
	for i := 0; b.Loop(); i++ {
		apply([]*proxy.Table{&changed, full}[i%2])
	}
}

func many() *proxy.Table {
	var rules []*proxy.Rule
	for i := range 10000 {
		rules = append(rules, numbered(i))
	}
	return table(rules...)
}
