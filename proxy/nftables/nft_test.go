package nftables_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
	"github.com/skiff-k8s/skiff/proxy/nftables"
)

// TestNft has the program nft list tables with Services of all kinds. A version that
// cannot read a rule ends with an assertion, and shows no rule of any program then.
func TestNft(t *testing.T) {
	n := nettest.New(t)
	var err error
	n.Do(t, func() { err = nftables.New().Apply(t.Context(), all()) })
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/nft.txt")
	if err != nil {
		t.Fatal(err)
	}
	ruleset := n.Run(t, "nft", "list", "ruleset")
	if got := listed(ruleset); got != string(want) {
		t.Errorf("testdata/nft.txt has\n%s\nnft list ruleset has\n%s", want, got)
	}
	one := n.Run(t, "nft", "list", "table", "ip", "skiff-proxy") + n.Run(t, "nft", "list", "table", "ip6", "skiff-proxy")
	if got := listed(one); got != string(want) {
		t.Errorf("each table alone:\n%s", got)
	}
	var all struct {
		Nftables []map[string]any
	}
	if err := json.Unmarshal([]byte(n.Run(t, "nft", "-j", "list", "ruleset")), &all); err != nil {
		t.Fatal(err)
	}
	inJSON, inText := make(map[string]int), make(map[string]int)
	for _, object := range all.Nftables {
		for kind := range object {
			inJSON[kind]++
		}
	}
	for _, found := range regexp.MustCompile(`(?m)^\t?(table|map|set|chain) `).FindAllStringSubmatch(ruleset, -1) {
		inText[found[1]]++
	}
	for kind, want := range inText {
		if inJSON[kind] != want {
			t.Errorf("as JSON: got %d of the kind %s, want %d", inJSON[kind], kind, want)
		}
	}
}

// listed is what nft prints with the elements of each set in order, one a line.
func listed(text string) string {
	var lines, elements []string
	for line := range strings.Lines(text) {
		first := strings.Contains(line, "elements = {")
		if !first && elements == nil {
			lines = append(lines, line)
			continue
		}
		last := strings.HasSuffix(line, "}\n")
		elements = append(elements, "\t\t\t"+strings.Trim(strings.TrimPrefix(strings.TrimSpace(line), "elements = {"), " ,}")+"\n")
		if last {
			slices.Sort(elements)
			lines, elements = append(lines, elements...), nil
		}
	}
	return strings.Join(lines, "")
}

// all has Services of all kinds.
func all() *proxy.Table {
	t := table()
	t.Pods = append(t.Pods, netip.MustParsePrefix("fd44::/48"))
	t.Services = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/112")}
	for _, f := range []struct {
		family                              corev1.IPFamily
		cluster, balancer, external, client string
		endpoints                           []netip.AddrPort
	}{
		{corev1.IPv4Protocol, "10.96.0.7:80", "203.0.113.6:80", "203.0.113.5:80", "192.0.2.0/24", []netip.AddrPort{addr("10.244.0.5:8080"), addr("10.244.1.5:8080")}},
		{corev1.IPv6Protocol, "[fd96::7]:80", "[fd00:7::6]:80", "[fd00:7::5]:80", "fd00:9::/64", []netip.AddrPort{addr("[fd44:0:0:1::5]:8080"), addr("[fd44:0:0:2::5]:8080")}},
	} {
		whole := &proxy.Rule{
			Name: "ns/whole:tcp", Protocol: corev1.ProtocolTCP, Family: f.family, Cluster: f.endpoints, Local: f.endpoints[:1],
			Hairpin: []netip.Addr{f.endpoints[0].Addr()},
			Fronts: []proxy.Front{
				{Kind: proxy.ClusterIP, Addr: addr(f.cluster)},
				{Kind: proxy.LoadBalancer, Addr: addr(f.balancer), Allow: []netip.Prefix{netip.MustParsePrefix(f.client)}},
				{Kind: proxy.ExternalIP, Addr: addr(f.external), Local: true},
				{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30080), Local: true},
			},
		}
		t.Rules = append(t.Rules, whole)
		sticky := *whole
		sticky.Name, sticky.Protocol, sticky.Sticky = "ns/whole:udp", corev1.ProtocolUDP, 3*time.Hour
		none := *whole
		none.Name, none.Protocol, none.Cluster, none.Local, none.Hairpin = "ns/whole:sctp", corev1.ProtocolSCTP, nil, nil, nil
		t.Rules = append(t.Rules, &sticky, &none)
	}
	return t
}
