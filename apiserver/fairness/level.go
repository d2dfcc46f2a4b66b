package fairness

import (
	"hash/fnv"
	"math"
	"slices"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// level is a priority level at work: seats for the requests it serves, and queues for those that wait. The requests of a flow go into
// the shortest of a few queues that are dealt to the flow, so that one that floods fills those alone (shuffle sharding). Queues are served by
// start-time fair queueing: each has a clock that its requests advance by the time they take, times their seats, and the queue with the earliest clock is
// next.
//
// One thing is not kube-apiserver's: a flow has at most half of the seats at a time. Requests here take a seat for a millisecond, and one that holds it for
// longer mostly waits for its client, who may do so on purpose.
type level struct {
	name string

	mu     sync.Mutex
	uid    types.UID
	exempt bool
	bounds
	limit     int // seats, as it is now
	inUse     int
	executing int
	waiting   int // requests
	wanted    int // seats of those
	queues    []*queue
	hand      int     // queues that a flow has
	dealt     int     // queues that are dealt; what is behind them is emptied and goes
	length    int     // requests that wait in a queue at most
	clock     float64 // of the queue that was served last
	quiescing bool    // it is not configured any more, but has requests
	demand    demand
	running   map[*ticket]struct{}
	flows     map[flowKey]int // seats in use
	counts    counts
	gauges    levelMetrics
}

// counts are of requests, since the level was made.
type counts struct{ dispatched, rejected, timedOut, cancelled int }

type queue struct {
	waiting []*ticket
	clock   float64 // seat-seconds
	inUse   int     // seats
	running int     // requests
}

// flowKey tells the flows of a level apart.
type flowKey struct{ schema, flow string }

// ticket is a request at a level.
type ticket struct {
	request *Request
	schema  *schema
	seats   int
	flow    string
	arrived time.Time
	level   *level

	// Guarded by the level.
	queue   *queue // nil where there are none
	started time.Time
	ready   chan struct{} // closed when it has started; nil if it need not wait
}

// expected is how long a request is thought to take before it is known how long it took, in seconds.
const expected = 0.003

// configure takes a configuration over. Requests that wait go on waiting where they are.
func (l *level) configure(p *flowcontrolv1.PriorityLevelConfiguration, b bounds) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nominal != b.nominal || l.limit == 0 {
		l.limit = b.nominal
	}
	l.uid, l.bounds, l.quiescing = p.UID, b, false
	l.limit = max(b.lower, min(b.upper, l.limit))
	l.exempt = p.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	l.dealt, l.hand, l.length = 0, 0, 0
	if limited := p.Spec.Limited; limited != nil && limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue {
		q := ptr.Deref(limited.LimitResponse.Queuing, flowcontrolv1.QueuingConfiguration{Queues: 64, HandSize: 8, QueueLengthLimit: 50})
		l.dealt, l.hand, l.length = int(q.Queues), int(min(q.HandSize, q.Queues)), int(q.QueueLengthLimit)
	}
	for len(l.queues) < l.dealt {
		l.queues = append(l.queues, &queue{clock: l.clock})
	}
	l.trim()
	l.gauges.limits(b, l.limit)
	l.dispatch()
}

// trim lets go of queues that are not dealt any more and have nothing left.
func (l *level) trim() {
	for n := len(l.queues); n > l.dealt && len(l.queues[n-1].waiting) == 0; n-- {
		l.queues = l.queues[:n-1]
	}
}

// retire has the level go on until its requests have ended.
func (l *level) retire() (idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiescing = true
	return l.idle()
}

func (l *level) idle() bool { return l.waiting == 0 && l.executing == 0 }

// enter starts t if there is room, has it wait if it may, or says why it is rejected.
func (l *level) enter(t *ticket) (why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.counted()
	t.arrived = time.Now()
	if l.exempt {
		l.start(t)
		return ""
	}
	if l.dealt == 0 {
		if l.fits(t) {
			l.start(t)
			return ""
		}
		l.counts.rejected++
		return rejectedLimit
	}
	t.queue = l.deal(t.schema.name, t.flow)
	if (l.waiting == 0 || l.next() == nil) && l.fits(t) {
		t.queue.advance(l.clock)
		l.start(t)
		return ""
	}
	if len(t.queue.waiting) >= l.length {
		l.counts.rejected++
		return rejectedFull
	}
	t.queue.advance(l.clock)
	t.ready = make(chan struct{})
	t.queue.waiting = append(t.queue.waiting, t)
	l.waiting, l.wanted = l.waiting+1, l.wanted+t.seats
	t.schema.metrics.queued(len(t.queue.waiting), t.seats)
	l.dispatch()
	return ""
}

// Reasons for which requests are rejected, as the metrics name them.
const (
	rejectedLimit     = "concurrency-limit"
	rejectedFull      = "queue-full"
	rejectedTime      = "time-out"
	rejectedCancelled = "cancelled"
)

