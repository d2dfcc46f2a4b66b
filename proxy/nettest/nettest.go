// Package nettest makes small networks of network namespaces, in which tests
// send real packets through real rules.
package nettest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that ends with its test.
type Namespace struct{ handle netns.NsHandle }

// New makes a namespace in which the loopback is up.
func New(t testing.TB) *Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root, as make test has: it makes a network namespace")
	}
	n := &Namespace{}
	var err error
	onThread(func() {
		if n.handle, err = netns.New(); err == nil {
			err = up("lo")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.handle.Close() })
	return n
}

// Open opens a namespace that is there, by a file of it.
func Open(t testing.TB, file string) *Namespace {
	t.Helper()
	handle, err := netns.GetFromPath(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { handle.Close() })
	return &Namespace{handle: handle}
}

// Path is a file that is the namespace, for programs that this process starts.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.handle)) }

// Do calls f on a thread inside the namespace. What f starts is inside too:
// programs, and sockets, which stay there for life. f must not call t.FailNow.
func (n *Namespace) Do(t testing.TB, f func()) {
	t.Helper()
	var err error
	onThread(func() {
		if err = netns.Set(n.handle); err == nil {
			f()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onThread calls f on a thread of its own, which ends with it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		f()
	}()
	<-done
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Run runs a program inside and returns what it prints.
func (n *Namespace) Run(t testing.TB, command string, args ...string) string {
	t.Helper()
	cmd := exec.Command(command, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	n.Do(t, func() { err = cmd.Run() })
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// Set writes a value below /proc/sys/net of the namespace.
func (n *Namespace) Set(t testing.TB, name, value string) {
	t.Helper()
	var err error
	n.Do(t, func() { err = os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644) })
	if err != nil {
		t.Fatal(err)
	}
}

// Join lays a cable between two namespaces and gives its ends their addresses.
// Each end has the name of what is at the other.
func Join(t testing.TB, a *Namespace, nameOfB, addrOfA string, b *Namespace, nameOfA, addrOfB string) {
	t.Helper()
	var err error
	a.Do(t, func() {
		err = netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: nameOfB}, PeerName: nameOfA, PeerNamespace: netlink.NsFd(int(b.handle)),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	a.address(t, nameOfB, addrOfA)
	b.address(t, nameOfA, addrOfB)
}

func (n *Namespace) address(t testing.TB, link, addr string) {
	t.Helper()
	add := []string{"address", "add", addr, "dev", link}
	if strings.Contains(addr, ":") {
		add = append(add, "nodad") // it can be used at once
	}
	n.Run(t, "ip", add...)
	n.Run(t, "ip", "link", "set", link, "up")
}

// ListenUDP opens a socket inside that ends with the test.
func (n *Namespace) ListenUDP(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	n.Do(t, func() { conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ListenTCP listens inside until the test ends. Every connection is told name and
// closed.
func (n *Namespace) ListenTCP(t testing.TB, addr, name string) {
	t.Helper()
	n.AnswerTCP(t, addr, func(net.Addr) string { return name })
}

// AnswerTCP listens inside until the test ends. Every connection is told what answer
// says to its client, and closed.
func (n *Namespace) AnswerTCP(t testing.TB, addr string, answer func(client net.Addr) string) {
	t.Helper()
	n.ServeTCP(t, addr, func(conn net.Conn) { _, _ = io.WriteString(conn, answer(conn.RemoteAddr())) })
}

// ServeTCP listens inside until the test ends. Every connection has a goroutine of its
// own that serves it, and is closed then.
func (n *Namespace) ServeTCP(t testing.TB, addr string, serve func(net.Conn)) {
	t.Helper()
	var listener net.Listener
	var err error
	n.Do(t, func() { listener, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
}

// Ask connects from inside and returns what the listener is called.
func (n *Namespace) Ask(t testing.TB, addr string, timeout time.Duration) (string, error) {
	t.Helper()
	var conn net.Conn
	var err error
	n.Do(t, func() { conn, err = net.DialTimeout("tcp", addr, timeout) })
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var name bytes.Buffer
	_, err = name.ReadFrom(conn)
	return name.String(), err
}

// Datagram sends one UDP packet with any addresses in it over a link to the
// neighbour that has the address via, as CAP_NET_RAW allows.
func (n *Namespace) Datagram(t testing.TB, link, via string, from, to netip.AddrPort, text string) {
	t.Helper()
	var err error
	n.Do(t, func() { err = datagram(link, net.ParseIP(via), packet(from, to, text)) })
	if err != nil {
		t.Fatal(err)
	}
}

func datagram(name string, via net.IP, packet []byte) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	// The kernel finds the neighbour while it sends something ordinary.
	if conn, err := net.Dial("udp4", net.JoinHostPort(via.String(), "9")); err == nil {
		_, _ = conn.Write([]byte("?"))
		conn.Close()
	}
	hardware, err := neighbour(link.Attrs().Index, via)
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	to := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IP), Ifindex: link.Attrs().Index, Halen: 6}
	copy(to.Addr[:], hardware)
	return unix.Sendto(socket, packet, 0, to)
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

// neighbour waits until the kernel knows the hardware address of via.
func neighbour(link int, via net.IP) (net.HardwareAddr, error) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		list, err := netlink.NeighList(link, netlink.FAMILY_V4)
		if err != nil {
			return nil, err
		}
		for _, known := range list {
			if known.IP.Equal(via) && len(known.HardwareAddr) == 6 {
				return known.HardwareAddr, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, &net.AddrError{Err: "no neighbour has the address", Addr: via.String()}
		}
	}
}

// packet is an IPv4 packet with a UDP datagram in it (RFC 791, RFC 768).
func packet(from, to netip.AddrPort, text string) []byte {
	const header, udp = 20, 8
	p := make([]byte, header+udp, header+udp+len(text))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(header+udp+len(text)))
	copy(p[12:], from.Addr().AsSlice())
	copy(p[16:], to.Addr().AsSlice())
	var sum uint32
	for i := 0; i < header; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(p[header:], from.Port())
	binary.BigEndian.PutUint16(p[header+2:], to.Port())
	binary.BigEndian.PutUint16(p[header+4:], uint16(udp+len(text))) // a checksum of zero is none
	return append(p, text...)
}
