package proxytest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
)

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// flows has a client of UDP send from one port all the time: it follows the
// endpoints of the Service.
func (w *world) flows(t *testing.T, family corev1.IPFamily) {
	for _, to := range []string{"cluster", "node", "balancer"} {
		w.become(t, &proxy.Table{})
		var conn net.Conn
		var err error
		w.outside.Do(t, func() { conn, err = net.Dial("udp", target(family, to)) })
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, step := range []struct {
			endpoints []string
			want      string // empty: nobody answers
		}{{[]string{"near"}, "near"}, {[]string{"near", "far"}, "near"}, {[]string{"far"}, "far"}, {nil, ""}, {[]string{"near"}, "near"}} {
			w.become(t, table(w, ranges(), nil, step.endpoints))
			got, err := exchange(conn, step.want == "")
			if name, _, _ := bytes.Cut(got, []byte(" ")); string(name) != step.want {
				t.Errorf("%s, endpoints %v: got %q (%v), want %q", to, step.endpoints, got, err, step.want)
			}
		}
	}
}

// exchange sends a packet and returns the answer. An error that a socket has from
// an earlier packet does not count.
func exchange(conn net.Conn, nobody bool) ([]byte, error) {
	wait := arrival
	if nobody {
		wait = silence
	}
	buffer := make([]byte, 100)
	for range 2 {
		if _, err := conn.Write([]byte("?")); err != nil {
			continue
		}
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		n, err := conn.Read(buffer)
		if errors.Is(err, unix.ECONNREFUSED) && !nobody {
			continue
		}
		return buffer[:n], err
	}
	return nil, errors.New("refused")
}

// sctp sends the packet that begins an association. This asks nothing of the
// kernel but raw sockets: it need not have SCTP itself.
func (w *world) sctp(t *testing.T, family corev1.IPFamily) {
	w.become(t, table(w, ranges(), func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolSCTP }, []string{"far"}))
	domain := unix.AF_INET
	if family == corev1.IPv6Protocol {
		domain = unix.AF_INET6
	}
	raw := func(h host) (fd int) {
		var err error
		h.Do(t, func() { fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	server := raw(w.far)
	_ = unix.SetsockoptTimeval(server, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(arrival / time.Second)})
	for i, to := range []string{"cluster", "node", "external"} {
		where := netip.MustParseAddrPort(target(family, to))
		client := raw(w.outside)
		var sockaddr unix.Sockaddr = &unix.SockaddrInet6{Addr: where.Addr().As16()}
		if where.Addr().Is4() {
			sockaddr = &unix.SockaddrInet4{Addr: where.Addr().As4()}
		}
		if err := unix.Sendto(client, initiate(uint16(40000+i), where.Port()), 0, sockaddr); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 200)
		n, _, err := unix.Recvfrom(server, buffer, 0)
		if err != nil {
			t.Errorf("%s: nothing arrived: %v", to, err)
			continue
		}
		packet := buffer[:n]
		if where.Addr().Is4() {
			packet = packet[20:] // behind the header of IPv4
		}
		if port := binary.BigEndian.Uint16(packet[2:]); port != 8080 {
			t.Errorf("%s: arrived for port %d, want 8080", to, port)
		}
	}
}

// initiate is the packet INIT (RFC 9260).
func initiate(from, to uint16) []byte {
	const chunkInit, length = 1, 20
	p := make([]byte, 12+length)
	binary.BigEndian.PutUint16(p[0:], from)
	binary.BigEndian.PutUint16(p[2:], to)
	p[12] = chunkInit
	binary.BigEndian.PutUint16(p[14:], length)
	binary.BigEndian.PutUint32(p[16:], 1)    // tag
	binary.BigEndian.PutUint32(p[20:], 4096) // window
	binary.BigEndian.PutUint16(p[24:], 1)    // streams
	binary.BigEndian.PutUint16(p[26:], 1)
	binary.BigEndian.PutUint32(p[28:], 1) // first number
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}
