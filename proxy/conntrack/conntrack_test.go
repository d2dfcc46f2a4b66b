package conntrack

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/iptables"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

func addr(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

const (
	first  = "10.244.0.5:5353"
	second = "10.244.1.5:5353"
)

// site is a node with two pods that answer, and a client outside.
type site struct {
	node, client  *nettest.Namespace
	first, second *net.UDPConn
	backend       *iptables.Backend
	last          *proxy.Table
}

func newSite(t *testing.T) *site {
	t.Helper()
	one, two := nettest.New(t), nettest.New(t)
	s := &site{node: nettest.New(t), client: nettest.New(t)}
	nettest.Join(t, s.node, "one", "10.244.0.1/24", one, "eth0", "10.244.0.5/24")
	nettest.Join(t, s.node, "two", "10.244.1.1/24", two, "eth0", "10.244.1.5/24")
	nettest.Join(t, s.node, "eth0", "192.0.2.1/24", s.client, "eth0", "192.0.2.9/24")
	one.Run(t, "ip", "route", "add", "default", "via", "10.244.0.1")
	two.Run(t, "ip", "route", "add", "default", "via", "10.244.1.1")
	s.client.Run(t, "ip", "route", "add", "default", "via", "192.0.2.1")
	s.node.Set(t, "ipv4/ip_forward", "1")
	// What is no Service's goes to a machine that does not answer.
	s.node.Run(t, "ip", "route", "add", "default", "via", "192.0.2.77")
	s.node.Run(t, "ip", "neighbour", "add", "192.0.2.77", "lladdr", "02:00:00:00:00:77", "dev", "eth0")
	s.first, s.second = one.ListenUDP(t, first), two.ListenUDP(t, second)
	s.backend = iptables.New()
	s.become(t, &proxy.Table{})
	return s
}

// become applies a table as the proxy does.
func (s *site) become(t *testing.T, table *proxy.Table) {
	t.Helper()
	table.Pods = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	var err error
	s.node.Do(t, func() {
		if err = s.backend.Apply(t.Context(), table); err == nil {
			err = Netlink{}.Forget(t.Context(), s.last, table)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s.last = table
}

// dns is a table with one Service.
func dns(front proxy.Front, to string, serving ...string) *proxy.Table {
	r := &proxy.Rule{Name: "kube-system/dns", Protocol: corev1.ProtocolUDP, Family: corev1.IPv4Protocol, Fronts: []proxy.Front{front}}
	if to != "" {
		r.Cluster = []netip.AddrPort{addr(to)}
	}
	for _, e := range serving {
		r.Serving = append(r.Serving, addr(e))
	}
	return &proxy.Table{Rules: []*proxy.Rule{r}}
}

// flow is a client that always sends from one port.
type flow struct{ conn net.Conn }

func begin(t *testing.T, n *nettest.Namespace, to string) flow {
	t.Helper()
	var conn net.Conn
	var err error
	n.Do(t, func() { conn, err = net.Dial("udp4", to) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return flow{conn}
}

// send does not mind that a packet is refused. A socket tells so when the next is
// sent, which is then not sent itself. For a process of the node it is an error at
// once.
func (f flow) send(t *testing.T, text string) {
	t.Helper()
	_, err := f.conn.Write([]byte(text))
	if errors.Is(err, unix.ECONNREFUSED) {
		_, err = f.conn.Write([]byte(text))
	}
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
}

// received checks what a pod gets next.
func received(t *testing.T, pod *net.UDPConn, want string) {
	t.Helper()
	buffer := make([]byte, 100)
	_ = pod.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := pod.Read(buffer)
	if got := string(buffer[:n]); err != nil || got != want {
		t.Fatalf("got %q (%v), want %q", got, err, want)
	}
}

// TestFlows follows a flow through the life of a Service, for each kind of front.
func TestFlows(t *testing.T) {
	for name, test := range map[string]struct {
		front  proxy.Front
		to     string
		inside bool // the client is a process of the node
	}{
		"cluster IP":               {proxy.Front{Kind: proxy.ClusterIP, Addr: addr("10.96.0.10:53")}, "10.96.0.10:53", false},
		"cluster IP, node":         {proxy.Front{Kind: proxy.ClusterIP, Addr: addr("10.96.0.10:53")}, "10.96.0.10:53", true},
		"load balancer":            {proxy.Front{Kind: proxy.LoadBalancer, Addr: addr("203.0.113.5:53")}, "203.0.113.5:53", false},
		"external IP":              {proxy.Front{Kind: proxy.ExternalIP, Addr: addr("203.0.113.5:53")}, "203.0.113.5:53", false},
		"external IP of the node":  {proxy.Front{Kind: proxy.ExternalIP, Addr: addr("192.0.2.1:53")}, "192.0.2.1:53", false},
		"node port":                {proxy.Front{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30053)}, "192.0.2.1:30053", false},
		"node port, another link":  {proxy.Front{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30053)}, "10.244.0.1:30053", false},
		"node port, node":          {proxy.Front{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30053)}, "192.0.2.1:30053", true},
		"node port, node loopback": {proxy.Front{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30053)}, "127.0.0.1:30053", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			from := s.client
			if test.inside {
				from = s.node
				s.node.Set(t, "ipv4/conf/all/route_localnet", "1")
			}
			f := begin(t, from, test.to)
			f.send(t, "before there is a Service")
			s.become(t, dns(test.front, first, first))
			f.send(t, "to the first")
			received(t, s.first, "to the first")
			s.become(t, dns(test.front, second, first, second))
			f.send(t, "while the first still serves")
			received(t, s.first, "while the first still serves")
			s.become(t, dns(test.front, second, second))
			f.send(t, "to the second")
			received(t, s.second, "to the second")
			s.become(t, dns(test.front, ""))
			f.send(t, "without endpoints")
			s.become(t, dns(test.front, second, second))
			f.send(t, "to the second again")
			received(t, s.second, "to the second again") // and not what came without endpoints
			s.become(t, &proxy.Table{})
			f.send(t, "without a Service")
			fence := begin(t, from, second)
			fence.send(t, "directly")
			received(t, s.second, "directly")
			// Rules that another program took away were made again: what was before is
			// not known.
			f.send(t, "after the Service")
			s.become(t, dns(test.front, first, first))
			s.last = nil
			s.become(t, dns(test.front, first, first))
			f.send(t, "to the first again")
			received(t, s.first, "to the first again")
		})
	}
}

// TestStale says which flows are forgotten.
func TestStale(t *testing.T) {
	fronts := map[netip.AddrPort]endpoints{
		addr("10.96.0.10:53"):                   {addr(first): true},
		netip.AddrPortFrom(netip.Addr{}, 30053): {addr(first): true},
	}
	gone := map[netip.AddrPort]bool{addr("10.96.0.11:53"): true, netip.AddrPortFrom(netip.Addr{}, 30054): true}
	f := &filter{fronts: fronts, gone: gone, local: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")}}
	for name, test := range map[string]struct {
		to, went string
		protocol uint8
		want     bool
	}{
		"served":                               {"10.96.0.10:53", first, unix.IPPROTO_UDP, false},
		"to an endpoint that is gone":          {"10.96.0.10:53", second, unix.IPPROTO_UDP, true},
		"to no endpoint":                       {"10.96.0.10:53", "10.96.0.10:53", unix.IPPROTO_UDP, true},
		"TCP":                                  {"10.96.0.10:53", second, unix.IPPROTO_TCP, false},
		"another port":                         {"10.96.0.10:54", second, unix.IPPROTO_UDP, false},
		"a node port, served":                  {"192.0.2.1:30053", first, unix.IPPROTO_UDP, false},
		"a node port, before the Service":      {"192.0.2.1:30053", "192.0.2.1:30053", unix.IPPROTO_UDP, true},
		"a node port on the loopback":          {"127.0.0.5:30053", "127.0.0.5:30053", unix.IPPROTO_UDP, true},
		"that port of another machine":         {"198.51.100.1:30053", "198.51.100.1:30053", unix.IPPROTO_UDP, false},
		"to a Service that is gone":            {"10.96.0.11:53", first, unix.IPPROTO_UDP, true},
		"to a node port that is gone":          {"192.0.2.1:30054", first, unix.IPPROTO_UDP, true},
		"the node's own, on the port after it": {"192.0.2.1:30054", "192.0.2.1:30054", unix.IPPROTO_UDP, false},
	} {
		to, went := addr(test.to), addr(test.went)
		got := f.MatchConntrackFlow(&netlink.ConntrackFlow{
			Forward: netlink.IPTuple{Protocol: test.protocol, DstIP: to.Addr().AsSlice(), DstPort: to.Port()},
			Reverse: netlink.IPTuple{Protocol: test.protocol, SrcIP: went.Addr().AsSlice(), SrcPort: went.Port()},
		})
		if got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
