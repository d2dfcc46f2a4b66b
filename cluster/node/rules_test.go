package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/iptables"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// refusal is how long a connection is tried that must not succeed. On a path
// inside one kernel it would within a millisecond.
const refusal = 300 * time.Millisecond

// site is a node with two pods, of which one could as well be another node's, and
// a neighbour that is no part of the cluster.
type site struct {
	config                      Config
	node, pod, other, neighbour *nettest.Namespace
	keepers                     keepers
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{
		config: Config{
			PodCIDRs: family.MustParse("10.244.0.0/16"), ServiceCIDRs: family.MustParse("10.96.0.0/16"),
			NodeCIDRs: family.MustParse("172.30.0.0/24"),
		},
		node: nettest.New(t), pod: nettest.New(t), other: nettest.New(t), neighbour: nettest.New(t),
	}
	s.keepers = newKeepers(s.config)
	nettest.Join(t, s.node, "pod", "10.244.0.1/24", s.pod, "eth0", "10.244.0.5/24")
	nettest.Join(t, s.node, "other", "10.244.1.1/24", s.other, "eth0", "10.244.1.5/24")
	nettest.Join(t, s.node, "eth0", "192.0.2.1/24", s.neighbour, "eth0", "192.0.2.9/24")
	s.pod.Run(t, "ip", "route", "add", "default", "via", "10.244.0.1")
	s.other.Run(t, "ip", "route", "add", "default", "via", "10.244.1.1")
	s.node.Run(t, "ip", "route", "add", "default", "via", "192.0.2.9")
	s.node.Set(t, "ipv4/ip_forward", "1")
	s.node.Set(t, "ipv4/conf/all/rp_filter", "0")
	s.node.Set(t, "ipv4/conf/all/route_localnet", "1")
	return s
}

func (s *site) apply(t *testing.T) {
	t.Helper()
	var err error
	s.node.Do(t, func() { err = s.keepers.apply(t.Context(), s.config) })
	if err != nil {
		t.Fatal(err)
	}
}

// attackers are those that are not the node, with their address and the node's.
func (s *site) attackers() map[string]struct {
	from      *nettest.Namespace
	own, node string
} {
	type attacker = struct {
		from      *nettest.Namespace
		own, node string
	}
	return map[string]attacker{
		"pod":       {s.pod, "10.244.0.5", "10.244.0.1"},
		"neighbour": {s.neighbour, "192.0.2.9", "192.0.2.1"},
	}
}

// TestForgedLoopback sends packets with addresses of the loopback over the wire.
// Without the rules they arrive, which shows that they could.
func TestForgedLoopback(t *testing.T) {
	s := newSite(t)
	listener := s.node.ListenUDP(t, "0.0.0.0:4000")
	// first is the first of two packets that arrives: the forged one or, if that
	// was dropped, an honest one that took the same way after it.
	first := func(t *testing.T, from *nettest.Namespace, own, node, forgedFrom, forgedTo string) string {
		t.Helper()
		send := func(from_, to, text string) {
			from.Datagram(t, "eth0", node, netip.MustParseAddrPort(from_+":5000"), netip.MustParseAddrPort(to+":4000"), text)
		}
		send(forgedFrom, forgedTo, "forged")
		send(own, node, "honest")
		var text string
		for buffer := make([]byte, 100); ; {
			_ = listener.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, err := listener.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			if text == "" {
				text = string(buffer[:n])
			}
			if string(buffer[:n]) == "honest" {
				return text
			}
		}
	}
	check := func(want string) {
		for name, a := range s.attackers() {
			for what, forged := range map[string][2]string{
				"to the loopback":               {a.own, "127.0.0.1"},
				"from one loopback to another":  {"127.0.0.2", "127.0.0.1"},
				"from the loopback to the node": {"127.0.0.2", a.node},
			} {
				t.Run(want+"/"+name+" "+what, func(t *testing.T) {
					if got := first(t, a.from, a.own, a.node, forged[0], forged[1]); got != want {
						t.Errorf("got the %s packet first, want the %s", got, want)
					}
				})
			}
		}
	}
	check("forged")
	s.apply(t)
	check("honest")
}

// TestRouteToLoopback connects to 127.0.0.1 by a route that has the node as the
// gateway, as anybody on its network can.
func TestRouteToLoopback(t *testing.T) {
	s := newSite(t)
	s.node.ListenTCP(t, "127.0.0.1:4001", "loopback")
	for _, a := range s.attackers() {
		a.from.Set(t, "ipv4/conf/all/route_localnet", "1")
		a.from.Run(t, "ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
		a.from.Run(t, "ip", "route", "add", "127.0.0.1", "via", a.node, "src", a.own)
	}
	for name, a := range s.attackers() {
		if got, err := a.from.Ask(t, "127.0.0.1:4001", 20*time.Second); got != "loopback" {
			t.Fatalf("%s, without the rules: got %q (%v), want to be let in, or the test shows nothing", name, got, err)
		}
	}
	s.apply(t)
	for name, a := range s.attackers() {
		if got, err := a.from.Ask(t, "127.0.0.1:4001", refusal); err == nil {
			t.Errorf("%s reached what listens on the node's loopback: %q", name, got)
		}
	}
	if got, err := s.node.Ask(t, "127.0.0.1:4001", 20*time.Second); got != "loopback" {
		t.Errorf("the node itself: got %q (%v), want what listens on its loopback", got, err)
	}
}

// TestAnswerToServiceAddress has the node ask itself from the address of a Service, as it does where those are
// local. Its answers arrive, while what no Service has is still refused.
func TestAnswerToServiceAddress(t *testing.T) {
	s := newSite(t)
	s.apply(t)
	s.node.Run(t, "ip", "route", "add", "local", "10.96.0.1", "dev", "lo")
	s.node.ListenTCP(t, "192.0.2.1:6443", "node")
	var err error
	s.node.Do(t, func() {
		var conn net.Conn
		dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 96, 0, 1)}}
		if conn, err = dialer.DialContext(t.Context(), "tcp", "192.0.2.1:6443"); err == nil {
			err = conn.Close()
		}
	})
	if err != nil {
		t.Errorf("from the address of a Service: %v", err)
	}
	if _, err := s.node.Ask(t, "10.96.0.9:80", 5*time.Second); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("at an address that no Service has: %v, want %v", err, syscall.EHOSTUNREACH)
	}
}

