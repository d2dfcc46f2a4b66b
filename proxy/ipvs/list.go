package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// listServers are all virtual servers of the thread's network namespace that have
// addresses. The kernel tells of servers in pieces, and goes on after so many of all
// that there are, in other namespaces too: if one of those goes meanwhile, one of ours
// is left out. So those that should be there are asked for alone, where the list lacks
// them.
func listServers(expected map[place]*server) (map[place]*server, error) {
	l, err := newLister()
	if err != nil {
		return nil, err
	}
	defer l.close()
	list := make(map[place]*server, len(expected))
	if err := l.servers(list); err != nil {
		return nil, err
	}
	for at := range expected {
		if list[at] == nil {
			if err := l.server(at, list); err != nil {
				return nil, err
			}
		}
	}
	for at, found := range list {
		if found.destinations, err = l.destinations(at); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// listDestinations are those of some servers, without any of a server that is not there.
func listDestinations[V any](of map[place]V) (map[place]map[netip.AddrPort]destination, error) {
	l, err := newLister()
	if err != nil {
		return nil, err
	}
	defer l.close()
	list := make(map[place]map[netip.AddrPort]destination, len(of))
	for at := range of {
		if list[at], err = l.destinations(at); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// lister asks the kernel one question after the other. The files below /proc tell of
// servers too, but leave some out where other network namespaces have any: they come
// in pieces of a page, and go on by numbers of two kinds.
type lister struct {
	socket   int
	requests *servers
	buffer   []byte
}

func newLister() (*lister, error) {
	requests, err := newServers()
	if err != nil {
		return nil, err
	}
	socket, err := open(requests.protocol)
	if err != nil {
		return nil, err
	}
	return &lister{socket, requests, make([]byte, messageLimit)}, nil
}

func (l *lister) close() { unix.Close(l.socket) }

// servers lists all there are, without their destinations.
func (l *lister) servers(list map[place]*server) error {
	l.requests.begin("list virtual servers", false, l.requests.family, unix.NLM_F_DUMP, getService, 1, 0, 0)
	l.requests.end()
	return l.ask(func(attributes []byte) error { return listed(list, attributes) })
}

// server lists one, if it is there.
func (l *lister) server(at place, list map[place]*server) error {
	l.requests.request("look for a virtual server", true, getService)
	l.requests.at(at)
	l.requests.close()
	l.requests.end()
	return l.ask(func(attributes []byte) error { return listed(list, attributes) })
}

func (l *lister) destinations(at place) (map[netip.AddrPort]destination, error) {
	l.requests.begin("list endpoints", true, l.requests.family, unix.NLM_F_DUMP, getDest, 1, 0, 0)
	l.requests.at(at)
	l.requests.close()
	l.requests.end()
	list := make(map[netip.AddrPort]destination)
	return list, l.ask(func(attributes []byte) error {
		addr, d, err := parseDestination(attributes, at)
		list[addr] = d
		return err
	})
}

// ask sends the one request that there is and has tell called with the attributes of
// each message that answers it.
func (l *lister) ask(tell func(attributes []byte) error) error {
	message, what, absent := l.requests.message, l.requests.what[0], l.requests.absent[0]
	l.requests.reset()
	if err := unix.Sendto(l.socket, message, 0, kernel); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(l.socket, l.buffer, unix.MSG_DONTWAIT)
		if err != nil {
			return fmt.Errorf("netlink: no answer: %w", err)
		}
		last, err := answer(l.buffer[:n], tell)
		if gone := errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT); gone && absent {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if last {
			return nil
		}
	}
}

// answer reads messages that answer a question, and says whether the last is among
// them.
func answer(messages []byte, tell func(attributes []byte) error) (last bool, err error) {
	for m, err := range split(messages) {
		if err != nil {
			return true, err
		}
		if m.kind == unix.NLMSG_ERROR || m.kind == unix.NLMSG_DONE {
			if failure := m.failure(); failure != 0 {
				return true, failure
			}
			return true, nil
		}
		if err := tell(m.body[4:]); err != nil { // after what generic netlink puts first
			return true, err
		}
		if m.flags&unix.NLM_F_MULTI == 0 {
			return true, nil
		}
	}
	return false, nil
}

// listed adds the server that attributes are about, unless it has no address.
func listed(list map[place]*server, attributes []byte) error {
	values, err := nested(attributes, attrService)
	if err != nil {
		return err
	}
	family, protocol := values.short(serviceFamily), values.short(serviceProtocol)
	addr, ok := values.addrPort(serviceAddress, servicePort, family)
	if !ok || values[serviceMark] != nil {
		return nil
	}
	scheduler, flags := values[serviceSched], values[serviceFlags]
	if len(scheduler) == 0 || len(flags) < 4 {
		return errCut
	}
	list[place{uint8(protocol), addr}] = &server{
		scheduler:  unix.ByteSliceToString(scheduler),
		persistent: binary.NativeEndian.Uint32(flags)&flagPersistent != 0,
	}
	return nil
}

// parseDestination reads a destination of a server, of whose family kernels before
// 3.18 say nothing.
func parseDestination(attributes []byte, of place) (netip.AddrPort, destination, error) {
	values, err := nested(attributes, attrDest)
	if err != nil {
		return netip.AddrPort{}, destination{}, err
	}
	f := family(of.addr.Addr())
	if values[destFamily] != nil {
		f = values.short(destFamily)
	}
	addr, ok := values.addrPort(destAddress, destPort, f)
	if !ok {
		return netip.AddrPort{}, destination{}, errCut
	}
	flows := values.number(destActive) + values.number(destInactive)
	return addr, destination{weight: values.number(destWeight), flows: int(flows)}, nil
}

// values are attributes by their kinds, those that are looked at.
type values [destFamily + 1][]byte

// nested are the attributes within the one of a kind.
func nested(attributes []byte, kind uint16) (*values, error) {
	outer, err := parseValues(attributes)
	if err != nil {
		return nil, err
	}
	return parseValues(outer[kind])
}

func parseValues(attributes []byte) (*values, error) {
	v := new(values)
	for len(attributes) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < unix.SizeofNlAttr || length > len(attributes) {
			return nil, errCut
		}
		kind := binary.NativeEndian.Uint16(attributes[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if int(kind) < len(v) {
			v[kind] = attributes[unix.SizeofNlAttr:length]
		}
		attributes = attributes[min(len(attributes), (length+3)&^3):]
	}
	return v, nil
}

func (v *values) short(kind uint16) uint16 {
	if len(v[kind]) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(v[kind])
}

func (v *values) number(kind uint16) uint32 {
	if len(v[kind]) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v[kind])
}

// addrPort is an address with a port. The kernel gives each address the room of IPv6.
func (v *values) addrPort(addrKind, portKind, family uint16) (netip.AddrPort, bool) {
	size := 4
	if family == unix.AF_INET6 {
		size = 16
	}
	raw, port := v[addrKind], v[portKind]
	if len(raw) < size || len(port) < 2 {
		return netip.AddrPort{}, false
	}
	addr, _ := netip.AddrFromSlice(raw[:size])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)), true
}
