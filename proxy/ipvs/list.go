package ipvs

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// listServers are all virtual servers of the thread's network namespace that have
// addresses. The kernel's file tells of all at once, where netlink would be asked for
// each.
func listServers() (map[place]*server, error) {
	file, err := os.Open("/proc/thread-self/net/ip_vs")
	if errors.Is(err, fs.ErrNotExist) { // the module is not loaded
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	list, err := parseServers(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return list, nil
}

// parseServers reads the kernel's list. Under each server, which may be persistent,
//
//	TCP  0A600001:01BB rr persistent 2700000 FFFFFFFF
//
// come its destinations with their weights and flows, active and inactive ones:
//
//	-> 0AF40005:192B Masq 1 0 3
func parseServers(text io.Reader) (map[place]*server, error) {
	list := make(map[place]*server)
	var last *server
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 3 {
			continue
		}
		if words[0] == "->" {
			if last == nil {
				continue // the heading, or of a server without address
			}
			addr, err := parseAddrPort(words[1])
			if err != nil {
				return nil, err
			}
			if last.destinations[addr], err = parseDestination(words[2:]); err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			continue
		}
		last = nil
		protocol, ok := map[string]uint8{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}[words[0]]
		if !ok {
			continue
		}
		addr, err := parseAddrPort(words[1])
		if err != nil {
			return nil, err
		}
		last = &server{scheduler: words[2], persistent: slices.Contains(words, "persistent"), destinations: make(map[netip.AddrPort]destination)}
		list[place{protocol, addr}] = last
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return list, nil
}

func parseDestination(words []string) (destination, error) {
	if len(words) != 4 {
		return destination{}, errors.New("not a destination")
	}
	weight, err1 := strconv.ParseUint(words[1], 10, 32)
	active, err2 := strconv.Atoi(words[2])
	inactive, err3 := strconv.Atoi(words[3])
	return destination{weight: uint32(weight), flows: active + inactive}, errors.Join(err1, err2, err3)
}

// parseAddrPort reads 0A600001:01BB and [2001:0db8:…:0001]:01BB.
func parseAddrPort(text string) (netip.AddrPort, error) {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address with a port", text)
	}
	port, err := strconv.ParseUint(text[colon+1:], 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var addr netip.Addr
	if host := text[:colon]; strings.HasPrefix(host, "[") {
		addr, err = netip.ParseAddr(strings.Trim(host, "[]"))
	} else {
		var raw []byte
		if raw, err = hex.DecodeString(host); err == nil && len(raw) != 4 {
			err = fmt.Errorf("%q is no address", host)
		}
		addr, _ = netip.AddrFromSlice(raw)
	}
	return netip.AddrPortFrom(addr, uint16(port)), err
}
