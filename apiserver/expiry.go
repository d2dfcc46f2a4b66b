package apiserver

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/guard"
)

// expiry frees a handler that waits for its client. When its time is over it
// takes its steps, each harsher than the one before, until it is stopped: a
// client that neither sends nor reads must not hold what others need.
type expiry struct {
	steps []func()
	pause time.Duration // between the steps

	mu    sync.Mutex
	timer *time.Timer
	due   time.Time
	next  int
	on    bool
}

// start makes the first step due after d.
func (e *expiry) start(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.on, e.next = true, 0
	e.wait(d)
}

// stop returns when no step is being taken, and none will be.
func (e *expiry) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.on = false
	e.timer.Stop()
}

func (e *expiry) wait(d time.Duration) {
	e.due = time.Now().Add(d)
	if e.timer == nil {
		e.timer = guard.After(d, "expiry of a request", e.step)
		return
	}
	e.timer.Reset(d)
}

func (e *expiry) step() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.on || time.Now().Before(e.due) { // stopped, or started again, since the timer fired
		return
	}
	e.steps[e.next]()
	if e.next++; e.next < len(e.steps) {
		e.wait(e.pause)
	}
}

var past = time.Unix(1, 0)

// stopReading ends reads of the body, of this request alone over HTTP/2.
func stopReading(c *http.ResponseController) func() {
	return func() { c.SetReadDeadline(past) } // what cannot do that reads from memory
}

// stopWriting ends writes of the answer, of this request alone over HTTP/2.
func stopWriting(c *http.ResponseController) func() {
	return func() { c.SetWriteDeadline(past) } // what cannot do that is cut off next
}

type cutKey struct{}

// withCut returns a context that carries how to cut off the client altogether.
// That a stream of HTTP/2 ends is told in the order of what is written, so it
// frees nobody while the connection itself is stuck.
func withCut(ctx context.Context, cut func()) context.Context {
	return context.WithValue(ctx, cutKey{}, cut)
}

// withConn is for http.Server.ConnContext.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return authn.WithConnection(withCut(ctx, func() { c.Close() }))
}

// cutOff is how to cut off the client of ctx.
func cutOff(ctx context.Context) func() {
	cut, ok := ctx.Value(cutKey{}).(func())
	if !ok {
		return func() {}
	}
	return cut
}
