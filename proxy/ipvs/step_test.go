package ipvs

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
)

// life follows the virtual servers of a Rule through changes.
type life struct {
	state state
	last  map[ruleKey]planned
	now   time.Time
}

// become makes the changes of a table, with what the kernel counts of flows, and
// returns what the kernel is asked to do.
func (l *life) become(flows int, rules ...*proxy.Rule) []string {
	next := plan(&proxy.Table{Rules: rules}, l.last)
	s := newStep(&l.state, &servers{}, "rr", next, l.now)
	counted := make(map[place]map[netip.AddrPort]destination)
	for at, have := range l.state.servers {
		counted[at] = make(map[netip.AddrPort]destination)
		for e := range have.destinations {
			counted[at][e] = destination{flows: flows}
		}
	}
	s.drained(counted)
	for _, p := range next {
		s.ensure(p)
	}
	for _, p := range l.last {
		s.stale(p)
	}
	s.stray()
	l.last = next
	return slices.Concat(s.come.what, s.ipvs.what, s.gone.what)
}

func newLife() *life {
	return &life{now: time.Unix(1e9, 0), state: state{
		addresses: make(map[netip.Addr]bool), servers: make(map[place]*server), draining: make(map[place]map[netip.AddrPort]time.Time),
	}}
}

// TestChanges has endpoints come and go while their flows go on, or do not.
func TestChanges(t *testing.T) {
	all := func() *proxy.Rule { return rule("ns/web", 80) }
	with := func(change func(r *proxy.Rule)) *proxy.Rule {
		r := all()
		change(r)
		return r
	}
	terminating := with(func(r *proxy.Rule) { r.Cluster = r.Cluster[:1] })
	gone := with(func(r *proxy.Rule) { r.Cluster, r.Serving = r.Cluster[:1], r.Serving[:1] })
	udp := func(r *proxy.Rule) *proxy.Rule {
		r = &proxy.Rule{Name: r.Name, Protocol: corev1.ProtocolUDP, Family: r.Family, Fronts: r.Fronts, Cluster: r.Cluster, Serving: r.Serving}
		return r
	}
	made := []string{"route a virtual server's address to this machine", "make a virtual server", "add an endpoint", "add an endpoint"}
	type change struct {
		rule  *proxy.Rule
		after time.Duration
		flows int
		want  []string
	}
	for name, changes := range map[string][]change{
		"nothing":         {{rule: all(), want: made}, {rule: all()}},
		"one comes":       {{rule: gone, want: made[:3]}, {rule: all(), want: []string{"add an endpoint"}}},
		"Service goes":    {{rule: all(), want: made}, {want: []string{"delete a virtual server", "delete the route to a virtual server"}}},
		"one terminates":  {{rule: all(), want: made}, {rule: terminating, want: []string{"weigh an endpoint"}}, {rule: terminating, flows: 1}, {rule: terminating, flows: 1, after: time.Hour}, {rule: terminating, want: []string{"remove an endpoint"}}},
		"one comes back":  {{rule: all(), want: made}, {rule: terminating, want: []string{"weigh an endpoint"}}, {rule: all(), flows: 1, want: []string{"weigh an endpoint"}}, {rule: all(), after: time.Hour}},
		"one hangs":       {{rule: all(), want: made}, {rule: gone, want: []string{"weigh an endpoint"}}, {rule: gone, flows: 1, after: drainLimit - 1}, {rule: gone, flows: 1, after: 1, want: []string{"remove an endpoint"}}},
		"UDP, one goes":   {{rule: udp(all()), want: made}, {rule: udp(gone), flows: 1, want: []string{"remove an endpoint"}}},
		"UDP, terminates": {{rule: udp(all()), want: made}, {rule: udp(terminating), want: []string{"weigh an endpoint"}}, {rule: udp(terminating), flows: 1}, {rule: udp(gone), flows: 1, want: []string{"remove an endpoint"}}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife()
			for i, c := range changes {
				l.now = l.now.Add(c.after)
				var rules []*proxy.Rule
				if c.rule != nil {
					rules = []*proxy.Rule{c.rule}
				}
				if got := l.become(c.flows, rules...); !slices.Equal(got, c.want) {
					t.Fatalf("change %d: got %q, want %q", i, got, c.want)
				}
			}
		})
	}
}

// TestEarlierRun finds servers of an earlier run, with another scheduler, and one
// that no Service has any more.
func TestEarlierRun(t *testing.T) {
	l := newLife()
	at, old := tcp("10.96.0.7:80"), tcp("10.96.0.8:80")
	l.state.fresh = true
	l.state.addresses = map[netip.Addr]bool{at.addr.Addr(): true, old.addr.Addr(): true}
	l.state.servers = map[place]*server{
		old: {scheduler: "rr"},
		at:  {scheduler: "wlc", destinations: map[netip.AddrPort]destination{addr("10.244.0.5:8080"): {weight: 1}, addr("10.244.9.9:8080"): {weight: 1}}},
	}
	got := l.become(0, rule("ns/web", 80))
	want := []string{"change a virtual server", "add an endpoint", "weigh an endpoint", "delete a virtual server", "delete the route to a virtual server"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestScheduler refuses names that are none, before anything is asked of the kernel.
func TestScheduler(t *testing.T) {
	for name, ok := range map[string]bool{"rr": true, "mh": true, "sh": true, "": false, "random": false, "rr ": false} {
		if err := CheckScheduler(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
