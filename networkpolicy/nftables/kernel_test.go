package nftables

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/networkpolicy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

const (
	// soon is within what a packet that passes arrives, however busy the machine.
	soon = 20 * time.Second
	// silence is how long is waited for a packet that must not arrive.
	silence = 150 * time.Millisecond
)

// lab is a node with three pods on its bridge, and another machine, on which a fourth pod lives.
type lab struct {
	t       testing.TB
	node    *nettest.Namespace
	spaces  map[string]*nettest.Namespace
	world   *networkpolicy.World
	backend *Backend
}

// The addresses of the lab. Every host has the last number in both families.
var hosts = map[string][2]string{
	"a": {"10.9.0.11", "fd09::11"}, "b": {"10.9.0.12", "fd09::12"}, "c": {"10.9.0.13", "fd09::13"},
	"node": {"10.9.0.1", "fd09::1"}, "remote": {"10.8.0.2", "fd08::2"},
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if err := bridgesPassRules(); err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, node: nettest.New(t), spaces: make(map[string]*nettest.Namespace), world: networkpolicy.NewWorld("here")}
	l.spaces["node"] = l.node
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"} {
		l.node.Set(t, name, "1")
	}
	l.node.Bridge(t, "cni0", "10.9.0.1/24", "fd09::1/64")
	for _, name := range []string{"a", "b", "c"} {
		l.spaces[name] = nettest.New(t)
		l.node.Plug(t, "cni0", name, l.spaces[name], []string{hosts[name][0] + "/24", hosts[name][1] + "/64"}, []string{"10.9.0.1", "fd09::1"})
	}
	l.node.Bridge(t, "out", "10.8.0.1/24", "fd08::1/64")
	l.spaces["remote"] = nettest.New(t)
	l.node.Plug(t, "out", "remote", l.spaces["remote"], []string{"10.8.0.2/24", "fd08::2/64"}, []string{"10.8.0.1", "fd08::1"})
	for name, ns := range l.spaces {
		for _, port := range []string{"80", "81"} {
			listen(t, ns, name, port)
		}
	}
	l.node.Do(t, func() {
		var err error
		if l.backend, err = New(false); err != nil {
			t.Error(err)
		}
	})
	l.world.SetNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"name": "ns"}}})
	for name := range l.spaces {
		if name != "node" {
			l.world.SetPod(l.pod(name))
		}
	}
	return l
}

func (l *lab) pod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"pod": name}}}
	p.Spec.NodeName = "here"
	if name == "remote" {
		p.Spec.NodeName = "there"
	}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80, Protocol: "TCP"}, {Name: "web", ContainerPort: 80, Protocol: "UDP"}}}}
	for _, ip := range hosts[name] {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

// listen answers everything with the same, by TCP and UDP, in both families.
func listen(t testing.TB, ns *nettest.Namespace, name, port string) {
	t.Helper()
	var errs []error
	ns.Do(t, func() {
		tcp, err := net.Listen("tcp", ":"+port)
		errs = append(errs, err)
		udp, err := net.ListenPacket("udp", ":"+port)
		errs = append(errs, err)
		if errors.Join(errs...) != nil {
			return
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go echoTCP(tcp)
		go echoUDP(udp)
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("listen in %s: %v", name, err)
	}
}

func echoTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
	}
}

func echoUDP(conn net.PacketConn) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buffer[:n], from)
	}
}

// dial connects; over UDP nothing is sent yet.
func (l *lab) dial(from, network, addr string, timeout time.Duration) (conn net.Conn, err error) {
	l.spaces[from].Do(l.t, func() { conn, err = net.DialTimeout(network, addr, timeout) })
	return conn, err
}

// echo reports whether what is sent comes back. UDP is sent again until it does.
func echo(conn net.Conn, timeout time.Duration) bool {
	var got [1]byte
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); {
		if _, err := conn.Write([]byte("?")); err != nil && !isRefused(err) {
			return false
		}
		again := time.Now().Add(timeout / 4)
		if _, tcp := conn.(*net.TCPConn); tcp {
			again = deadline
		}
		_ = conn.SetReadDeadline(again)
		if _, err := conn.Read(got[:]); err == nil {
			return true
		}
	}
	return false
}

