package mode

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// patience is how long an answer may take that must come.
const patience = 10 * time.Second

// TestLiveConnections changes the mode of a node while a client, at a node port, and a pod, at a cluster IP, talk with
// their endpoint. From the end of one mode to the first table of the next they talk on, and others find the Service. From
// ipvs to nftables they do not: the rules of ipvs are in the same table, and go first.
func TestLiveConnections(t *testing.T) {
	fronts := []proxy.Front{
		{Kind: proxy.ClusterIP, Addr: netip.MustParseAddrPort("10.96.0.7:80")},
		{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30080)},
	}
	table := &proxy.Table{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Rules: []*proxy.Rule{{
		Name: "ns/s", Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol, Fronts: fronts,
		Cluster: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.5:8080")},
	}}}
	for _, names := range [][]string{
		{"iptables", "nftables", "iptables"}, {"nftables", "iptables", "nftables"}, {"iptables", "ipvs", "iptables"}, {"nftables", "ipvs"},
		{"ipvs", "iptables", "ipvs"},
	} {
		t.Run(fmt.Sprint(names), func(t *testing.T) {
			needs(t, names...)
			node, server, pod, outside := nettest.New(t), nettest.New(t), nettest.New(t), nettest.New(t)
			nettest.Join(t, node, "server", "10.244.0.1/24", server, "eth0", "10.244.0.5/24")
			nettest.Join(t, node, "pod", "10.244.1.1/24", pod, "eth0", "10.244.1.5/24")
			nettest.Join(t, node, "outside", "192.0.2.1/24", outside, "eth0", "192.0.2.9/24")
			server.Run(t, "ip", "route", "add", "default", "via", "10.244.0.1")
			pod.Run(t, "ip", "route", "add", "default", "via", "10.244.1.1")
			node.Run(t, "ip", "route", "add", "default", "via", "192.0.2.9")
			node.Set(t, "ipv4/ip_forward", "1")
			server.Echo(t, "10.244.0.5:8080")
			clients := map[string]*nettest.Namespace{"192.0.2.1:30080": outside, "10.96.0.7:80": pod}

			var live []*nettest.Conversation
			talk := func(when string) {
				t.Helper()
				for addr, from := range clients {
					if err := from.Converse(t, addr).Exchange(patience); err != nil {
						t.Errorf("%s, a new connection to %s: %v", when, addr, err)
					}
				}
				for _, c := range live {
					if err := c.Exchange(patience); err != nil {
						t.Errorf("%s, a connection to %s from before: %v", when, c.Addr, err)
					}
				}
			}
			for i, name := range names {
				var backend proxy.Backend
				var err error
				node.Do(t, func() {
					var chosen Mode
					if chosen, err = Choose(name); err == nil {
						backend, err = chosen.Start(t.Context(), func(string) {})
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 {
					talk("the proxy has started by " + name + " and knows no Service yet")
				}
				node.Do(t, func() { err = backend.Apply(t.Context(), table) })
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					for addr, from := range clients {
						live = append(live, from.Converse(t, addr))
					}
				}
				talk("by " + name)
			}
		})
	}
}
