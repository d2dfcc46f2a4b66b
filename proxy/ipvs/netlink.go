package ipvs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// batch is requests to the kernel, many in one message: ten thousand Services are
// some seventy thousand of them. Each is done for itself, in order.
type batch struct {
	protocol int // of netlink
	message  []byte
	began    []int    // where each request begins,
	what     []string // what it is about,
	absent   []bool   // and whether that may be not there
	open     []int    // where attributes begin that are not closed yet
}

// messageLimit is how many bytes are sent at once. A socket's buffer has room for
// more.
const messageLimit = 64 << 10

// begin starts a request; what follows is appended to it, and end ends it.
func (b *batch) begin(what string, absent bool, kind, flags uint16, header ...byte) {
	b.began = append(b.began, len(b.message))
	b.message = binary.NativeEndian.AppendUint32(b.message, 0)
	b.message = binary.NativeEndian.AppendUint16(b.message, kind)
	b.message = binary.NativeEndian.AppendUint16(b.message, unix.NLM_F_REQUEST|flags)
	b.message = binary.NativeEndian.AppendUint32(b.message, uint32(len(b.what)))
	b.message = binary.NativeEndian.AppendUint32(b.message, 0)
	b.message = append(b.message, header...)
	b.what, b.absent = append(b.what, what), append(b.absent, absent)
}

func (b *batch) end() {
	at := b.began[len(b.began)-1]
	binary.NativeEndian.PutUint32(b.message[at:], uint32(len(b.message)-at))
}

// nest begins an attribute that holds others.
func (b *batch) nest(kind uint16) {
	b.open = append(b.open, len(b.message))
	b.attribute(kind|unix.NLA_F_NESTED, nil)
}

func (b *batch) close() {
	at := b.open[len(b.open)-1]
	b.open = b.open[:len(b.open)-1]
	binary.NativeEndian.PutUint16(b.message[at:], uint16(len(b.message)-at))
}

func (b *batch) attribute(kind uint16, value []byte) {
	b.message = binary.NativeEndian.AppendUint16(b.message, uint16(4+len(value)))
	b.message = binary.NativeEndian.AppendUint16(b.message, kind)
	b.message = append(b.message, value...)
	for len(b.message)%4 != 0 {
		b.message = append(b.message, 0)
	}
}

func (b *batch) number(kind uint16, value uint32) {
	b.attribute(kind, binary.NativeEndian.AppendUint32(nil, value))
}

func (b *batch) short(kind, value uint16) {
	b.attribute(kind, binary.NativeEndian.AppendUint16(nil, value))
}

func (b *batch) address(kind uint16, addr netip.Addr) { b.attribute(kind, addr.AsSlice()) }

func (b *batch) port(kind, port uint16) {
	b.attribute(kind, binary.BigEndian.AppendUint16(nil, port))
}

// commit makes the kernel do all requests, and says what failed first.
func (b *batch) commit() (first error) {
	for from := 0; from < len(b.began); {
		to := from + 1
		for to < len(b.began) && b.after(to)-b.began[from] <= messageLimit {
			to++
		}
		first = cmp.Or(first, b.send(from, to))
		from = to
	}
	b.reset()
	return first
}

// reset forgets all requests. What was made of them is good until the next begins.
func (b *batch) reset() {
	b.message, b.began, b.what, b.absent = b.message[:0], b.began[:0], b.what[:0], b.absent[:0]
}

// after is where the request after one begins.
func (b *batch) after(request int) int {
	if request+1 < len(b.began) {
		return b.began[request+1]
	}
	return len(b.message)
}

// send sends the requests of a range and reads what comes of them.
func (b *batch) send(from, to int) error {
	// The last one is answered in any case, the others if they fail.
	flags := b.message[b.began[to-1]+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	socket, err := open(b.protocol)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if err := unix.Sendto(socket, b.message[b.began[from]:b.after(to-1)], 0, kernel); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	return b.receive(socket, to-1)
}

// kernel is who is at the other end of each socket.
var kernel = &unix.SockaddrNetlink{Family: unix.AF_NETLINK}

// open makes a socket of the thread's network namespace.
func open(protocol int) (socket int, err error) {
	socket, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, fmt.Errorf("netlink: %w", err)
	}
	// Complaints need not repeat the requests.
	if err := errors.Join(unix.Bind(socket, kernel), unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)); err != nil {
		unix.Close(socket)
		return 0, fmt.Errorf("netlink: %w", err)
	}
	return socket, nil
}

