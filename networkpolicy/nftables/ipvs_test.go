package nftables

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// newIPVSLab is a lab whose rules are those beside IPVS.
func newIPVSLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.backend.entrances = entrances(true)
	return l
}

// sendsFor reports whether a datagram arrives that the node sends with the address of another, as IPVS does with
// those that it sends on.
func (l *lab) sendsFor(from, to, number string, family int) bool {
	l.t.Helper()
	var receiver net.PacketConn
	var err error
	l.spaces[to].Do(l.t, func() { receiver, err = net.ListenPacket("udp", net.JoinHostPort(hosts[to][family], number)) })
	if err != nil {
		l.t.Fatal(err)
	}
	defer receiver.Close()
	dialer := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(hosts[from][family]), 0)),
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			level, option := unix.SOL_IP, unix.IP_TRANSPARENT
			if family == 1 {
				level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
			}
			failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
			return errors.Join(failed, err)
		},
	}
	var sender net.Conn
	l.node.Do(l.t, func() { sender, err = dialer.DialContext(l.t.Context(), "udp", receiver.LocalAddr().String()) })
	if err != nil {
		l.t.Fatal(err)
	}
	defer sender.Close()
	// What a rule drops is an error of the sender's.
	if _, err := sender.Write([]byte("?")); err != nil {
		return false
	}
	_ = receiver.SetReadDeadline(time.Now().Add(soon))
	_, _, err = receiver.ReadFrom(make([]byte, 10))
	return err == nil
}

// TestOutput judges what the node sends on for pods by the way of its own packets.
func TestOutput(t *testing.T) {
	for family, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) {
			l := newIPVSLab(t)
			l.apply()
			sends := func(want bool, from, number, when string) {
				t.Helper()
				if got := l.sendsFor(from, "b", number, family); got != want {
					t.Errorf("%s: from %s to port %s of b: got %v, want %v", when, from, number, got, want)
				}
			}
			l.wantAll(true, "node", "b", "80") // neighbours know each other now
			sends(true, "a", "90", "no policy")
			l.policy("b", "b", func(s *networkingv1.NetworkPolicySpec) {
				s.Ingress = []networkingv1.NetworkPolicyIngressRule{from(podNamed("a"))}
				s.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{port("UDP", intstr.FromInt(90))}
			})
			sends(true, "a", "90", "a may")
			sends(false, "a", "91", "another port")
			sends(false, "c", "90", "another pod")
			sends(false, "remote", "90", "a pod of another node")
			sends(true, "node", "91", "the node itself")
			l.policy("a", "a", denyEgress)
			sends(false, "a", "90", "a may send nothing")
			l.wantAll(true, "node", "b", "80") // as probes come
			l.wantAll(false, "a", "node", "80")
			l.wantAll(true, "c", "node", "80")
			l.wantIntact(true)
		})
	}
}

// TestIPVS sends packets by a virtual server: the pod that they get to counts, and the pod that they come from.
func TestIPVS(t *testing.T) {
	if _, err := netlink.GenlFamilyGet("IPVS"); err != nil {
		if os.Getenv("SKIFF_GUEST") != "" {
			t.Fatal(err)
		}
		t.Skipf("make test-guest PACKAGES=./networkpolicy/nftables runs this: %v", err)
	}
	l := newIPVSLab(t)
	l.node.Run(t, "ip", "link", "add", "virtual", "type", "dummy")
	l.node.Run(t, "ip", "link", "set", "virtual", "up")
	for _, prefix := range []string{"10.96.0.1/32", "fd96::1/128"} {
		l.node.Run(t, "ip", "route", "add", "local", prefix, "dev", "virtual")
	}
	for _, server := range [][2]string{{"10.96.0.1:8080", hosts["b"][0] + ":80"}, {"[fd96::1]:8080", "[" + hosts["b"][1] + "]:80"}} {
		l.node.Run(t, "ipvsadm", "-A", "-t", server[0], "-s", "rr")
		l.node.Run(t, "ipvsadm", "-a", "-t", server[0], "-r", server[1], "-m")
	}
	l.node.Set(t, "ipv4/vs/conntrack", "1")
	want := func(passes bool, from string) {
		t.Helper()
		for _, service := range []string{"10.96.0.1:8080", "[fd96::1]:8080"} {
			l.want(passes, from, "tcp", service)
		}
	}
	l.apply()
	for _, from := range []string{"a", "c", "remote", "node"} {
		want(true, from)
	}
	l.policy("b", "b", func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{from(podNamed("a"))}
		s.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromInt(80))}
	})
	toB := func(number int) func(*networkingv1.NetworkPolicySpec) {
		return func(s *networkingv1.NetworkPolicySpec) {
			s.PolicyTypes = []networkingv1.PolicyType{"Egress"}
			s.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{podNamed("b")}, Ports: []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromInt(number))}}}
		}
	}
	l.policy("a", "a", toB(80))
	want(true, "a")
	want(false, "c")
	want(false, "remote")
	want(true, "node")
	l.policy("a", "a", toB(8080)) // the port of the Service is not the pod's
	want(false, "a")
	l.policy("a", "a", denyEgress)
	want(false, "a")
	l.wantAll(false, "a", "node", "80")
}
