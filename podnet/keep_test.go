package podnet

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// alone makes a machine on a link with nobody else.
func alone(t testing.TB, mode Mode) *host {
	t.Helper()
	ns := nettest.New(t)
	nettest.Join(t, ns, "eth0", "192.0.2.1/24", nettest.New(t), "eth0", "192.0.2.254/24")
	return newHost(t, ns, 1, "192.0.2.1", mode)
}

// kept is what the kernel holds.
func (h *host) kept(t testing.TB) []string {
	t.Helper()
	got, err := h.kernel.read(h.link)
	if err != nil {
		t.Fatal(err)
	}
	return got.lines()
}

func (h *host) keeps(t testing.TB, when string, nodes ...Node) {
	t.Helper()
	want, errs := h.want(nodes)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if diff := cmp.Diff(want.lines(), h.kept(t)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// TestNodesComeAndGo sees that a machine leads to the nodes there are, wherever they are now, and to no others; and
// that a change costs what it changes.
func TestNodesComeAndGo(t *testing.T) {
	for _, mode := range []Mode{Route, VXLAN} {
		t.Run(string(mode), func(t *testing.T) {
			h := alone(t, mode)
			two, three := node("node-2", "192.0.2.2", "10.9.2.0/24"), node("node-3", "192.0.2.3", "10.9.3.0/24")
			for _, step := range []struct {
				name   string
				nodes  []Node
				writes map[Mode]int
			}{
				{"two come", []Node{two, three}, map[Mode]int{Route: 2, VXLAN: 6}},
				{"nothing changes", []Node{three, two}, nil},
				{"one has another address", []Node{two, node("node-3", "192.0.2.4", "10.9.3.0/24")}, map[Mode]int{Route: 1, VXLAN: 3}},
				{"one has other pods", []Node{two, node("node-3", "192.0.2.4", "10.9.4.0/24")}, map[Mode]int{Route: 2, VXLAN: 4}},
				{"one takes over the pods of another", []Node{node("node-2", "192.0.2.5", "10.9.4.0/24"), node("node-3", "192.0.2.4")}, map[Mode]int{Route: 2, VXLAN: 6}},
				{"all go", nil, map[Mode]int{Route: 1, VXLAN: 3}},
			} {
				before := h.kernel.writes
				h.sync(t, append([]Node{h.self}, step.nodes...)...)
				h.keeps(t, step.name, step.nodes...)
				if got := h.kernel.writes - before; got != step.writes[mode] {
					t.Errorf("%s: %d entries were written, want %d", step.name, got, step.writes[mode])
				}
			}
		})
	}
}

// TestProcessesFollow sees that a process takes over what an earlier one left, in whatever mode that was, and that
// nothing is left by the last.
func TestProcessesFollow(t *testing.T) {
	h := alone(t, Route)
	h.Run(t, "ip", "route", "add", "10.9.200.0/24", "via", "192.0.2.9")                    // an administrator's
	h.Run(t, "ip", "route", "add", "10.8.1.0/24", "via", "192.0.2.9", "proto", "83")       // another cluster's
	others := func() string { return h.Run(t, "ip", "route", "show", "via", "192.0.2.9") } // of both
	before := others()
	two, three, four := node("node-2", "192.0.2.2", "10.9.2.0/24"), node("node-3", "192.0.2.3", "10.9.3.0/24"), node("node-4", "192.0.2.4", "10.9.4.0/24")
	for i, mode := range []Mode{Route, Route, VXLAN, VXLAN, Route} {
		h.open(t, mode)
		nodes := []Node{two, three, four}
		nodes = append(nodes[:i%3], nodes[i%3+1:]...)
		h.sync(t, append(nodes, h.self)...)
		h.keeps(t, fmt.Sprintf("process %d", i), nodes...)
		if _, err := h.kernel.LinkByName(Device); (err == nil) != (mode == VXLAN) {
			t.Errorf("process %d: device in mode %s: %v", i, mode, err)
		}
	}
	for _, mode := range []Mode{Route, VXLAN} {
		h.open(t, mode)
		h.sync(t, h.self, two, three)
		for range 2 { // what is not there is no error
			var err error
			h.Do(t, func() { err = Remove(pods...) })
			if err != nil {
				t.Errorf("remove: %v", err)
			}
		}
		if got := h.kept(t); len(got) > 0 {
			t.Errorf("left after mode %s: %q", mode, got)
		}
		if links := h.Run(t, "ip", "-o", "link"); strings.Contains(links, Device) {
			t.Errorf("left after mode %s:\n%s", mode, links)
		}
	}
	if after := others(); after != before {
		t.Errorf("routes of others: got\n%swant\n%s", after, before)
	}
}

// TestEarlierVersion has an earlier version leave its route to nowhere, which had no mark of its own.
func TestEarlierVersion(t *testing.T) {
	h := alone(t, Route)
	var err error
	h.Do(t, func() { err = Remove(pods...) })
	if err != nil {
		t.Fatal(err)
	}
	h.Run(t, "ip", "route", "add", "unreachable", "10.8.0.0/16") // an administrator's
	h.Run(t, "ip", "route", "add", "unreachable", "10.9.0.0/16")
	h.Do(t, func() { err = RemoveRoutes(pods...) })
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(h.Run(t, "ip", "route", "show", "type", "unreachable")), "unreachable 10.8.0.0/16"; got != want {
		t.Errorf("routes to nowhere: got %q, want %q", got, want)
	}
}

// TestTakenAway sees that what another program took away comes back.
func TestTakenAway(t *testing.T) {
	two := node("node-2", "192.0.2.2", "10.9.2.0/24")
	for _, test := range []struct {
		mode   Mode
		script string
	}{
		{Route, "ip route flush proto 83"},
		{Route, "ip route replace 10.9.2.0/24 via 192.0.2.77 proto 83"},
		{VXLAN, "ip link del skiff.vxlan"},
		{VXLAN, "ip link set skiff.vxlan down"},
		{VXLAN, "ip link set skiff.vxlan mtu 1300"},
		{VXLAN, "ip address flush dev skiff.vxlan"},
		{VXLAN, "ip address add 10.9.77.1/24 dev skiff.vxlan"},
		{VXLAN, "ip neigh flush dev skiff.vxlan nud permanent"},
		{VXLAN, "bridge fdb del 0a:53:c0:00:02:02 dev skiff.vxlan dst 192.0.2.2 self"},
		{VXLAN, "bridge fdb append 0a:53:c0:00:02:09 dev skiff.vxlan dst 192.0.2.9 self permanent"},
		{VXLAN, "ip link del skiff.vxlan; ip link add skiff.vxlan type vxlan id 77 dstport 4789"},
		{VXLAN, "ip link del skiff.vxlan; ip link add skiff.vxlan address 0a:53:c0:00:02:01 type vxlan id 83 dstport 8472 local 192.0.2.1 nolearning noudpcsum"},
		{VXLAN, "ip link del skiff.vxlan; ip link add skiff.vxlan type bridge"},
	} {
		t.Run(test.script, func(t *testing.T) {
			h := alone(t, test.mode)
			h.sync(t, h.self, two)
			before := h.shape(t)
			h.Run(t, "sh", "-c", test.script)
			if h.shape(t) == before {
				t.Fatal("the script changes nothing")
			}
			h.sync(t, h.self, two)
			h.keeps(t, "afterwards", two)
			if after := h.shape(t); after != before {
				t.Errorf("got\n%s\nwant\n%s", after, before)
			}
		})
	}
}

// shape is the device, its addresses and all that leads to pods, without numbers that are new each time.
func (h *host) shape(t testing.TB) string {
	t.Helper()
	return h.Run(t, "sh", "-c", `ip -d link show dev skiff.vxlan 2>&1 | sed 's/^[0-9]*: //'
		ip -o address show dev skiff.vxlan 2>&1 | sed 's/^[0-9]*: //'
		ip neigh show dev skiff.vxlan nud permanent 2>&1; bridge fdb show dev skiff.vxlan 2>&1 | sort; ip route | sort`)
}

// TestUnderlayChanges sees that the MTU of pods follows that of the link, and that they are told.
func TestUnderlayChanges(t *testing.T) {
	h := alone(t, VXLAN)
	h.Run(t, "ip", "link", "set", "eth0", "mtu", "9000")
	h.sync(t, h.self)
	if h.share.MTU != 8950 {
		t.Errorf("told of an MTU of %d, want 8950", h.share.MTU)
	}
	link, err := h.kernel.LinkByName(Device)
	if err != nil || link.Attrs().MTU != 8950 {
		t.Errorf("device: %v, %v, want an MTU of 8950", link, err)
	}
}

// TestAddressOfTheMachineChanges sees that peers reach a machine that has another address, without being told but
// by its Node.
func TestAddressOfTheMachineChanges(t *testing.T) {
	a, b := linked(t, VXLAN, 1500)
	send(t, a.pod, b.pod, "10.9.2.2:9001", 1000)
	b.Run(t, "ip", "address", "del", "192.0.2.2/24", "dev", "eth0")
	b.Run(t, "ip", "address", "add", "192.0.2.33/24", "dev", "eth0")
	b.self = node("node-2", "192.0.2.33", "10.9.2.0/24")
	b.open(t, VXLAN)
	joined(t, a, b)
	send(t, a.pod, b.pod, "10.9.2.2:9002", 1000)
	send(t, b.pod, a.pod, "10.9.1.2:9002", 1000)
}

// TestThousandNodes sees that entries of a thousand nodes are written once each, and that one more node costs its
// own. How long it takes is told.
func TestThousandNodes(t *testing.T) {
	for mode, each := range map[Mode]int{Route: 1, VXLAN: 3} {
		t.Run(string(mode), func(t *testing.T) {
			ns := nettest.New(t)
			nettest.Join(t, ns, "eth0", "172.16.0.1/16", nettest.New(t), "eth0", "172.16.0.2/16")
			h := newHost(t, ns, 1, "172.16.0.1", mode)
			nodes := []Node{h.self}
			for i := range 1000 {
				pods := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i/16 + 64), byte(i % 16 << 4)}), 28)
				nodes = append(nodes, Node{
					Name:      "other-" + strconv.Itoa(i),
					Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(1 + i/250), byte(1 + i%250)})}, Pods: []netip.Prefix{pods},
				})
			}
			h.costs(t, "a thousand nodes", nodes, 1000*each, true)
			h.costs(t, "the same", nodes, 0, true)
			last := node("last", "172.16.9.9", "10.9.250.0/28")
			h.costs(t, "one more", append(nodes, last), each, false)
			h.costs(t, "one less", nodes, each, false)
			h.keeps(t, "afterwards", nodes...)
		})
	}
}

