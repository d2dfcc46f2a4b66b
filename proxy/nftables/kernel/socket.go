package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// socket is one to the kernel, in the network namespace of the thread.
type socket int

// receiveBuffer has room for all that the kernel answers to a transaction.
const receiveBuffer = 4 << 20

// dial returns a socket that can send so many bytes at once.
func dial(size int) (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("nf_tables: %w", err)
	}
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size+4096),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
	)
	if err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("nf_tables: %w", err)
	}
	return socket(fd), nil
}

func (s socket) close() { unix.Close(int(s)) }

func (s socket) send(message []byte) error {
	return unix.Sendto(int(s), message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive calls f with every message of the next datagram. The kernel works while
// it is sent to, so that its answer is there when that returns.
func (s socket) receive(buffer []byte, f func(kind, flags uint16, sequence uint32, body []byte)) error {
	n, _, err := unix.Recvfrom(int(s), buffer, unix.MSG_DONTWAIT)
	if err != nil {
		return fmt.Errorf("nf_tables: no answer: %w", err)
	}
	for rest := buffer[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
		length := int(binary.NativeEndian.Uint32(rest))
		if length < unix.NLMSG_HDRLEN || length > len(rest) {
			return errors.New("nf_tables: a message of the kernel is cut")
		}
		f(binary.NativeEndian.Uint16(rest[4:]), binary.NativeEndian.Uint16(rest[6:]), binary.NativeEndian.Uint32(rest[8:]), rest[unix.NLMSG_HDRLEN:length])
		rest = rest[min(len(rest), (length+3)&^3):]
	}
	return nil
}

// failure is what a message of the type NLMSG_ERROR says; nil: success.
func failure(body []byte) error {
	if len(body) < 4 {
		return errors.New("nf_tables: an answer without a number")
	}
	if number := -int32(binary.NativeEndian.Uint32(body)); number != 0 {
		return unix.Errno(number)
	}
	return nil
}

// answer reads until the kernel has said that the message last succeeded, or what
// failed first.
func (s socket) answer(last uint32, what []string) error {
	buffer := make([]byte, 64<<10)
	var first error
	for done := false; !done; {
		err := s.receive(buffer, func(kind, _ uint16, sequence uint32, body []byte) {
			if kind != unix.NLMSG_ERROR {
				return
			}
			err := failure(body)
			if err != nil && first == nil && int(sequence) < len(what) {
				first = fmt.Errorf("nf_tables: %s: %w", what[sequence], err)
			}
			// A failure of the whole is told for the first message.
			done = done || sequence == last || sequence == 0
		})
		if err != nil {
			return errors.Join(first, err)
		}
	}
	return first
}

// dump asks for a list and calls f with the attributes of every entry. It begins
// anew, by calling again, if a transaction came between.
func dump(kind uint16, t Table, fill func(a *attributes), again func(), f func(attributes []byte)) error {
	s, err := dial(4096)
	if err != nil {
		return err
	}
	defer s.close()
	request := &Batch{table: t}
	request.do("list", kind, unix.NLM_F_DUMP, fill)
	buffer := make([]byte, 64<<10)
	for {
		again()
		if err := s.send(request.message); err != nil {
			return fmt.Errorf("nf_tables: %w", err)
		}
		var failed error
		var torn bool
		for done := false; !done; {
			err := s.receive(buffer, func(kind, flags uint16, _ uint32, body []byte) {
				torn = torn || flags&unix.NLM_F_DUMP_INTR != 0
				switch {
				case kind == unix.NLMSG_DONE:
					done = true
				case kind == unix.NLMSG_ERROR:
					done, failed = true, failure(body)
				case len(body) >= 4:
					f(body[4:])
				}
			})
			if err != nil {
				return err
			}
		}
		if !torn {
			return failed
		}
	}
}
