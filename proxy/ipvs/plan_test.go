package ipvs

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
)

func addr(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

func tcp(text string) place { return place{unix.IPPROTO_TCP, addr(text)} }

// rule is one of the cluster IP 10.96.0.7 with a near endpoint and a far one.
func rule(name string, port uint16, more ...proxy.Front) *proxy.Rule {
	clusterIP := proxy.Front{Kind: proxy.ClusterIP, Addr: netip.AddrPortFrom(netip.MustParseAddr("10.96.0.7"), port)}
	return &proxy.Rule{
		Name: name, Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol, Fronts: append([]proxy.Front{clusterIP}, more...),
		Cluster: []netip.AddrPort{addr("10.244.0.5:8080"), addr("10.244.1.5:8080")}, Local: []netip.AddrPort{addr("10.244.0.5:8080")},
		Serving: []netip.AddrPort{addr("10.244.0.5:8080"), addr("10.244.1.5:8080")},
	}
}

func front(kind proxy.FrontKind, text string, local bool) proxy.Front {
	return proxy.Front{Kind: kind, Addr: addr(text), Local: local}
}

func internalLocal(r *proxy.Rule) *proxy.Rule {
	r.Fronts[0].Local = true
	return r
}

// TestPlan looks at where the two sets of endpoints have their virtual servers, and
// at what the rules are told that lead there.
func TestPlan(t *testing.T) {
	balancer := front(proxy.LoadBalancer, "203.0.113.6:80", true)
	sticky := rule("ns/sticky", 80)
	sticky.Sticky = time.Hour
	gone := rule("ns/web", 80, balancer)
	gone.Local = nil
	for name, test := range map[string]struct {
		rule           *proxy.Rule
		all, own       string // virtual servers
		cluster, local []netip.AddrPort
	}{
		"cluster IP":                      {rule: rule("ns/web", 80), all: "10.96.0.7:80", cluster: []netip.AddrPort{addr("10.96.0.7:80")}},
		"internal traffic stays":          {rule: internalLocal(rule("ns/web", 80)), own: "10.96.0.7:80", cluster: []netip.AddrPort{addr("10.96.0.7:80")}, local: []netip.AddrPort{addr("10.96.0.7:80")}},
		"external traffic stays":          {rule: rule("ns/web", 80, balancer), all: "10.96.0.7:80", own: "10.96.0.7:65535", cluster: []netip.AddrPort{addr("10.96.0.7:80")}, local: []netip.AddrPort{addr("10.96.0.7:65535")}},
		"both stay":                       {rule: internalLocal(rule("ns/web", 80, balancer)), all: "10.96.0.7:65535", own: "10.96.0.7:80", cluster: []netip.AddrPort{addr("10.96.0.7:65535")}, local: []netip.AddrPort{addr("10.96.0.7:80")}},
		"external, with that port":        {rule: rule("ns/web", 65535, balancer), all: "10.96.0.7:65535", own: "10.96.0.7:65534", cluster: []netip.AddrPort{addr("10.96.0.7:65535")}, local: []netip.AddrPort{addr("10.96.0.7:65534")}},
		"external, none here":             {rule: gone, all: "10.96.0.7:80", own: "10.96.0.7:65535", cluster: []netip.AddrPort{addr("10.96.0.7:80")}},
		"clients stay with endpoints":     {rule: sticky, cluster: sticky.Cluster, local: sticky.Local},
		"the cluster IP is of no Service": {rule: &proxy.Rule{Name: "ns/robbed", Cluster: gone.Cluster, Fronts: []proxy.Front{balancer}}, cluster: gone.Cluster},
	} {
		t.Run(name, func(t *testing.T) {
			table := &proxy.Table{Rules: []*proxy.Rule{test.rule}}
			planned := plan(table, nil)
			var all, own netip.AddrPort
			if test.all != "" {
				all = addr(test.all)
			}
			if test.own != "" {
				own = addr(test.own)
			}
			if p := planned[keyOf(test.rule)]; p.all.addr != all || p.own.addr != own {
				t.Errorf("virtual servers: got %v and %v, want %v and %v", p.all.addr, p.own.addr, all, own)
			}
			led := pass(table, planned, nil, nil).Rules[0]
			if !reflect.DeepEqual(led.Cluster, test.cluster) || !reflect.DeepEqual(led.Local, test.local) {
				t.Errorf("rules lead to %v and %v, want %v and %v", led.Cluster, led.Local, test.cluster, test.local)
			}
		})
	}
}

// TestSparePorts has Services share a cluster IP's ports: the second server of one
// stays where it is, until a Service has the port itself.
func TestSparePorts(t *testing.T) {
	balancer := front(proxy.LoadBalancer, "203.0.113.6:80", true)
	first, second := rule("ns/a:one", 80, balancer), rule("ns/a:two", 81, balancer)
	planned := plan(&proxy.Table{Rules: []*proxy.Rule{first, second}}, nil)
	if one, two := planned[keyOf(first)].own, planned[keyOf(second)].own; one != tcp("10.96.0.7:65535") || two != tcp("10.96.0.7:65534") {
		t.Fatalf("got %v and %v", one, two)
	}
	planned = plan(&proxy.Table{Rules: []*proxy.Rule{second}}, planned)
	if two := planned[keyOf(second)].own; two != tcp("10.96.0.7:65534") {
		t.Errorf("without the other it moved to %v", two)
	}
	planned = plan(&proxy.Table{Rules: []*proxy.Rule{second, rule("ns/a:z", 65534)}}, planned)
	if two := planned[keyOf(second)].own; two != tcp("10.96.0.7:65535") {
		t.Errorf("beside a Service with its port it is %v", two)
	}
}

// TestPassKeepsRules has a table come again with a change to one of two Rules: the
// other is the same pointer, so that its rules are not compared.
func TestPassKeepsRules(t *testing.T) {
	node := front(proxy.NodePort, "0.0.0.0:30080", false)
	node.Addr = netip.AddrPortFrom(netip.Addr{}, 30080)
	one, two := rule("ns/one", 80, node), rule("ns/two", 81)
	table := &proxy.Table{Rules: []*proxy.Rule{one, two}}
	planned := plan(table, nil)
	passed := pass(table, planned, nil, nil)
	if len(passed.Rules) != 3 || passed.Rules[1].Name != "ns/one at the loopback" || passed.Rules[1].Fronts[0].Addr != addr("127.0.0.1:30080") ||
		!reflect.DeepEqual(passed.Rules[1].Cluster, one.Cluster) {
		t.Fatalf("got %+v, want two Rules and one for the loopback", passed.Rules)
	}
	changed := rule("ns/two", 82)
	table = &proxy.Table{Rules: []*proxy.Rule{one, changed}}
	next := plan(table, planned)
	again := pass(table, next, planned, passed)
	if again.Rules[0] != passed.Rules[0] || again.Rules[1] != passed.Rules[1] || again.Rules[2] == passed.Rules[2] {
		t.Errorf("got %p, want the first two of %p", again.Rules, passed.Rules)
	}
}
