package ipvs

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy"
)

// server is a virtual server.
type server struct {
	scheduler    string
	persistent   bool // which none of ours is
	destinations map[netip.AddrPort]destination
}

// destination is an endpoint of a server.
type destination struct {
	weight uint32
	flows  int // as the kernel counted them when it was asked
}

func (s *server) equal(other *server) bool {
	if s.scheduler != other.scheduler || s.persistent != other.persistent || len(s.destinations) != len(other.destinations) {
		return false
	}
	for addr, d := range s.destinations {
		if o, ok := other.destinations[addr]; !ok || o.weight != d.weight {
			return false
		}
	}
	return true
}

// drainLimit is how long connections may go on with an endpoint that does not serve
// any more, but has not ended them.
const drainLimit = 15 * time.Minute

// step changes one state into another.
type step struct {
	*state
	scheduler string
	now       time.Time
	wanted    map[place]bool
	addrs     map[netip.Addr]bool
	come      *routes
	ipvs      *servers
	gone      *routes
}

func newStep(s *state, ipvs *servers, scheduler string, next map[ruleKey]planned, now time.Time) *step {
	step := &step{
		state: s, scheduler: scheduler, now: now, wanted: make(map[place]bool, len(next)), addrs: make(map[netip.Addr]bool, len(next)),
		come: newRoutes(s.device), ipvs: ipvs, gone: newRoutes(s.device),
	}
	for _, p := range next {
		for at := range p.pools {
			step.wanted[at], step.addrs[at.addr.Addr()] = true, true
		}
	}
	return step
}

// ensure makes the virtual servers of a Rule, and gives them its endpoints.
func (s *step) ensure(p planned) {
	for at, endpoints := range p.pools {
		if addr := at.addr.Addr(); !s.addresses[addr] {
			s.addresses[addr] = true
			s.come.add(addr)
		}
		have := s.servers[at]
		if have == nil {
			have = s.others[at]
		}
		switch {
		case have == nil:
			have = &server{destinations: make(map[netip.AddrPort]destination, len(endpoints))}
			s.ipvs.add(at, s.scheduler)
		case have.scheduler != s.scheduler || have.persistent:
			s.ipvs.set(at, s.scheduler)
		}
		have.scheduler, have.persistent = s.scheduler, false
		s.servers[at] = have
		s.spread(at, have, endpoints, p.rule)
	}
}

// spread makes endpoints the destinations of a server that get new flows.
func (s *step) spread(at place, have *server, endpoints []netip.AddrPort, r *proxy.Rule) {
	for _, e := range endpoints {
		d, ok := have.destinations[e]
		switch {
		case !ok:
			s.ipvs.addDestination(at, e, 1)
		case d.weight != 1:
			s.ipvs.setDestination(at, e, 1)
		}
		have.destinations[e] = destination{weight: 1}
		delete(s.draining[at], e)
	}
	if len(have.destinations) == len(endpoints) {
		return
	}
	wanted := make(map[netip.AddrPort]bool, len(endpoints))
	for _, e := range endpoints {
		wanted[e] = true
	}
	for e, d := range have.destinations {
		if !wanted[e] {
			s.leave(at, have, e, d, slices.Contains(r.Serving, e))
		}
	}
}

// leave keeps new flows from a destination. Its connections go on; other flows do
// only as long as it serves, for nobody would end them.
func (s *step) leave(at place, have *server, e netip.AddrPort, d destination, serving bool) {
	if !serving && at.protocol == unix.IPPROTO_UDP {
		s.remove(at, have, e)
		return
	}
	if d.weight != 0 {
		s.ipvs.setDestination(at, e, 0)
		have.destinations[e] = destination{}
	}
	if s.draining[at] == nil {
		s.draining[at] = make(map[netip.AddrPort]time.Time)
	}
	switch since, ok := s.draining[at][e]; {
	case serving:
		s.draining[at][e] = time.Time{}
	case !ok || since.IsZero():
		s.draining[at][e] = s.now
	}
}

func (s *step) remove(at place, have *server, e netip.AddrPort) {
	s.ipvs.deleteDestination(at, e)
	delete(have.destinations, e)
	delete(s.draining[at], e)
	if len(s.draining[at]) == 0 {
		delete(s.draining, at)
	}
}

// drained removes destinations whose last flow has ended, or had time enough to, by
// what the kernel counts.
func (s *step) drained(list map[place]map[netip.AddrPort]destination) {
	for at, leaving := range s.draining {
		have := s.servers[at]
		if have == nil || len(leaving) == 0 {
			delete(s.draining, at)
			continue
		}
		for e, since := range leaving {
			late := !since.IsZero() && s.now.Sub(since) >= drainLimit
			if late || list[at][e].flows == 0 {
				s.remove(at, have, e)
			}
		}
	}
}

// stale removes the virtual servers of a Rule that nobody wants any more.
func (s *step) stale(p planned) {
	for at := range p.pools {
		if !s.wanted[at] && s.servers[at] != nil {
			s.drop(at)
		}
	}
}

func (s *step) drop(at place) {
	s.ipvs.delete(at)
	delete(s.servers, at)
	delete(s.draining, at)
}

// stray removes routes that no server needs, and, after a start, servers of an
// earlier run that none of the Rules has.
func (s *step) stray() {
	if s.fresh {
		s.fresh, s.others = false, nil
		for at := range s.servers {
			if !s.wanted[at] {
				s.drop(at)
			}
		}
	}
	for addr := range s.addresses {
		if !s.addrs[addr] {
			s.gone.delete(addr)
			delete(s.addresses, addr)
		}
	}
}

// commit makes the kernel do what was planned so far. Routes come before the servers
// at their addresses, and go after them.
func (s *step) commit() error {
	for _, b := range []*batch{&s.come.batch, &s.ipvs.batch, &s.gone.batch} {
		if err := b.commit(); err != nil {
			return err
		}
	}
	return nil
}
