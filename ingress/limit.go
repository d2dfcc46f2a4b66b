package ingress

import (
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/ingress/route"
)

// rememberedClients bounds how many addresses are counted at once. Beyond it some are forgotten: to forget is to let in.
const rememberedClients = 1 << 16

// limits count what client addresses ask of Ingresses.
type limits struct {
	mu      sync.Mutex
	rates   map[meter]time.Time // when all that was asked for would have been due at the rate
	open    map[client]int
	cleaned time.Time
}

// client is an address at an Ingress.
type client struct {
	ingress route.Key
	address netip.Addr
}

// meter is one rate of a client.
type meter struct {
	client
	per time.Duration
}

func newLimits() *limits {
	return &limits{rates: make(map[meter]time.Time), open: make(map[client]int)}
}

// limit refuses requests of a client that asks too often or too much at once.
func (h *handler) limit(v *visit) bool {
	l := v.location.Settings.Limits
	if l.PerSecond == 0 && l.PerMinute == 0 && l.Connections == 0 || v.location.Settings.Unlimited(v.client) {
		return true
	}
	c := client{v.location.Ingress, v.client}
	now := time.Now()
	if !h.limits.take(meter{c, time.Second}, l.PerSecond, l.Burst, now) || !h.limits.take(meter{c, time.Minute}, l.PerMinute, l.Burst, now) {
		return v.refuse(http.StatusServiceUnavailable)
	}
	if l.Connections == 0 {
		return true
	}
	if !h.limits.enter(c, l.Connections) {
		return v.refuse(http.StatusServiceUnavailable)
	}
	v.leave = func() { h.limits.exit(c) }
	return true
}

// take counts one request; false if it is too many for a rate of so many per time, of which burst times as many may
// come at once.
func (l *limits) take(m meter, rate, burst int, now time.Time) bool {
	if rate == 0 {
		return true
	}
	every := m.per / time.Duration(rate)
	l.mu.Lock()
	defer l.mu.Unlock()
	due := l.rates[m]
	if due.Before(now) {
		due = now
	}
	if due.Sub(now) > every*time.Duration(rate*max(burst, 1)) {
		return false
	}
	if _, known := l.rates[m]; !known {
		l.makeRoom(now)
	}
	l.rates[m] = due.Add(every)
	return true
}

// makeRoom forgets clients whose rate is unused again, and others if that is not enough.
func (l *limits) makeRoom(now time.Time) {
	if len(l.rates) < rememberedClients && now.Sub(l.cleaned) < time.Minute {
		return
	}
	l.cleaned = now
	for m, due := range l.rates {
		if due.Before(now) {
			delete(l.rates, m)
		}
	}
	if len(l.rates) < rememberedClients {
		return
	}
	for m := range l.rates { // a part at once, so that this is not for every newcomer
		if len(l.rates) <= rememberedClients/4*3 {
			return
		}
		delete(l.rates, m)
	}
}

func (l *limits) enter(c client, most int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[c] >= most {
		return false
	}
	l.open[c]++
	return true
}

func (l *limits) exit(c client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[c]--; l.open[c] <= 0 {
		delete(l.open, c)
	}
}