func isRefused(err error) bool { return err != nil && strings.Contains(err.Error(), "refused") }

// want checks whether packets of a protocol get from one to an address, and answers back.
func (l *lab) want(passes bool, from, network, addr string) {
	l.t.Helper()
	if !passes {
		if err := l.try(from, network, addr, silence); err == nil {
			l.t.Errorf("%s gets to %s over %s", from, addr, network)
		}
		return
	}
	// A new link may know its neighbours late.
	err := l.try(from, network, addr, soon)
	for deadline := time.Now().Add(soon); err != nil && time.Now().Before(deadline); err = l.try(from, network, addr, soon) {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		l.t.Errorf("%s does not get to %s over %s: %v", from, addr, network, err)
	}
}

func (l *lab) try(from, network, addr string, timeout time.Duration) error {
	conn, err := l.dial(from, network, addr, timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !echo(conn, timeout) {
		return errors.New("no answer")
	}
	return nil
}

// wantAll checks both families and both protocols between two.
func (l *lab) wantAll(passes bool, from, to, port string) {
	l.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		for _, addr := range hosts[to] {
			l.want(passes, from, network, net.JoinHostPort(addr, port))
		}
	}
}

// apply has the world enforced.
func (l *lab) apply() {
	l.t.Helper()
	var err error
	l.node.Do(l.t, func() { err = l.backend.Apply(l.world.Table()) })
	if err != nil {
		l.t.Fatal(err)
	}
}

// policy sets a policy about one pod and has it enforced.
func (l *lab) policy(name, pod string, change func(*networkingv1.NetworkPolicySpec)) {
	l.t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"pod": pod}
	change(&p.Spec)
	l.world.SetPolicy(p)
	l.apply()
}

func from(peers ...networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicyIngressRule {
	return networkingv1.NetworkPolicyIngressRule{From: peers}
}

func podNamed(name string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"pod": name}}}
}

func block(cidr string, except ...string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}
}

func port(protocol corev1.Protocol, port intstr.IntOrString) networkingv1.NetworkPolicyPort {
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port}
}

// denyIngress isolates, and allows nothing.
func denyIngress(s *networkingv1.NetworkPolicySpec) {
	s.PolicyTypes = []networkingv1.PolicyType{"Ingress"}
}

func denyEgress(s *networkingv1.NetworkPolicySpec) {
	s.PolicyTypes = []networkingv1.PolicyType{"Egress"}
}

func TestIngress(t *testing.T) {
	l := newLab(t)
	l.apply()
	for _, name := range []string{"a", "remote", "node"} {
		l.wantAll(true, name, "b", "80")
	}
	l.policy("deny", "b", denyIngress)
	l.wantAll(false, "a", "b", "80")
	l.wantAll(false, "remote", "b", "80")
	l.wantAll(true, "node", "b", "80") // as probes come
	l.wantAll(true, "b", "b", "80")
	l.wantAll(true, "b", "a", "80") // and the answers back
	l.wantAll(true, "a", "c", "80")

	l.policy("allow", "b", func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{from(podNamed("a"))}
	})
	l.wantAll(true, "a", "b", "80")
	l.wantAll(false, "c", "b", "80")
	l.wantAll(false, "remote", "b", "80")

	l.policy("allow", "b", func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{
			{From: []networkingv1.NetworkPolicyPeer{podNamed("a")}, Ports: []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromString("web")), port("UDP", intstr.FromInt(81))}},
			{Ports: []networkingv1.NetworkPolicyPort{{Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To(intstr.FromInt(70)), EndPort: ptr.To(int32(80))}}},
			{From: []networkingv1.NetworkPolicyPeer{block("10.8.0.0/16", "10.8.0.0/31"), block("fd08::/16", "fd08::/127")}},
		}
	})
	b4, b6 := hosts["b"][0], hosts["b"][1]
	for _, ip := range []string{b4, b6} {
		l.want(true, "a", "tcp", net.JoinHostPort(ip, "80"))
		l.want(false, "a", "tcp", net.JoinHostPort(ip, "81"))
		l.want(true, "a", "udp", net.JoinHostPort(ip, "80"))
		l.want(true, "a", "udp", net.JoinHostPort(ip, "81"))
		l.want(true, "c", "udp", net.JoinHostPort(ip, "80"))
		l.want(false, "c", "udp", net.JoinHostPort(ip, "81"))
		l.want(false, "c", "tcp", net.JoinHostPort(ip, "80"))
	}
	l.wantAll(true, "remote", "b", "81")

	l.world.DeletePolicy("ns", "deny")
	l.world.DeletePolicy("ns", "allow")
	l.apply()
	l.wantAll(true, "c", "b", "81")
}

