package podnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// node makes a node from its addresses and its ranges of pods, which have a slash.
func node(name string, has ...string) Node {
	n := Node{Name: name}
	for _, text := range has {
		if strings.Contains(text, "/") {
			n.Pods = append(n.Pods, netip.MustParsePrefix(text))
		} else {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(text))
		}
	}
	return n
}

func (t table) lines() []string {
	var lines []string
	for k, v := range t {
		lines = append(lines, fmt.Sprintf("%s by %s", k, v.by()))
	}
	slices.Sort(lines)
	return lines
}

func TestWant(t *testing.T) {
	both := []Node{
		node("a", "192.0.2.1", "2001:db8::1", "10.1.1.0/24", "fd00:1:1::/64"),
		node("b", "192.0.2.2", "2001:db8::2", "10.1.2.0/24", "fd00:1:2::/64"),
	}
	for _, test := range []struct {
		name    string
		backend backend
		nodes   []Node
		want    []string
		err     string
	}{
		{"routes lead by nodes", &routes{}, both, []string{
			"route to 10.1.2.0/24 by 192.0.2.2", "route to fd00:1:2::/64 by 2001:db8::2",
		}, ""},
		{"nodes off the link are behind a router", &routes{
			routers:    []netip.Addr{netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("2001:db8::fe")},
			neighbours: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")},
		}, []Node{
			node("b", "192.0.2.2", "10.1.2.0/24"), node("c", "198.51.100.3", "2001:db8:1::3", "10.1.3.0/24", "fd00:1:3::/64"),
		}, []string{"route to 10.1.2.0/24 by 192.0.2.2", "route to 10.1.3.0/24 by 192.0.2.254", "route to fd00:1:3::/64 by 2001:db8::fe"}, ""},
		{"a VXLAN has both families over one", &vxlan{address: netip.MustParseAddr("192.0.2.1")}, both, []string{
			"forwarding of 0a:53:c0:00:02:02 by 192.0.2.2",
			"neighbour 10.1.2.0 by 0a:53:c0:00:02:02", "neighbour fd00:1:2:: by 0a:53:c0:00:02:02",
			"route to 10.1.2.0/24 by 10.1.2.0", "route to fd00:1:2::/64 by fd00:1:2::",
		}, ""},
		{"a VXLAN over IPv6", &vxlan{address: netip.MustParseAddr("2001:db8::1")}, both[1:], []string{
			"forwarding of " + hardwareOf(netip.MustParseAddr("2001:db8::2")).String() + " by 2001:db8::2",
			"neighbour 10.1.2.0 by " + hardwareOf(netip.MustParseAddr("2001:db8::2")).String(),
			"neighbour fd00:1:2:: by " + hardwareOf(netip.MustParseAddr("2001:db8::2")).String(),
			"route to 10.1.2.0/24 by 10.1.2.0", "route to fd00:1:2::/64 by fd00:1:2::",
		}, ""},
		{"nothing leads to a node that has no pods yet", &vxlan{address: netip.MustParseAddr("192.0.2.1")}, []Node{node("b")}, nil, ""},
		{"a node without an address costs no other", &routes{}, []Node{node("b", "10.1.2.0/24"), node("c", "192.0.2.3", "10.1.3.0/24")},
			[]string{"route to 10.1.3.0/24 by 192.0.2.3"}, "node b: it has no IPv4 address"},
		{"a range that is no pods' leads nowhere", &routes{}, []Node{node("b", "192.0.2.2", "0.0.0.0/0"), node("c", "192.0.2.3", "10.1.0.0/16")},
			nil, "node b: its range 0.0.0.0/0 is not within that of pods\nnode c: its range 10.1.0.0/16 is not within that of pods"},
		{"the range of another node stays that node's", &routes{}, []Node{node("c", "192.0.2.3", "10.1.2.0/24"), node("b", "192.0.2.2", "10.1.2.0/24")},
			[]string{"route to 10.1.2.0/24 by 192.0.2.2"}, "node c: node b has its range 10.1.2.0/24"},
		{"nobody else has this machine's address", &routes{}, []Node{node("b", "192.0.2.1", "10.1.2.0/24")}, nil, "node b: 192.0.2.1 is the address of this machine"},
		{"the loopback is nobody's address", &routes{}, []Node{node("b", "127.0.0.1", "10.1.2.0/24")}, nil, "node b: it has no IPv4 address"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &machine{backend: test.backend, Config: Config{
				Node: "a", Address: netip.MustParseAddr("192.0.2.1"),
				Ranges: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")},
			}}
			got, errs := m.want(test.nodes)
			want := append([]string{"route to 10.1.0.0/16 by nothing", "route to fd00:1::/32 by nothing"}, test.want...)
			slices.Sort(want)
			if diff := cmp.Diff(want, got.lines()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var said []string
			for _, err := range errs {
				said = append(said, err.Error())
			}
			if got := strings.Join(said, "\n"); got != test.err {
				t.Errorf("got error %q, want %q", got, test.err)
			}
		})
	}
}

// TestDiffLeadsOn sees that an entry comes after those that it needs, goes before them, and that what is the same
// is left alone.
func TestDiffLeadsOn(t *testing.T) {
	mac, other := hardware{1}, hardware{2}
	address := netip.MustParseAddr("10.1.2.0")
	pods, old := netip.MustParsePrefix("10.1.2.0/24"), netip.MustParsePrefix("10.1.3.0/24")
	node := netip.MustParseAddr("192.0.2.2")
	held, want := make(table), make(table)
	held.forward(mac, node)
	held.route(old, address)
	held.neighbour(address, mac)
	held.route(pods, address)
	want.route(pods, address)
	want.forward(other, node)
	want.neighbour(address, other)
	var got []string
	for _, c := range diff(held, want) {
		got = append(got, fmt.Sprintf("%s %t", c.key, c.gone))
	}
	if diff := cmp.Diff([]string{
		"forwarding of 02:00:00:00:00:00 false", "neighbour 10.1.2.0 false",
		"route to 10.1.3.0/24 true", "forwarding of 01:00:00:00:00:00 true",
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestModes(t *testing.T) {
	for text, ok := range map[string]bool{"route": true, "vxlan": true, "wireguard": false, "": false, "VXLAN": false} {
		var m Mode
		if err := m.UnmarshalText([]byte(text)); (err == nil) != ok {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