// fits reports whether there are seats for t. One that wants more than there are gets all.
func (l *level) fits(t *ticket) bool {
	return l.inUse == 0 || l.inUse+t.seats <= l.limit && !l.greedy(t)
}

// greedy reports whether the flow of t would have more than its half. Requests that are not told apart are nobody's flow.
func (l *level) greedy(t *ticket) bool {
	used := l.flows[t.key()]
	return t.schema.Spec.DistinguisherMethod != nil && used > 0 && used+t.seats > (l.limit+1)/2
}

func (t *ticket) key() flowKey { return flowKey{t.schema.name, t.flow} }

// advance keeps a queue that had nothing to do from saving time for later.
func (q *queue) advance(clock float64) {
	if len(q.waiting) == 0 && q.running == 0 {
		q.clock = max(q.clock, clock)
	}
}

// length is how much is in a queue, in seats.
func (q *queue) length() int {
	n := q.inUse
	for _, t := range q.waiting {
		n += t.seats
	}
	return n
}

// deal is the shortest of the queues that a flow has.
func (l *level) deal(schema, flow string) *queue {
	var best *queue
	var hand [mostHand]int
	for _, n := range deal(hand[:0], hash(schema, flow), l.dealt, l.hand) {
		if q := l.queues[n]; best == nil || q.length() < best.length() {
			best = q
		}
	}
	return best
}

func hash(schema, flow string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(schema))
	h.Write([]byte{0})
	h.Write([]byte(flow))
	return h.Sum64()
}

// mostHand is how many cards a hand can have: a hash has not enough bits for more, says the validation of levels.
const mostHand = 20

// deal appends a hand of different cards of a deck, in order, which a hash decides.
func deal(cards []int, hash uint64, deck, hand int) []int {
	for n := range hand {
		left := uint64(deck - n)
		card := int(hash % left)
		hash /= left
		at := 0
		for ; at < len(cards) && cards[at] <= card; at++ { // it is counted without those that are dealt
			card++
		}
		cards = slices.Insert(cards, at, card)
	}
	return cards
}

// dispatch starts requests that wait as long as the next one fits.
func (l *level) dispatch() {
	for l.waiting > 0 {
		q := l.next()
		if q == nil || !l.fits(q.waiting[0]) {
			return
		}
		t := q.waiting[0]
		q.waiting[0], q.waiting = nil, q.waiting[1:]
		l.left(t)
		l.clock = q.clock
		l.start(t)
	}
	l.trim()
}

// next is the queue whose clock is earliest, of those whose first request may have a seat.
func (l *level) next() *queue {
	var best *queue
	for _, q := range l.queues {
		if len(q.waiting) > 0 && (best == nil || q.clock < best.clock) && !l.greedy(q.waiting[0]) {
			best = q
		}
	}
	return best
}

// left notes that t does not wait any more.
func (l *level) left(t *ticket) {
	l.waiting, l.wanted = l.waiting-1, l.wanted-t.seats
	t.schema.metrics.unqueued(t.seats)
}

func (l *level) start(t *ticket) {
	t.started = time.Now()
	l.inUse, l.executing = l.inUse+t.seats, l.executing+1
	if q := t.queue; q != nil {
		q.inUse, q.running = q.inUse+t.seats, q.running+1
		q.clock += expected * float64(t.seats)
	}
	l.running[t] = struct{}{}
	l.flows[t.key()] += t.seats
	l.counts.dispatched++
	t.schema.metrics.started(t.started.Sub(t.arrived), t.seats)
	if t.ready != nil {
		close(t.ready)
	}
}

// leave ends t, which has started.
func (l *level) leave(t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.counted()
	took := time.Since(t.started)
	delete(l.running, t)
	if l.flows[t.key()] -= t.seats; l.flows[t.key()] == 0 {
		delete(l.flows, t.key())
	}
	l.inUse, l.executing = l.inUse-t.seats, l.executing-1
	if q := t.queue; q != nil {
		q.inUse, q.running = q.inUse-t.seats, q.running-1
		q.clock += (took.Seconds() - expected) * float64(t.seats)
	}
	t.schema.metrics.ended(took, t.seats)
	l.dispatch()
}

// abandon takes t, which waits no longer, out of its queue. It reports whether it has started in the meantime instead.
func (l *level) abandon(t *ticket, timedOut bool) (started bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.counted()
	if !t.started.IsZero() {
		return true
	}
	t.queue.waiting = slices.DeleteFunc(t.queue.waiting, func(other *ticket) bool { return other == t })
	l.left(t)
	if timedOut {
		l.counts.timedOut++
	} else {
		l.counts.cancelled++
	}
	l.dispatch() // the next one may be narrower
	return false
}

// counted notes how many seats are used and waited for.
func (l *level) counted() { l.demand.set(time.Now(), l.inUse+l.wanted) }

// adjust gives the level so many seats.
func (l *level) adjust(seats float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = int(math.Round(seats))
	l.gauges.current.Set(float64(l.limit))
	l.dispatch()
}
