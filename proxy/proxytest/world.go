package proxytest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/conntrack"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// silence is how long a packet is waited for that must not come. On a path inside
// one kernel it would within a millisecond.
const silence = 300 * time.Millisecond

// arrival is how long one may take that must come, on a machine with much to do.
const arrival = 20 * time.Second

// host is a namespace with an address of each family.
type host struct {
	*nettest.Namespace
	ipv4, ipv6 string
}

func (h host) addr(family corev1.IPFamily) string {
	if family == corev1.IPv6Protocol {
		return h.ipv6
	}
	return h.ipv4
}

// world is a node with two pods, a pod of another node, one in the node's own
// network, and a client outside the cluster.
type world struct {
	node                       *nettest.Namespace
	near, beside, far, outside host
	hosts                      map[string]host
	names                      map[string]string // by address
	backend                    proxy.Backend
	last                       *proxy.Table
}

// The addresses of the node: the first is on the network of the client, the second
// is one more.
const (
	node4, node6     = "192.0.2.1", "fd00:9::1"
	second4, second6 = "198.51.100.1", "fd00:8::1"
)

// ranges are those of the cluster.
func ranges() proxy.Node {
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	return proxy.Node{
		Name: "here", Zone: "a",
		Pods: prefixes("10.244.0.0/16", "fd44::/48"), Services: prefixes("10.96.0.0/16", "fd96::/112"),
	}
}

func newWorld(t *testing.T, backend proxy.Backend) *world {
	t.Helper()
	w := &world{
		node:    nettest.New(t),
		near:    host{nettest.New(t), "10.244.0.5", "fd44:0:0:1::5"},
		beside:  host{nettest.New(t), "10.244.1.5", "fd44:0:0:2::5"},
		far:     host{nettest.New(t), "10.244.2.5", "fd44:0:0:3::5"},
		outside: host{nettest.New(t), "192.0.2.9", "fd00:9::9"},
		backend: backend,
	}
	w.hosts = map[string]host{
		"near": w.near, "beside": w.beside, "far": w.far, "outside": w.outside, "node": {w.node, node4, node6},
	}
	for _, forwarding := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		w.node.Set(t, forwarding, "1")
	}
	w.node.Set(t, "ipv4/conf/all/route_localnet", "1")
	// The kernel tells a client a few times a second that a packet was refused.
	w.node.Set(t, "ipv4/icmp_ratelimit", "0")
	w.node.Set(t, "ipv6/icmp/ratelimit", "0")
	w.join(t, "near", w.near, "10.244.0.1", "fd44:0:0:1::1")
	w.join(t, "beside", w.beside, "10.244.1.1", "fd44:0:0:2::1")
	w.join(t, "far", w.far, "10.244.2.1", "fd44:0:0:3::1")
	w.join(t, "outside", w.outside, node4, node6)
	for _, addr := range []string{second4 + "/32", second6 + "/128"} {
		w.node.Run(t, "ip", "address", "add", addr, "dev", "lo")
	}
	// What is no Service's goes to a machine that does not answer.
	w.node.Run(t, "ip", "route", "add", "default", "via", "192.0.2.77")
	w.node.Run(t, "ip", "neighbour", "add", "192.0.2.77", "lladdr", "02:00:00:00:00:77", "dev", "outside")
	w.node.Run(t, "ip", "-6", "route", "add", "default", "via", "fd00:9::77")
	w.node.Run(t, "ip", "neighbour", "add", "fd00:9::77", "lladdr", "02:00:00:00:00:77", "dev", "outside")
	w.names = map[string]string{second4: "node", second6: "node", "127.0.0.1": "node", "::1": "node"}
	for name, h := range w.hosts {
		w.names[h.ipv4], w.names[h.ipv6] = name, name
		for _, addr := range []string{h.ipv4, h.ipv6} {
			serveTCP(t, h.Namespace, net.JoinHostPort(addr, "8080"), name)
			serveUDP(t, h.Namespace, net.JoinHostPort(addr, "8080"), name)
		}
	}
	for _, gateway := range []string{"10.244.0.1", "10.244.1.1", "10.244.2.1", "fd44:0:0:1::1", "fd44:0:0:2::1", "fd44:0:0:3::1"} {
		w.names[gateway] = "node"
	}
	return w
}

// join lays a cable from the node to a host, whose gateway the node is.
func (w *world) join(t *testing.T, name string, h host, gateway4, gateway6 string) {
	t.Helper()
	nettest.Join(t, w.node, name, gateway4+"/24", h.Namespace, "eth0", h.ipv4+"/24")
	w.node.Run(t, "ip", "address", "add", gateway6+"/64", "dev", name, "nodad")
	h.Run(t, "ip", "address", "add", h.ipv6+"/64", "dev", "eth0", "nodad")
	h.Run(t, "ip", "route", "add", "default", "via", gateway4)
	h.Run(t, "ip", "-6", "route", "add", "default", "via", gateway6)
}

// serveTCP tells every client the name and the address that it comes from.
func serveTCP(t *testing.T, n *nettest.Namespace, addr, name string) {
	t.Helper()
	n.AnswerTCP(t, addr, func(client net.Addr) string { return name + " " + client.(*net.TCPAddr).IP.String() })
}

func serveUDP(t *testing.T, n *nettest.Namespace, addr, name string) {
	t.Helper()
	var conn net.PacketConn
	var err error
	n.Do(t, func() { conn, err = net.ListenPacket("udp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		for buffer := make([]byte, 100); ; {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(name+" "+from.(*net.UDPAddr).IP.String()), from)
		}
	}()
}

// become applies a table as the proxy does: a flow of UDP to an endpoint that is
// gone would answer who happens to ask from the same port.
func (w *world) become(t *testing.T, table *proxy.Table) {
	t.Helper()
	var err error
	w.node.Do(t, func() {
		if err = w.backend.Apply(t.Context(), table); err == nil {
			err = conntrack.Netlink{}.Forget(t.Context(), w.last, table)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.last = table
}

// ask connects once. The answer is "server<client", with the names of hosts, or
// refused, or silent.
func (w *world) ask(t *testing.T, network string, from host, to string, wait time.Duration) string {
	t.Helper()
	if network == "ping" {
		addr, _, _ := net.SplitHostPort(to)
		return w.ping(t, from, addr, wait)
	}
	var conn net.Conn
	var err error
	from.Do(t, func() { conn, err = net.DialTimeout(network, to, wait) })
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(wait))
	}
	var n int
	buffer := make([]byte, 100)
	switch {
	case err != nil:
	case network == "udp":
		n, err = inquire(conn, buffer, wait)
	default:
		n, err = conn.Read(buffer)
	}
	var timeout net.Error
	switch {
	case err == nil:
		server, client, _ := strings.Cut(string(buffer[:n]), " ")
		if name, ok := w.names[client]; ok {
			client = name
		}
		return server + "<" + client
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silent"
	}
	return fmt.Sprintf("refused (%v)", err)
}

// inquire sends a packet until there is an answer. The kernel leaves out to tell
// that one was refused if it has told that of many.
func inquire(conn net.Conn, answer []byte, wait time.Duration) (n int, err error) {
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); {
		if _, err := conn.Write([]byte("?")); err != nil {
			return 0, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(min(silence, time.Until(deadline))))
		if n, err = conn.Read(answer); !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	return 0, os.ErrDeadlineExceeded
}
