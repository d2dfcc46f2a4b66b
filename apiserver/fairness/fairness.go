// Package fairness decides which requests are served when there are more than can be served at once, so that nobody who floods keeps
// others from what they need (priority and fairness, KEP-1040).
//
// A FlowSchema says to which priority level a request belongs and in which flow it is. A level has seats. It lends those it does not use to other levels,
// and has requests without a seat wait in queues that its flows share fairly.
package fairness

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Config of a Controller.
type Config struct {
	// Seats are how many requests are served at once, those of exempt levels not counted.
	Seats int
	// Schemas and Levels are those there are before others are known. Levels must have one that is exempt and one for all.
	Schemas []*flowcontrolv1.FlowSchema
	Levels  []*flowcontrolv1.PriorityLevelConfiguration
	// Metrics is where requests are counted, by the names of kube-apiserver; nil: nowhere.
	Metrics prometheus.Registerer
}

// Controller gives requests their seats. It is used by many goroutines at once.
type Controller struct {
	config  Config
	metrics *metrics
	now     atomic.Pointer[state]

	mu     sync.Mutex // held by what changes the state, or goes through all levels
	levels map[string]*level
}

// state is a configuration.
type state struct {
	schemas []*schema // in the order in which they are asked
	levels  map[string]*level
}

// schema is a FlowSchema, with its level.
type schema struct {
	*flowcontrolv1.FlowSchema
	name    string
	level   *level
	metrics schemaMetrics
}

// New makes a Controller.
func New(c Config) *Controller {
	f := &Controller{config: c, metrics: newMetrics(c.Metrics), levels: make(map[string]*level)}
	f.Configure(c.Schemas, c.Levels)
	return f
}

// Configure replaces the configuration. Objects that every cluster must have are added if they are not there. Schemas whose level
// there is not are for nobody. A level that is not configured any more goes when its requests have ended.
func (f *Controller) Configure(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	levels = withMandatory(levels, f.config.Levels)
	schemas = withMandatory(schemas, f.config.Schemas)
	for name, l := range f.levels {
		if !slices.ContainsFunc(levels, func(p *flowcontrolv1.PriorityLevelConfiguration) bool { return p.Name == name }) && l.retire() {
			delete(f.levels, name)
		}
	}
	s := &state{levels: make(map[string]*level)}
	shares := divide(f.config.Seats, levels)
	for _, p := range levels {
		l := f.levels[p.Name]
		if l == nil {
			l = &level{name: p.Name, running: make(map[*ticket]struct{}), flows: make(map[flowKey]int), gauges: f.metrics.level(p.Name)}
			f.levels[p.Name] = l
		}
		l.configure(p, shares[p.Name])
		s.levels[p.Name] = l
	}
	for _, o := range ordered(schemas) {
		if l := s.levels[o.Spec.PriorityLevelConfiguration.Name]; l != nil {
			s.schemas = append(s.schemas, &schema{FlowSchema: o, name: o.Name, level: l, metrics: f.metrics.schema(l.name, o.Name)})
		}
	}
	f.now.Store(s)
}

// mandatory are the objects without which some requests would belong nowhere.
var mandatory = []string{flowcontrolv1.FlowSchemaNameExempt, flowcontrolv1.FlowSchemaNameCatchAll}

func withMandatory[T interface{ GetName() string }](have, standard []T) []T {
	for _, name := range mandatory {
		named := func(o T) bool { return o.GetName() == name }
		if i := slices.IndexFunc(standard, named); i >= 0 && !slices.ContainsFunc(have, named) {
			have = append(slices.Clone(have), standard[i])
		}
	}
	return have
}

// Request is one that wants a seat.
type Request struct {
	authorizer.Attributes
	// Seats are how many it takes, at a level that has so many at most for one request; nil means one.
	Seats func(most int) int
	// Patience is how long it waits for them, if it must; 0: until the context ends.
	Patience time.Duration
}

// Class is where a request belongs.
type Class struct {
	Schema, Level       string
	SchemaUID, LevelUID types.UID
}