// receive reads the answers. The kernel works while it is sent to, so that all of
// them are there, but for those of so many failures that there was no room.
func (b *batch) receive(socket, last int) (first error) {
	buffer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(socket, buffer, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ENOBUFS) {
			continue // told once, before the answers for which there was room
		}
		if err != nil {
			return cmp.Or(first, fmt.Errorf("netlink: no answer: %w", err))
		}
		done, err := b.answers(buffer[:n], last)
		first = cmp.Or(first, err)
		if done {
			return first
		}
	}
}

// answers reads a message of the kernel: whether the last request was answered, and
// the first complaint.
func (b *batch) answers(message []byte, last int) (done bool, first error) {
	for m, err := range split(message) {
		if err != nil {
			return true, fmt.Errorf("netlink: %w", err)
		}
		if m.request >= len(b.what) {
			continue
		}
		done = done || m.request == last
		failure := m.failure()
		gone := failure == unix.ESRCH || failure == unix.ENOENT
		if failure != 0 && first == nil && !(b.absent[m.request] && gone) {
			first = fmt.Errorf("%s: %w", b.what[m.request], failure)
		}
	}
	return done, first
}

// message is one of the kernel, with four bytes of body at least.
type message struct {
	kind, flags uint16
	request     int // that it answers
	body        []byte
}

// failure is what a message says that acknowledges a request or ends a list; 0: it was done.
func (m message) failure() unix.Errno { return unix.Errno(-int32(binary.NativeEndian.Uint32(m.body))) }

var errCut = errors.New("a message of the kernel is cut")

// split are the messages of what a socket gave, or errCut in the place of one.
func split(data []byte) iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		const header = unix.NLMSG_HDRLEN
		for len(data) >= header+4 {
			length := int(binary.NativeEndian.Uint32(data))
			if length < header+4 || length > len(data) {
				yield(message{}, errCut)
				return
			}
			m := message{binary.NativeEndian.Uint16(data[4:]), binary.NativeEndian.Uint16(data[6:]), int(binary.NativeEndian.Uint32(data[8:])), data[header:length]}
			if !yield(m, nil) {
				return
			}
			data = data[min(len(data), (length+3)&^3):]
		}
	}
}

// servers is a batch about virtual servers.
type servers struct {
	batch
	family uint16
}

// The requests and attributes of IPVS (linux/ip_vs.h).
const (
	newService = 1 + iota
	setService
	deleteService
	getService
	newDest
	setDest
	deleteDest
	getDest
)

const (
	attrService = 1
	attrDest    = 2

	serviceFamily   = 1
	serviceProtocol = 2
	serviceAddress  = 3
	servicePort     = 4
	serviceMark     = 5
	serviceSched    = 6
	serviceFlags    = 7
	serviceTimeout  = 8
	serviceNetmask  = 9

	destAddress  = 1
	destPort     = 2
	destForward  = 3
	destWeight   = 4
	destUpper    = 5
	destLower    = 6
	destActive   = 7
	destInactive = 8
	destFamily   = 11

	flagPersistent = 0x1
	flagPort       = 0x10 // of the scheduler mh: clients' ports count too
)

func newServers() (*servers, error) {
	family, err := netlink.GenlFamilyGet("IPVS")
	if err != nil {
		return nil, fmt.Errorf("this kernel has no IPVS (module ip_vs): %w", err)
	}
	return &servers{batch{protocol: unix.NETLINK_GENERIC}, family.ID}, nil
}

func (b *servers) request(what string, absent bool, command byte) {
	b.begin(what, absent, b.family, 0, command, 1, 0, 0)
}