// TestForwarding has a firewall, as Docker sets one up, that forwards nothing by
// itself: pods reach each other and the world, and node ports answer.
func TestForwarding(t *testing.T) {
	s := newSite(t)
	s.node.Run(t, "iptables", "-P", "FORWARD", "DROP")
	s.other.ListenTCP(t, "10.244.1.5:8080", "other")
	s.neighbour.ListenTCP(t, "192.0.2.9:8080", "neighbour")
	if got, err := s.pod.Ask(t, "10.244.1.5:8080", refusal); err == nil {
		t.Fatalf("without the rules: got %q, want nothing to be forwarded", got)
	}
	s.apply(t)
	var err error
	backend := iptables.New()
	table := &proxy.Table{Pods: s.config.PodCIDRs, Rules: []*proxy.Rule{{
		Name: "default/web", Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol,
		Fronts: []proxy.Front{
			{Kind: proxy.ClusterIP, Addr: netip.MustParseAddrPort("10.96.0.7:80")},
			{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30080), Local: true},
		},
		Cluster: []netip.AddrPort{netip.MustParseAddrPort("10.244.1.5:8080")},
		Local:   []netip.AddrPort{netip.MustParseAddrPort("10.244.1.5:8080")},
	}}}
	s.node.Do(t, func() { err = backend.Apply(t.Context(), table) })
	if err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]struct {
		from       *nettest.Namespace
		addr, want string
	}{
		"pod to pod":                     {s.pod, "10.244.1.5:8080", "other"},
		"pod to the world":               {s.pod, "192.0.2.9:8080", "neighbour"},
		"pod to a Service":               {s.pod, "10.96.0.7:80", "other"},
		"pod to a node port":             {s.pod, "192.0.2.1:30080", "other"},
		"neighbour to a node port":       {s.neighbour, "192.0.2.1:30080", "other"},
		"node to a Service":              {s.node, "10.96.0.7:80", "other"},
		"node to a node port":            {s.node, "192.0.2.1:30080", "other"},
		"node to a port of the loopback": {s.node, "127.0.0.1:30080", "other"},
	} {
		if got, err := ask.from.Ask(t, ask.addr, 20*time.Second); got != ask.want {
			t.Errorf("%s: got %q (%v), want %q", name, got, err, ask.want)
		}
	}
}

// plainRules leaves out what iptables-save says of times and counts.
func plainRules(saved string) string {
	return regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]`).ReplaceAllString(saved, "")
}

// TestKeepRules flushes the tables while a node runs.
func TestKeepRules(t *testing.T) {
	s := newSite(t)
	s.apply(t)
	saved := func() string { return plainRules(s.node.Run(t, "iptables-save")) }
	before := saved()
	for _, table := range []string{"mangle", "nat", "filter"} {
		s.node.Run(t, "iptables", "-t", table, "-F")
	}
	if saved() == before {
		t.Fatal("nothing was flushed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.node.Do(t, func() { keepRules(ctx, s.config, s.keepers, 10*time.Millisecond, slog.New(slog.DiscardHandler)) })
	}()
	for saved() != before {
		if ctx.Err() != nil {
			t.Fatalf("got\n%s\nwant\n%s", saved(), before)
		}
	}
	cancel()
	<-ended
	var err error
	s.node.Do(t, func() { err = removeRules() })
	if err != nil {
		t.Fatal(err)
	}
	if left := regexp.MustCompile(`(?m)^-A.*|^:(SKIFF|KUBE).*`).FindString(saved()); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// TestRulesBeforeSettings cannot make the rules: then the door stays closed.
func TestRulesBeforeSettings(t *testing.T) {
	n := nettest.New(t)
	bin := t.TempDir()
	for _, program := range []string{"iptables", "iptables-save", "iptables-restore"} {
		if err := os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	var err error
	var localnet string
	n.Do(t, func() {
		_, err = prepare(t.Context(), Config{Dir: t.TempDir(), PodCIDRs: family.MustParse("10.244.0.0/16")})
		localnet, _ = readSetting("/proc/sys/net/ipv4/conf/all/route_localnet")
	})
	if failure := new(exec.ExitError); !errors.As(err, &failure) {
		t.Errorf("got %v, want that iptables failed", err)
	}
	if localnet != "0" {
		t.Errorf("route_localnet: got %q, want 0", localnet)
	}
}
