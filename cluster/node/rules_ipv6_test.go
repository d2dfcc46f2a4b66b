package node

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/iptables"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// TestIPv6 has a node of IPv6 alone, whose neighbour knows no way to its pods, and
// forwards nothing by itself: pods reach each other, Services and the world, and what
// no Service has is refused. Afterwards nothing is left.
func TestIPv6(t *testing.T) {
	c := Config{
		PodCIDRs: family.MustParse("fd00:10:244::/56"), ServiceCIDRs: family.MustParse("fd00:10:96::/112"), NodeCIDRs: family.MustParse("fd00:172:30::/64"),
	}
	node, pod, other, neighbour := nettest.New(t), nettest.New(t), nettest.New(t), nettest.New(t)
	nettest.Join(t, node, "pod", "fd00:10:244:0::1/64", pod, "eth0", "fd00:10:244:0::5/64")
	nettest.Join(t, node, "other", "fd00:10:244:1::1/64", other, "eth0", "fd00:10:244:1::5/64")
	nettest.Join(t, node, "eth0", "2001:db8::1/64", neighbour, "eth0", "2001:db8::9/64")
	pod.Run(t, "ip", "-6", "route", "add", "default", "via", "fd00:10:244:0::1")
	other.Run(t, "ip", "-6", "route", "add", "default", "via", "fd00:10:244:1::1")
	node.Run(t, "ip", "-6", "route", "add", "default", "via", "2001:db8::9")
	node.Run(t, "ip6tables", "-P", "FORWARD", "DROP")
	before := plainRules(node.Run(t, "ip6tables-save", "-t", "nat"))

	const users = "/a/cluster"
	var err error
	changed := register{file: t.TempDir() + "/kernel.json"}
	keepers := newKeepers(c)
	node.Do(t, func() {
		var wanted []setting
		if wanted, err = nodeSettings(c); err == nil {
			err = errors.Join(changed.set(users, wanted), keepers.apply(t.Context(), c))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"all/forwarding": "1", "eth0/accept_ra": "2"} {
		if got := strings.TrimSpace(node.Run(t, "cat", "/proc/sys/net/ipv6/conf/"+file)); got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	backend := iptables.New()
	endpoint := []netip.AddrPort{netip.MustParseAddrPort("[fd00:10:244:1::5]:8080")}
	table := &proxy.Table{Pods: c.PodCIDRs, Rules: []*proxy.Rule{{
		Name: "default/web", Protocol: corev1.ProtocolTCP, Family: corev1.IPv6Protocol,
		Fronts: []proxy.Front{
			{Kind: proxy.ClusterIP, Addr: netip.MustParseAddrPort("[fd00:10:96::7]:80")},
			{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30080)},
		},
		Cluster: endpoint, Local: endpoint, Hairpin: []netip.Addr{endpoint[0].Addr()},
	}, {
		Name: "default/none", Protocol: corev1.ProtocolTCP, Family: corev1.IPv6Protocol,
		Fronts: []proxy.Front{{Kind: proxy.ClusterIP, Addr: netip.MustParseAddrPort("[fd00:10:96::8]:80")}},
	}}}
	node.Do(t, func() { err = backend.Apply(t.Context(), table) })
	if err != nil {
		t.Fatal(err)
	}
	other.ListenTCP(t, "[fd00:10:244:1::5]:8080", "other")
	neighbour.ListenTCP(t, "[2001:db8::9]:8080", "neighbour")
	for name, ask := range map[string]struct {
		from       *nettest.Namespace
		addr, want string
	}{
		"pod to pod":               {pod, "[fd00:10:244:1::5]:8080", "other"},
		"pod to the world":         {pod, "[2001:db8::9]:8080", "neighbour"},
		"pod to a Service":         {pod, "[fd00:10:96::7]:80", "other"},
		"pod to its own Service":   {other, "[fd00:10:96::7]:80", "other"},
		"pod to a node port":       {pod, "[2001:db8::1]:30080", "other"},
		"neighbour to a node port": {neighbour, "[2001:db8::1]:30080", "other"},
		"node to a Service":        {node, "[fd00:10:96::7]:80", "other"},
	} {
		if got, err := ask.from.Ask(t, ask.addr, 20*time.Second); got != ask.want {
			t.Errorf("%s: got %q (%v), want %q", name, got, err, ask.want)
		}
	}
	for addr, want := range map[string]error{"[fd00:10:96::8]:80": unix.ECONNREFUSED, "[fd00:10:96::9]:80": unix.EHOSTUNREACH} {
		if got, err := pod.Ask(t, addr, 20*time.Second); !errors.Is(err, want) {
			t.Errorf("%s: got %q (%v), want %v", addr, got, err, want)
		}
	}

	node.Do(t, func() { err = errors.Join(backend.Remove(t.Context()), removeRules(), changed.restore(users)) })
	if err != nil {
		t.Fatal(err)
	}
	if left := node.Run(t, "ip6tables-save"); strings.Contains(left, "KUBE-") || strings.Contains(left, "SKIFF-") {
		t.Errorf("left of the rules:\n%s", left)
	}
	if after := plainRules(node.Run(t, "ip6tables-save", "-t", "nat")); after != before {
		t.Errorf("afterwards:\n%s\nbefore:\n%s", after, before)
	}
	for file, want := range map[string]string{"all/forwarding": "0", "eth0/accept_ra": "1"} {
		if got := strings.TrimSpace(node.Run(t, "cat", "/proc/sys/net/ipv6/conf/"+file)); got != want {
			t.Errorf("afterwards %s is %s, want %s", file, got, want)
		}
	}
}
