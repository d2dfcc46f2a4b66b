package podnet

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy/nettest"
)

var pods = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}

// host is a machine with one pod.
type host struct {
	*nettest.Namespace
	pod   *nettest.Namespace
	self  Node
	share Share
	machine
}

// newHost makes the n-th machine, whose link is up already, with a pod at 10.9.N.2.
func newHost(t testing.TB, ns *nettest.Namespace, n int, address string, mode Mode) *host {
	t.Helper()
	h := &host{Namespace: ns, self: node("node-"+strconv.Itoa(n), address, fmt.Sprintf("10.9.%d.0/24", n))}
	h.Set(t, "ipv4/ip_forward", "1")
	h.open(t, mode)
	h.sync(t, h.self)
	h.pod = nettest.New(t)
	nettest.Join(t, h.Namespace, "pod", fmt.Sprintf("10.9.%d.1/24", n), h.pod, "eth0", fmt.Sprintf("10.9.%d.2/24", n))
	h.pod.Run(t, "ip", "route", "add", "default", "via", fmt.Sprintf("10.9.%d.1", n))
	h.podMTU(t, h.share.MTU)
	return h
}

func (h *host) podMTU(t testing.TB, mtu int) {
	t.Helper()
	h.Run(t, "ip", "link", "set", "pod", "mtu", strconv.Itoa(mtu))
	h.pod.Run(t, "ip", "link", "set", "eth0", "mtu", strconv.Itoa(mtu))
}

// open has a process begin to keep the machine's entries.
func (h *host) open(t testing.TB, mode Mode) {
	t.Helper()
	c := Config{
		Mode: mode, Node: h.self.Name, Address: h.self.Addresses[0], Ranges: pods, Log: slog.New(slog.DiscardHandler),
		Joined: func(s Share) error { h.share = s; return nil },
	}
	var m *machine
	var err error
	h.Do(t, func() { m, err = open(c) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	h.machine = *m
}

func (h *host) sync(t testing.TB, nodes ...Node) {
	t.Helper()
	if err := h.trySync(t, nodes...); err != nil {
		t.Fatal(err)
	}
}

func (h *host) trySync(t testing.TB, nodes ...Node) error {
	t.Helper()
	var err error
	h.Do(t, func() { err = h.machine.sync(nodes, true) })
	return err
}

// linked makes two machines on one link.
func linked(t testing.TB, mode Mode, mtu int) (a, b *host) {
	t.Helper()
	one, two := nettest.New(t), nettest.New(t)
	nettest.Join(t, one, "eth0", "192.0.2.1/24", two, "eth0", "192.0.2.2/24")
	for _, ns := range []*nettest.Namespace{one, two} {
		ns.Run(t, "ip", "link", "set", "eth0", "mtu", strconv.Itoa(mtu))
	}
	return joined(t, newHost(t, one, 1, "192.0.2.1", mode), newHost(t, two, 2, "192.0.2.2", mode))
}

// routed makes two machines in different places, with a router between that knows nothing of pods.
func routed(t testing.TB, mode Mode, mtu int) (a, b *host) {
	t.Helper()
	one, two, router := nettest.New(t), nettest.New(t), nettest.New(t)
	router.Set(t, "ipv4/ip_forward", "1")
	nettest.Join(t, one, "eth0", "192.0.2.1/24", router, "one", "192.0.2.254/24")
	nettest.Join(t, two, "eth0", "198.51.100.1/24", router, "two", "198.51.100.254/24")
	one.Run(t, "ip", "route", "add", "default", "via", "192.0.2.254")
	two.Run(t, "ip", "route", "add", "default", "via", "198.51.100.254")
	for _, end := range []struct {
		ns   *nettest.Namespace
		link string
	}{{one, "eth0"}, {two, "eth0"}, {router, "one"}, {router, "two"}} {
		end.ns.Run(t, "ip", "link", "set", end.link, "mtu", strconv.Itoa(mtu))
	}
	return joined(t, newHost(t, one, 1, "192.0.2.1", mode), newHost(t, two, 2, "198.51.100.1", mode))
}

func joined(t testing.TB, a, b *host) (*host, *host) {
	t.Helper()
	a.sync(t, a.self, b.self)
	b.sync(t, a.self, b.self)
	return a, b
}

// TestPodsAcross sends what pods send between machines: long streams, whole packets, and such as are too large.
func TestPodsAcross(t *testing.T) {
	type places func(t testing.TB, mode Mode, mtu int) (a, b *host)
	for _, test := range []struct {
		mode   Mode
		places places
		where  string
		mtu    int // of the machines' links
		want   int // for pods
	}{
		{Route, linked, "one link", 1500, 1500},
		{Route, linked, "one link", 9000, 9000},
		{VXLAN, linked, "one link", 1500, 1450},
		{VXLAN, routed, "a router between", 1500, 1450},
		{VXLAN, routed, "a router between", 9000, 8950},
	} {
		for _, offload := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, %s, MTU %d, checksum offload %t", test.mode, test.where, test.mtu, offload), func(t *testing.T) {
				a, b := test.places(t, test.mode, test.mtu)
				if a.share.MTU != test.want || b.share.MTU != test.want {
					t.Fatalf("MTU of pods: got %d and %d, want %d", a.share.MTU, b.share.MTU, test.want)
				}
				a.offload(t, offload)
				b.offload(t, offload)
				send(t, a.pod, b.pod, "10.9.2.2:9001", 8<<20)
				send(t, b.pod, a.pod, "10.9.1.2:9001", 8<<20)
				// What the machine itself sends, as to a webhook, and what it is answered.
				send(t, a.Namespace, b.pod, "10.9.2.2:9002", 1<<20)
				const headers = 20 + 8
				if err := datagram(t, a.pod, b.pod, "10.9.2.2:9003", 1400); err != nil {
					t.Errorf("1,400 bytes: %v", err)
				}
				if err := datagram(t, a.pod, b.pod, "10.9.2.2:9004", test.want-headers); err != nil {
					t.Errorf("a packet of the MTU: %v", err)
				}
				// A pod that believes in more is told what the way takes.
				a.podMTU(t, test.want+50)
				b.podMTU(t, test.want+50)
				if err := datagram(t, a.pod, b.pod, "10.9.2.2:9005", test.want-headers+1); !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("a packet larger than the MTU: got %v, want EMSGSIZE", err)
				}
				send(t, a.pod, b.pod, "10.9.2.2:9006", 1<<20)
			})
		}
	}
}

