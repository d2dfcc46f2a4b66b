package proxytest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// The way to the host distant leads over a router, which passes on packets of narrow bytes and no larger ones. The links
// on both sides of it say nothing of that, so that only the router's word tells (ICMP, "fragmentation needed" or "packet
// too big").
const (
	narrow               = 1300
	distant4, distant6   = "198.18.0.9", "fd00:a::9"
	router4, router6     = "198.18.1.2", "fd00:b::2"
	byRouter4, byRouter6 = "198.18.1.1", "fd00:b::1"
)

// joinDistant adds that host to the world.
func (w *world) joinDistant(t *testing.T) {
	t.Helper()
	router := nettest.New(t)
	distant := host{nettest.New(t), distant4, distant6}
	for _, setting := range [][2]string{
		{"ipv4/ip_forward", "1"}, {"ipv6/conf/all/forwarding", "1"}, {"ipv4/icmp_ratelimit", "0"}, {"ipv6/icmp/ratelimit", "0"},
	} {
		router.Set(t, setting[0], setting[1])
	}
	nettest.Join(t, w.node, "router", byRouter4+"/24", router, "node", router4+"/24")
	w.node.Run(t, "ip", "address", "add", byRouter6+"/64", "dev", "router", "nodad")
	router.Run(t, "ip", "address", "add", router6+"/64", "dev", "node", "nodad")
	nettest.Join(t, router, "distant", "198.18.0.1/24", distant.Namespace, "eth0", distant4+"/24")
	router.Run(t, "ip", "address", "add", "fd00:a::1/64", "dev", "distant", "nodad")
	distant.Run(t, "ip", "address", "add", distant6+"/64", "dev", "eth0", "nodad")
	for _, route := range []struct {
		on   *nettest.Namespace
		args []string
	}{
		{w.node, []string{"198.18.0.0/24", "via", router4}},
		{w.node, []string{"fd00:a::/64", "via", router6}},
		{router, []string{"default", "via", byRouter4}},
		{router, []string{"default", "via", byRouter6}},
		{router, []string{distant4 + "/32", "dev", "distant", "mtu", "lock", fmt.Sprint(narrow)}},
		{router, []string{distant6 + "/128", "dev", "distant", "mtu", "lock", fmt.Sprint(narrow)}},
		{distant.Namespace, []string{"default", "via", "198.18.0.1"}},
		{distant.Namespace, []string{"default", "via", "fd00:a::1"}},
	} {
		route.on.Run(t, "ip", append([]string{"route", "add"}, route.args...)...)
	}
	w.hosts["distant"] = distant
	w.names[distant4], w.names[distant6] = "distant", "distant"
}

// much is how many bytes are sent: many packets.
const much = 300_000

// pathMTU has a pod behind a Service send much to a client, and a client send much to a pod behind a Service, where the
// path is narrower than both know. Whoever sends hears of it in the words of the flow that it knows, and sends less at once.
func (w *world) pathMTU(t *testing.T, family corev1.IPFamily) {
	w.joinDistant(t)
	distant := w.hosts["distant"]
	serveMuch(t, w.near.Namespace, net.JoinHostPort(w.near.addr(family), "8090"))
	serveMuch(t, distant.Namespace, net.JoinHostPort(distant.addr(family), "8090"))
	large := func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(8090) }
	for name, way := range map[string]struct {
		from     host
		to       string
		service  func(*corev1.Service)
		endpoint string
	}{
		"a pod to its client":                              {distant, "node", large, "near"},
		"a pod to its client, whose address it sees":       {distant, "balancer", func(s *corev1.Service) { externalLocal(s); large(s) }, "near"},
		"a client in a pod to its Service's pod":           {w.beside, "cluster", large, "distant"},
		"a client with the node's address to a pod":        {w.outside, "external", large, "distant"},
		"a client on the node itself to its Service's pod": {w.hosts["node"], "cluster", large, "distant"},
	} {
		w.become(t, table(w, ranges(), way.service, []string{way.endpoint}))
		w.forgetPaths(t)
		if err := w.sendMuch(t, way.from, target(family, way.to)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// forgetPaths has every host forget how large packets to others may be.
func (w *world) forgetPaths(t *testing.T) {
	t.Helper()
	for _, h := range w.hosts {
		h.Run(t, "ip", "route", "flush", "cache")
		h.Run(t, "ip", "-6", "route", "flush", "cache")
	}
}

// serveMuch sends much to each client, and then reads as much.
func serveMuch(t *testing.T, n *nettest.Namespace, addr string) {
	t.Helper()
	n.ServeTCP(t, addr, func(conn net.Conn) {
		_, _ = conn.Write(make([]byte, much))
		if got, _ := io.CopyN(io.Discard, conn, much); got == much {
			_, _ = conn.Write([]byte{'.'})
		}
	})
}

// sendMuch reads much from a server and sends it as much.
func (w *world) sendMuch(t *testing.T, from host, to string) error {
	t.Helper()
	var conn net.Conn
	var err error
	from.Do(t, func() { conn, err = net.DialTimeout("tcp", to, arrival) })
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(arrival))
	if got, err := io.CopyN(io.Discard, conn, much); err != nil {
		return fmt.Errorf("of %d bytes %d came: %w", much, got, err)
	}
	if _, err := conn.Write(make([]byte, much)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("after all was sent: %w", err)
	}
	return nil
}

// ping sends the request for an echo until there is an answer or an error.
func (w *world) ping(t *testing.T, from host, to string, wait time.Duration) string {
	t.Helper()
	family, request, reply := "ip4:icmp", byte(8), byte(0)
	if net.ParseIP(to).To4() == nil {
		family, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var conn *net.IPConn
	var err error
	from.Do(t, func() {
		if conn, err = net.DialIP(family, nil, &net.IPAddr{IP: net.ParseIP(to)}); err == nil {
			err = tellErrors(conn)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	message := []byte{request, 0, 0, 0, 0, 1, 0, 1}
	binary.BigEndian.PutUint16(message[2:], ^(uint16(request)<<8 + 2)) // of IPv6 the kernel writes it
	answer := make([]byte, 100)
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); {
		if _, err := conn.Write(message); err != nil {
			return fmt.Sprintf("refused (%v)", err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		n, _, err := conn.ReadFromIP(answer)
		switch {
		case err == nil && n > 0 && answer[0] == reply:
			return "answered"
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Sprintf("refused (%v)", err)
		}
	}
	return "silent"
}

// tellErrors has a raw socket learn of what ICMP says of its packets.
func tellErrors(conn *net.IPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1); err == nil {
			return
		}
		err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
	})
	return errors.Join(failed, err)
}