func family(addr netip.Addr) uint16 {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// at says which server a request is about; the attribute stays open.
func (b *servers) at(at place) {
	b.nest(attrService)
	b.short(serviceFamily, family(at.addr.Addr()))
	b.short(serviceProtocol, uint16(at.protocol))
	b.address(serviceAddress, at.addr.Addr())
	b.port(servicePort, at.addr.Port())
}

// settings are those of a server whose clients are single addresses.
func (b *servers) settings(scheduler string, family uint16) {
	b.attribute(serviceSched, append([]byte(scheduler), 0))
	var flags uint32
	if scheduler == "mh" {
		flags |= flagPort
	}
	b.attribute(serviceFlags, binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, flags), ^uint32(0)))
	b.number(serviceTimeout, 0)
	netmask := ^uint32(0)
	if family == unix.AF_INET6 {
		netmask = 128
	}
	b.number(serviceNetmask, netmask)
}

func (b *servers) write(what string, command byte, at place, scheduler string) {
	b.request(what, false, command)
	b.at(at)
	b.settings(scheduler, family(at.addr.Addr()))
	b.close()
	b.end()
}

func (b *servers) add(at place, scheduler string) {
	b.write("make a virtual server", newService, at, scheduler)
}

func (b *servers) set(at place, scheduler string) {
	b.write("change a virtual server", setService, at, scheduler)
}

func (b *servers) delete(at place) {
	b.request("delete a virtual server", true, deleteService)
	b.at(at)
	b.close()
	b.end()
}

// probe makes a server for packets with a mark and deletes it.
func (b *servers) probe(scheduler string) {
	for _, command := range []byte{newService, deleteService} {
		b.request("try a virtual server with the scheduler "+scheduler, false, command)
		b.nest(attrService)
		b.short(serviceFamily, unix.AF_INET)
		b.number(serviceMark, probeMark)
		b.settings(scheduler, unix.AF_INET)
		b.close()
		b.end()
	}
}

func (b *servers) destination(what string, absent bool, command byte, at place, e netip.AddrPort, weight uint32) {
	b.request(what, absent, command)
	b.at(at)
	b.close()
	b.nest(attrDest)
	b.short(destFamily, family(e.Addr()))
	b.address(destAddress, e.Addr())
	b.port(destPort, e.Port())
	b.number(destForward, 0) // by translation of addresses
	b.number(destWeight, weight)
	b.number(destUpper, 0)
	b.number(destLower, 0)
	b.close()
	b.end()
}

func (b *servers) addDestination(at place, e netip.AddrPort, weight uint32) {
	b.destination("add an endpoint", false, newDest, at, e, weight)
}

func (b *servers) setDestination(at place, e netip.AddrPort, weight uint32) {
	b.destination("weigh an endpoint", false, setDest, at, e, weight)
}

func (b *servers) deleteDestination(at place, e netip.AddrPort) {
	b.destination("remove an endpoint", true, deleteDest, at, e, 0)
}

// routes is a batch about addresses that lead to an interface.
type routes struct {
	batch
	device int
}

// routeProtocol marks the routes that are ours. Programs that keep routes leave those
// of protocols they do not know alone.
const routeProtocol = 83

func newRoutes(device int) *routes { return &routes{batch{protocol: unix.NETLINK_ROUTE}, device} }

// request is about a route that makes an address one of this machine.
func (b *routes) request(what string, absent bool, kind, flags uint16, addr netip.Addr) {
	b.begin(what, absent, kind, flags,
		byte(family(addr)), byte(addr.BitLen()), 0, 0, unix.RT_TABLE_LOCAL, routeProtocol, unix.RT_SCOPE_HOST, unix.RTN_LOCAL, 0, 0, 0, 0)
	b.address(unix.RTA_DST, addr)
	b.number(unix.RTA_OIF, uint32(b.device))
	b.end()
}

func (b *routes) add(addr netip.Addr) {
	b.request("route a virtual server's address to this machine", false, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, addr)
}

func (b *routes) delete(addr netip.Addr) {
	b.request("delete the route to a virtual server", true, unix.RTM_DELROUTE, 0, addr)
}