func TestEgress(t *testing.T) {
	l := newLab(t)
	l.policy("deny", "a", denyEgress)
	for _, to := range []string{"b", "remote", "node"} {
		l.wantAll(false, "a", to, "80")
	}
	l.wantAll(true, "a", "a", "80")
	l.wantAll(true, "b", "a", "80") // answers pass
	l.wantAll(true, "node", "a", "80")

	l.policy("allow", "a", func(s *networkingv1.NetworkPolicySpec) {
		s.PolicyTypes = []networkingv1.PolicyType{"Egress"}
		s.Egress = []networkingv1.NetworkPolicyEgressRule{
			{To: []networkingv1.NetworkPolicyPeer{podNamed("b")}, Ports: []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromString("web"))}},
			{To: []networkingv1.NetworkPolicyPeer{block("10.9.0.1/32"), podNamed("remote")}},
		}
	})
	for _, ip := range hosts["b"] {
		l.want(true, "a", "tcp", net.JoinHostPort(ip, "80"))
		l.want(false, "a", "tcp", net.JoinHostPort(ip, "81"))
		l.want(false, "a", "udp", net.JoinHostPort(ip, "80"))
	}
	l.wantAll(true, "a", "remote", "81")
	l.want(true, "a", "tcp", "10.9.0.1:80")
	l.want(false, "a", "tcp", "[fd09::1]:80")
	l.wantAll(false, "a", "c", "80")
}

// TestServices sends packets to addresses that the node translates: the pod they get to counts, and the pod
// they come from, though it is masqueraded.
func TestServices(t *testing.T) {
	l := newLab(t)
	l.node.Run(t, "ip", "route", "add", "default", "via", "10.8.0.2")
	l.node.Run(t, "iptables", "-t", "nat", "-A", "PREROUTING", "-d", "10.96.0.1", "-p", "tcp", "-j", "DNAT", "--to-destination", "10.9.0.12:80")
	l.node.Run(t, "iptables", "-t", "nat", "-A", "OUTPUT", "-d", "10.96.0.1", "-p", "tcp", "-j", "DNAT", "--to-destination", "10.9.0.12:80")
	l.node.Run(t, "iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
	l.policy("b", "b", func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{from(podNamed("a"))}
		s.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromInt(80))}
	})
	l.policy("a", "a", func(s *networkingv1.NetworkPolicySpec) {
		s.PolicyTypes = []networkingv1.PolicyType{"Egress"}
		s.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{podNamed("b")}, Ports: []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromInt(80))}}}
	})
	const service = "10.96.0.1:8080"
	l.want(true, "a", "tcp", service)
	l.want(false, "c", "tcp", service)
	l.want(false, "remote", "tcp", service)
	l.want(true, "node", "tcp", service)
	l.want(true, "b", "tcp", service) // itself
	l.policy("a", "a", denyEgress)
	l.want(false, "a", "tcp", service)
}

// TestEstablished changes policies under a connection.
func TestEstablished(t *testing.T) {
	l := newLab(t)
	l.apply()
	for _, ip := range hosts["b"] {
		conn, err := l.dial("a", "tcp", net.JoinHostPort(ip, "80"), soon)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if !echo(conn, soon) {
			t.Fatal("no echo")
		}
		l.policy("deny", "b", denyIngress)
		if echo(conn, silence) {
			t.Error("a connection outlives its permission")
		}
		l.world.DeletePolicy("ns", "deny")
		l.apply()
		// What was sent meanwhile is sent again by the kernel.
		_ = conn.SetReadDeadline(time.Now().Add(soon))
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Errorf("the connection does not go on: %v", err)
		}
	}
}

