package proxy

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// inUse reports whether a program listens at an address of this node, or at its
// port on all addresses. It asks the kernel for the address, and lets go of it at
// once; it never listens itself.
func inUse(protocol corev1.Protocol, addr netip.AddrPort) bool {
	kind := unix.SOCK_STREAM
	switch protocol {
	case corev1.ProtocolTCP:
	case corev1.ProtocolUDP:
		kind = unix.SOCK_DGRAM
	default:
		return false
	}
	family, where := socketAddress(addr)
	socket, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(socket)
	if protocol == corev1.ProtocolTCP {
		// Connections that a program left behind do not count, only one that listens.
		_ = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	// An address that is not the node's is not available, which is no use of it.
	err = unix.Bind(socket, where)
	return errors.Is(err, unix.EADDRINUSE)
}

func socketAddress(addr netip.AddrPort) (family int, where unix.Sockaddr) {
	if addr.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
}
