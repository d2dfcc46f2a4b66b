package iptables

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
)

func addr(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

func webService() *proxy.Rule {
	return &proxy.Rule{
		Name: "default/web", Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol,
		Fronts: []proxy.Front{
			{Kind: proxy.ClusterIP, Addr: addr("10.96.0.7:80")},
			{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30080)},
		},
		Cluster: []netip.AddrPort{addr("10.244.0.5:8080"), addr("10.244.1.5:8080")},
	}
}

func table(rules ...*proxy.Rule) *proxy.Table {
	return &proxy.Table{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Rules: rules}
}

func TestRender(t *testing.T) {
	sticky, refused, own := webService(), webService(), webService()
	sticky.Sticky = 3 * time.Hour
	own.Hairpin = []netip.Addr{own.Cluster[0].Addr()}
	refused.Cluster = nil
	for name, test := range map[string]struct {
		rule        *proxy.Rule
		nat, filter []string // lines that must be there
		natNot      string   // text that must not
	}{
		"two endpoints": {
			rule: webService(),
			nat: []string{
				`-A KUBE-SERVICES -m comment --comment "default/web cluster IP" -m tcp -p tcp -d 10.96.0.7 --dport 80 -j KUBE-SVC-LOLE4ISW44XBNF3G`,
				`-A KUBE-NODEPORTS -m comment --comment "default/web" -m tcp -p tcp --dport 30080 -j KUBE-EXT-LOLE4ISW44XBNF3G`,
				`-A KUBE-SVC-LOLE4ISW44XBNF3G -m comment --comment "default/web cluster IP" ! -s 10.244.0.0/16 -m tcp -p tcp -d 10.96.0.7 --dport 80 -j KUBE-MARK-MASQ`,
				`-m statistic --mode random --probability 0.5000000000 -m tcp -p tcp -j DNAT --to-destination 10.244.0.5:8080`,
				`-A KUBE-SVC-LOLE4ISW44XBNF3G -m comment --comment "default/web -> 10.244.1.5:8080" -m tcp -p tcp -j DNAT --to-destination 10.244.1.5:8080`,
			},
			natNot: "KUBE-SEP-",
		},
		"two endpoints, one of this node": {
			rule: own,
			nat: []string{
				`-m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-`,
				`-m comment --comment "default/web" -s 10.244.0.5 -j KUBE-MARK-MASQ`,
				`-A KUBE-SVC-LOLE4ISW44XBNF3G -m comment --comment "default/web -> 10.244.1.5:8080" -m tcp -p tcp -j DNAT --to-destination 10.244.1.5:8080`,
			},
			natNot: "-m recent",
		},
		"session affinity": {
			rule: sticky,
			nat:  []string{"--rcheck --seconds 10800 --reap", "--set -m tcp -p tcp -j DNAT --to-destination 10.244.0.5:8080"},
		},
		"no endpoints": {
			rule: refused,
			filter: []string{
				`-A KUBE-SERVICES -m comment --comment "default/web has no endpoints" -m tcp -p tcp -d 10.96.0.7 --dport 80 -j REJECT`,
				`-A KUBE-EXTERNAL-SERVICES -m comment --comment "default/web has no endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 30080 -j REJECT`,
			},
			natNot: "KUBE-SVC-",
		},
	} {
		t.Run(name, func(t *testing.T) {
			rendered := render(table(test.rule), corev1.IPv4Protocol)
			nat, filter := rendered[0], rendered[1]
			for text, want := range map[string][]string{nat.text(nil): test.nat, filter.text(nil): test.filter} {
				for _, line := range want {
					if !strings.Contains(text, line) {
						t.Errorf("no line %q in:\n%s", line, text)
					}
				}
			}
			if test.natNot != "" && strings.Contains(nat.text(nil), test.natNot) {
				t.Errorf("%q in:\n%s", test.natNot, nat.text(nil))
			}
		})
	}
}
