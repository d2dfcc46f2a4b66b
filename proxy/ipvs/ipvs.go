// Package ipvs is a proxy.Backend whose flows are spread by IPVS, the kernel's own
// load balancer, with any of its schedulers.
//
// IPVS knows virtual servers, and nothing of node ports at any address, of clients
// that are let in, or of the source that a packet should have. So the work is
// divided. Each port of a Service is a virtual server at its cluster IP, which is an
// address of this machine by a route to a dummy interface. Rules of nf_tables, those
// of package nftables, judge a flow first: they refuse it, mark it to be
// masqueraded, and translate whatever front it came to into the address of the
// virtual server, as if that were the only endpoint. A Service that keeps some
// traffic on the node has two sets of endpoints, and so a second virtual server, at
// a port of the cluster IP that is otherwise unused and that clients cannot reach.
//
// What is in the kernel says what is this package's: virtual servers at addresses
// that are routed to the interface, and the interface, whose alias holds the settings
// of the kernel from before.
package ipvs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy"
)

// schedulers are those of the kernel that need no settings per endpoint.
var schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos"}

// DefaultScheduler gives each endpoint a flow in turn.
const DefaultScheduler = "rr"

// CheckScheduler says why there can be no scheduler of a name.
func CheckScheduler(name string) error {
	if slices.Contains(schedulers, name) {
		return nil
	}
	return fmt.Errorf("there is no scheduler %q of IPVS; there are %s", name, strings.Join(schedulers, ", "))
}

// Backend makes virtual servers in the network namespace of the thread.
type Backend struct {
	scheduler string
	rules     proxy.Backend // applies what IPVS cannot do

	// What follows is how things were left. It is empty if that is not known.
	known   bool
	state   state
	planned map[ruleKey]planned
	passed  *proxy.Table // to rules
}

var _ proxy.Backend = (*Backend)(nil)

// New returns a backend with a scheduler that CheckScheduler knows. rules becomes
// the backend's own: it is given tables in which virtual servers stand for
// endpoints.
func New(scheduler string, rules proxy.Backend) *Backend {
	return &Backend{scheduler: scheduler, rules: rules}
}

// probeMark is what marks packets for the virtual server by which Available tries the
// kernel out. None has it.
const probeMark = 0x736b6966

// Available says what the kernel lacks, by making an interface and a virtual server
// and taking them away again.
func Available(scheduler string) error {
	if _, err := netlink.GenlFamilyGet("IPVS"); err != nil {
		return fmt.Errorf("this kernel has no IPVS (module ip_vs): %w", err)
	}
	probe := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: deviceName + "-try"}}
	if err := netlink.LinkAdd(probe); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("this kernel has no dummy interfaces (module dummy): %w", err)
	}
	if err := netlink.LinkDel(probe); err != nil {
		return fmt.Errorf("delete the interface %s: %w", probe.Name, err)
	}
	b, err := newServers()
	if err != nil {
		return err
	}
	b.probe(scheduler)
	if err := b.commit(); err != nil {
		return fmt.Errorf("this kernel has not all of IPVS (modules ip_vs and ip_vs_%s): %w", scheduler, err)
	}
	return nil
}

// Apply makes virtual servers, and rules that lead to them. New servers are there
// before the rules, old ones go after them.
func (b *Backend) Apply(ctx context.Context, t *proxy.Table) error {
	known := b.known
	b.known = false // until all that follows is done
	requests, err := newServers()
	if err != nil {
		return err
	}
	if !known {
		if err := b.begin(); err != nil {
			return err
		}
	}
	next := plan(t, b.planned)
	s := newStep(&b.state, requests, b.scheduler, next, time.Now())
	if len(b.state.draining) > 0 {
		// What leaves now may get flows until the kernel is told: it is looked at next time.
		list, err := listDestinations(b.state.draining)
		if err != nil {
			return err
		}
		s.drained(list)
	}
	for key, p := range next {
		if old, ok := b.planned[key]; !ok || old != p {
			s.ensure(p)
		}
	}
	if err := s.commit(); err != nil {
		return err
	}
	passed := pass(t, next, b.planned, b.passed)
	if err := b.rules.Apply(ctx, passed); err != nil {
		return err
	}
	for key, old := range b.planned {
		if p, ok := next[key]; !ok || p != old {
			s.stale(old)
		}
	}
	s.stray()
	if err := s.commit(); err != nil {
		return err
	}
	b.known, b.planned, b.passed = true, next, passed
	return nil
}

// begin makes the interface and reads what the kernel has.
func (b *Backend) begin() error {
	b.planned, b.passed = nil, nil
	device, err := makeDevice()
	if err != nil {
		return err
	}
	if b.state, err = read(device, b.state.servers); err != nil {
		return err
	}
	b.state.fresh = true
	return nil
}

// Intact reports whether virtual servers, routes and rules are as Apply left them.
func (b *Backend) Intact(ctx context.Context) (bool, error) {
	if !b.known {
		return false, nil
	}
	intact, err := b.intact()
	if err == nil && intact {
		intact, err = b.rules.Intact(ctx)
	}
	b.known = b.known && intact
	return intact, err
}

func (b *Backend) intact() (bool, error) {
	device, err := findDevice()
	if err != nil || device == nil || device.Attrs().Index != b.state.device || device.Attrs().Flags&net.FlagUp == 0 {
		return false, err
	}
	if set, err := settingsHold(); err != nil || !set {
		return false, err
	}
	found, err := read(device, b.state.servers)
	if err != nil {
		return false, err
	}
	return maps.Equal(found.addresses, b.state.addresses) && maps.EqualFunc(found.servers, b.state.servers, (*server).equal), nil
}

// Remove takes away virtual servers, rules and the interface, of this run or an
// earlier one, and puts the settings of the kernel back.
func (b *Backend) Remove(ctx context.Context) error {
	b.known = false
	// The interface is there as long as there may be something else.
	device, err := findDevice()
	if err != nil || device == nil {
		return err
	}
	if err := b.rules.Remove(ctx); err != nil {
		return err
	}
	s, err := read(device, b.state.servers)
	if err != nil {
		return err
	}
	batch, err := newServers()
	if err != nil {
		return err
	}
	for at := range s.servers {
		batch.delete(at)
	}
	if err := batch.commit(); err != nil {
		return err
	}
	return removeDevice(device)
}

// state is what this package has in the kernel.
type state struct {
	device    int // index of the interface
	addresses map[netip.Addr]bool
	servers   map[place]*server
	// draining are endpoints that get no new flows. Each has the time since when it
	// does not serve; zero while it does.
	draining map[place]map[netip.AddrPort]time.Time
	// others are servers at other addresses, which are ours if a Service has them: the
	// route may have been taken away. They are known after a start alone.
	others map[place]*server
	// fresh says that there may be servers of an earlier run.
	fresh bool
}

// read is the state of the kernel: virtual servers at addresses that are routed to
// the interface. Those that should be there are not overlooked.
func read(device netlink.Link, expected map[place]*server) (state, error) {
	s := state{device: device.Attrs().Index, draining: make(map[place]map[netip.AddrPort]time.Time)}
	var err error
	if s.addresses, err = routed(device); err != nil {
		return state{}, err
	}
	list, err := listServers(expected)
	if err != nil {
		return state{}, err
	}
	s.servers, s.others = make(map[place]*server), make(map[place]*server)
	for at, found := range list {
		if s.addresses[at.addr.Addr()] {
			s.servers[at] = found
		} else {
			s.others[at] = found
		}
	}
	return s, nil
}