// costs sees how many entries a change takes, with or without a look at the whole.
func (h *host) costs(t testing.TB, what string, nodes []Node, writes int, whole bool) {
	t.Helper()
	before, begin := h.kernel.writes, time.Now()
	var err error
	h.Do(t, func() { err = h.machine.sync(nodes, whole) })
	if took := time.Since(begin); err == nil {
		t.Logf("%s: %d entries, %v", what, h.kernel.writes-before, took.Round(10*time.Microsecond))
	}
	if got := h.kernel.writes - before; err != nil || got != writes {
		t.Errorf("%s: %v, %d entries were written, want %d", what, err, got, writes)
	}
}

// TestCheck sees that trying whether there can be a VXLAN leaves nothing.
func TestCheck(t *testing.T) {
	ns := nettest.New(t)
	for _, mode := range []Mode{Route, VXLAN} {
		var err error
		var links []netlink.Link
		ns.Do(t, func() {
			if err = Check(mode); err == nil {
				links, err = netlink.LinkList()
			}
		})
		if err != nil || len(links) != 1 {
			t.Errorf("%s: %v, links %v, want the loopback alone", mode, err, links)
		}
	}
}

// TestAnotherVXLAN sees that other pod networks' devices do not matter, but for one of the same number.
func TestAnotherVXLAN(t *testing.T) {
	h := alone(t, Route)
	h.Run(t, "ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472", "local", "192.0.2.1", "nolearning")
	h.open(t, VXLAN)
	h.sync(t, h.self)
	h.Run(t, "ip", "link", "del", Device)
	h.Run(t, "ip", "link", "add", "other", "type", "vxlan", "id", "83", "dstport", "8472", "local", "192.0.2.1", "nolearning")
	if err := h.trySync(t, h.self); err == nil || !strings.Contains(err.Error(), "another link of this machine is VXLAN 83 at port 8472") {
		t.Errorf("beside a VXLAN of the same number: got %v", err)
	}
	var err error
	h.Do(t, func() { err = Check(VXLAN) })
	if err != nil {
		t.Errorf("check: %v", err)
	}
}

// TestTranslatedAddress sees that routes do without a link that has the machine's address, and a VXLAN does not.
func TestTranslatedAddress(t *testing.T) {
	h := alone(t, Route)
	two := node("node-2", "192.0.2.2", "10.9.2.0/24")
	h.self.Addresses[0] = netip.MustParseAddr("203.0.113.1")
	h.open(t, Route)
	h.sync(t, h.self, two)
	h.keeps(t, "with routes", two)
	if h.share.MTU != 0 {
		t.Errorf("told of an MTU of %d, want none", h.share.MTU)
	}
	h.open(t, VXLAN)
	if err := h.trySync(t, h.self, two); err == nil || !strings.Contains(err.Error(), "no link of this machine has the address 203.0.113.1") {
		t.Errorf("with a VXLAN: got %v", err)
	}
}