// TestReplaced applies by a new backend, as a new process does, while packets come: none passes.
func TestReplaced(t *testing.T) {
	l := newLab(t)
	l.policy("deny", "b", denyIngress)
	conn, err := l.dial("a", "udp", hosts["b"][0]+":80", soon)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = conn.Write([]byte("!"))
			}
		}
	}()
	for range 20 {
		l.backend = &Backend{entrances: l.backend.entrances}
		l.apply()
	}
	close(stop)
	<-stopped
	_ = conn.SetReadDeadline(time.Now().Add(silence))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a packet passed while rules were replaced")
	}
	if left := l.node.Run(t, "nft", "list", "tables"); strings.Contains(left, standIn) {
		t.Errorf("a table that stood in is left: %s", left)
	}
}

// TestIntact takes rules away as other programs do.
func TestIntact(t *testing.T) {
	l := newLab(t)
	l.policy("deny", "b", denyIngress)
	l.policy("allow", "b", func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{from(podNamed("a"))}
	})
	l.wantIntact(true)
	for _, damage := range [][]string{
		{"flush", "ruleset"},
		{"delete", "table", "ip", tableName},
		{"flush", "table", "ip", tableName},
		{"flush", "map", "ip", tableName, "ingress"},
		{"flush", "map", "ip6", tableName, "class"},
		{"flush", "chain", "ip", tableName, "forward"},
	} {
		l.node.Run(t, "nft", damage...)
		l.wantIntact(false)
		l.apply()
		l.wantIntact(true)
	}
	l.wantAll(false, "c", "b", "80")
	l.wantAll(true, "a", "b", "80")
	l.node.Run(t, "nft", "add", "table", "ip", "another")
	l.node.Run(t, "nft", "list", "ruleset") // other people's tools can read what is there
	l.wantIntact(true)
	l.node.Do(t, func() {
		if err := errors.Join(Remove(), Remove()); err != nil {
			t.Error(err)
		}
	})
	if left := strings.TrimSpace(l.node.Run(t, "nft", "list", "tables")); left != "table ip another" {
		t.Errorf("after Remove there are %q", left)
	}
	l.wantAll(true, "c", "b", "80")
}

func (l *lab) wantIntact(want bool) {
	l.t.Helper()
	var got bool
	var err error
	l.node.Do(l.t, func() { got, err = l.backend.Intact() })
	if err != nil || got != want {
		l.t.Errorf("Intact is %v, want %v; error %v", got, want, err)
	}
}

// TestLinkLocal reaches for a pod past policies, by an address that none of them knows.
func TestLinkLocal(t *testing.T) {
	l := newLab(t)
	l.policy("deny", "b", denyIngress)
	out := l.spaces["b"].Run(t, "ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
	fields := strings.Fields(out)
	if len(fields) < 4 {
		t.Fatalf("no link-local address: %q", out)
	}
	addr := netip.MustParsePrefix(fields[3]).Addr()
	l.want(false, "a", "udp", fmt.Sprintf("[%s%%eth0]:80", addr))
}

// TestSmallChanges looks that a change is as small as what changed.
func TestSmallChanges(t *testing.T) {
	l := newLab(t)
	l.policy("allow", "b", func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{from(podNamed("a"))}
	})
	before := l.node.Run(t, "nft", "-a", "list", "ruleset")
	p := l.pod("late")
	p.Labels["pod"] = "a" // of a class that is there
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.9.0.99"}}
	l.world.SetPod(p)
	l.apply()
	after := l.node.Run(t, "nft", "-a", "list", "ruleset")
	lines := make(map[string]bool)
	for line := range strings.Lines(before) {
		lines[line] = true
	}
	var changed []string
	for line := range strings.Lines(after) {
		if !lines[line] {
			changed = append(changed, strings.TrimSpace(line))
		}
	}
	// Chains and sets have their handles still; one element is new.
	if len(changed) > 3 || !strings.Contains(strings.Join(changed, " "), "10.9.0.99") {
		t.Errorf("changed lines are %q", changed)
	}
}

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "needs root, as make test has: it makes network namespaces")
		os.Exit(1)
	}
	os.Exit(m.Run())
}