// ErrRejected means that a request should be tried again later.
var ErrRejected = errors.New("too many requests")

// Take waits until a request has its seats, which release gives back. If it must not wait, or has not got them when ctx or its patience ends,
// ErrRejected is returned.
func (f *Controller) Take(ctx context.Context, r Request) (release func(), c Class, err error) {
	s := f.now.Load().schema(r.Attributes)
	l := s.level
	l.mu.Lock()
	c = Class{Schema: s.name, Level: l.name, SchemaUID: s.UID, LevelUID: l.uid}
	most := l.widest()
	l.mu.Unlock()
	t := &ticket{request: &r, schema: s, level: l, seats: 1, flow: flow(s.FlowSchema, r.Attributes)}
	if r.Seats != nil {
		t.seats = max(1, r.Seats(most))
	}
	s.metrics.seats.Observe(float64(t.seats))
	if why := l.enter(t); why != "" {
		s.metrics.rejected(why)
		return nil, c, ErrRejected
	}
	release = sync.OnceFunc(func() { l.leave(t) })
	if t.ready == nil {
		return release, c, nil
	}
	if r.Patience > 0 {
		limited, cancel := context.WithTimeout(ctx, r.Patience)
		defer cancel()
		ctx = limited
	}
	select {
	case <-t.ready:
		return release, c, nil
	case <-ctx.Done():
	}
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded)
	if l.abandon(t, timedOut) {
		return release, c, nil
	}
	why := rejectedCancelled
	if timedOut {
		why = rejectedTime
	}
	s.metrics.gaveUp(why, time.Since(t.arrived))
	return nil, c, ErrRejected
}

// mostSeats are how many seats a request takes at most.
const mostSeats = 10

// widest is how many seats one request may take: a small part of those of the level.
func (l *level) widest() int { return max(1, min(mostSeats, (l.nominal*15+99)/100)) }

// schema is the first one that is about a request.
func (s *state) schema(a authorizer.Attributes) *schema {
	for _, one := range s.schemas {
		if matches(one.FlowSchema, a) {
			return one
		}
	}
	// The last one is for all; who is in none of its groups has been through an authenticator that knows none.
	return s.schemas[len(s.schemas)-1]
}

// flow tells requests of a schema apart: those of a flow wait for each other, and not for others.
func flow(s *flowcontrolv1.FlowSchema, a authorizer.Attributes) string {
	switch by := s.Spec.DistinguisherMethod; {
	case by == nil:
		return ""
	case by.Type == flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		return a.GetNamespace()
	}
	return a.GetUser().GetName()
}

// period is how often seats are lent anew.
const period = 10 * time.Second

// lendSeats gives levels seats by what they used and waited for in the last period.
func (f *Controller) lendSeats() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var wants []want
	var all []*level
	least := 0.0
	for _, l := range f.sorted() {
		l.mu.Lock()
		d, exempt := l.demand.next(time.Now()), l.exempt
		w := want{bounds: l.bounds, least: max(float64(l.lower), min(float64(l.nominal), d.high)), target: 0}
		if exempt {
			w.least = max(float64(l.lower), d.high)
		}
		w.target = max(w.least, d.smoothed)
		if l.quiescing && l.idle() {
			delete(f.levels, l.name)
		}
		l.gauges.demanded(d, w.target)
		l.mu.Unlock()
		wants, all, least = append(wants, w), append(all, l), least+w.least
	}
	if least >= float64(f.config.Seats) { // more than there are: each has what it must have
		for i, l := range all {
			l.adjust(wants[i].least)
		}
		return
	}
	seats, fraction := lend(f.config.Seats, wants)
	f.metrics.fraction.Set(fraction)
	for i, l := range all {
		l.adjust(seats[i])
	}
}

// sorted are all levels by their names.
func (f *Controller) sorted() []*level {
	var all []*level
	for _, l := range f.levels {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *level) int { return cmp.Compare(a.name, b.name) })
	return all
}
