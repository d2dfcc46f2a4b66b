package fairness

import (
	"sync"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
)

// Slots are places for what must not wait for one. A level has slots
// of its own, which nobody else can take, and all levels share the common
// ones. A single user can have half of those. It is used by many goroutines at
// once.
type Slots struct {
	schemas []*flowcontrolv1.FlowSchema

	mu     sync.Mutex
	own    map[string]int // free slots of each level; exempt levels are not here
	common int            // free slots of all levels
	most   int            // common slots that one user can have
	users  map[string]int // common slots that each user has
}

// NewSlots divides total slots among levels by their shares: a level keeps what it
// does not lend, at least one, and the rest is common. Schemas say what level a
// request is of. A level that is not there limits nothing.
func NewSlots(total int, levels []*flowcontrolv1.PriorityLevelConfiguration, schemas []*flowcontrolv1.FlowSchema) *Slots {
	s := &Slots{schemas: ordered(schemas), own: make(map[string]int), users: make(map[string]int)}
	shares := 0
	for _, l := range levels {
		if l.Spec.Limited != nil {
			shares += int(ptr.Deref(l.Spec.Limited.NominalConcurrencyShares, 0))
		}
	}
	s.common = total
	for _, l := range levels {
		if l.Spec.Limited == nil {
			continue
		}
		share := total * int(ptr.Deref(l.Spec.Limited.NominalConcurrencyShares, 0))
		keep := max(1, share*(100-int(ptr.Deref(l.Spec.Limited.LendablePercent, 0)))/100/max(1, shares))
		s.own[l.Name] = keep
		s.common -= keep
	}
	s.common = max(0, s.common)
	s.most = (s.common + 1) / 2
	return s
}

// Take takes a slot for a request, which release gives back. ok is false if
// there is none for it.
func (s *Slots) Take(a authorizer.Attributes) (release func(), ok bool) {
	level := s.Level(a)
	user := a.GetUser().GetName()
	s.mu.Lock()
	defer s.mu.Unlock()
	own, limited := s.own[level]
	switch {
	case !limited:
		return func() {}, true
	case own > 0:
		s.own[level]--
		return sync.OnceFunc(func() { s.giveBack(level) }), true
	case s.common > 0 && s.users[user] < s.most:
		s.common--
		s.users[user]++
		return sync.OnceFunc(func() { s.giveBackCommon(user) }), true
	}
	return nil, false
}

// Level is the priority level of a request, empty if no schema is about it.
func (s *Slots) Level(a authorizer.Attributes) string {
	for _, schema := range s.schemas {
		if matches(schema, a) {
			return schema.Spec.PriorityLevelConfiguration.Name
		}
	}
	return ""
}

func (s *Slots) giveBack(level string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[level]++
}

func (s *Slots) giveBackCommon(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.common++
	if s.users[user]--; s.users[user] == 0 {
		delete(s.users, user)
	}
}