// offload says whether the links of a machine are left the checksums of packets.
func (h *host) offload(t testing.TB, on bool) {
	t.Helper()
	links := []string{"eth0", "pod"}
	if h.link != 0 {
		links = append(links, Device)
	}
	for _, link := range links {
		var err error
		h.Do(t, func() { err = setChecksums(link, on) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// setChecksums says whether a link is given packets whose checksums it has to make itself, as "ethtool -K" does.
func setChecksums(link string, offload bool) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	// struct ethtool_value and struct ifreq of the kernel.
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	if offload {
		value.data = 1
	}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], link)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("set the checksum offload of %s: %w", link, errno)
	}
	return nil
}

// send sends n bytes over TCP and sees that they arrive as they were.
func send(t testing.TB, from, to *nettest.Namespace, addr string, n int64) {
	t.Helper()
	var listener net.Listener
	var err error
	to.Do(t, func() { listener, err = net.Listen("tcp4", addr) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	got := make(chan []byte, 1)
	go func() {
		sum := sha256.New()
		defer func() { got <- sum.Sum(nil) }()
		if conn, err := listener.Accept(); err == nil {
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.Copy(sum, conn)
			conn.Close()
		}
	}()
	var conn net.Conn
	from.Do(t, func() { conn, err = net.DialTimeout("tcp4", addr, 10*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(conn, sum), io.LimitReader(rand.Reader, n)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if !bytes.Equal(<-got, sum.Sum(nil)) {
		t.Errorf("%d bytes to %s arrived as others, or not at all", n, addr)
	}
}

// datagram sends one UDP packet that may not be divided, until it arrives or the kernel says that it is too large,
// which it learns from the answers to earlier ones.
func datagram(t testing.TB, from, to *nettest.Namespace, addr string, size int) error {
	t.Helper()
	receiver := to.ListenUDP(t, addr)
	var conn net.Conn
	var err error
	from.Do(t, func() {
		dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return errors.Join(raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			}), err)
		}}
		conn, err = dialer.Dial("udp4", addr)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buffer := make([]byte, 1<<16)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if _, err := conn.Write(make([]byte, size)); err != nil {
			return err
		}
		_ = receiver.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, _, err := receiver.ReadFrom(buffer); err == nil {
			if n != size {
				return fmt.Errorf("%d bytes arrived of %d", n, size)
			}
			return nil
		}
	}
	return errors.New("nothing arrived")
}

// TestRoutesNeedALink sees that routes to a machine in another place are refused, with what helps, and that this
// costs no other node.
func TestRoutesNeedALink(t *testing.T) {
	one := nettest.New(t)
	nettest.Join(t, one, "eth0", "192.0.2.1/24", nettest.New(t), "eth0", "192.0.2.2/24")
	one.Run(t, "ip", "route", "add", "default", "via", "192.0.2.2")
	h := newHost(t, one, 1, "192.0.2.1", Route)
	err := h.trySync(t, h.self, node("far", "198.51.100.1", "10.9.7.0/24"), node("near", "192.0.2.2", "10.9.8.0/24"))
	if err == nil || !strings.Contains(err.Error(), "the address is on no link of this machine; such nodes need the mode vxlan") {
		t.Errorf("got %v", err)
	}
	if got := h.routes(t); got != "unreachable 10.9.0.0/16\n10.9.8.0/24 via 192.0.2.2 dev eth0" {
		t.Errorf("got routes\n%s", got)
	}
}

// routes are those of ours on a machine.
func (h *host) routes(t testing.TB) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(h.Run(t, "ip", "route", "show", "proto", strconv.Itoa(protocol))) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n")
}
