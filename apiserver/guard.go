package apiserver

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// guard frees a handler that waits for its client. When its time is over it
// takes its steps, each harsher than the one before, until it is stopped: a
// client that neither sends nor reads must not hold what others need.
type guard struct {
	steps []func()
	pause time.Duration // between the steps

	mu    sync.Mutex
	timer *time.Timer
	due   time.Time
	next  int
	on    bool
}

// start makes the first step due after d.
func (g *guard) start(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on, g.next = true, 0
	g.wait(d)
}

// stop returns when no step is being taken, and none will be.
func (g *guard) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on = false
	g.timer.Stop()
}

func (g *guard) wait(d time.Duration) {
	g.due = time.Now().Add(d)
	if g.timer == nil {
		g.timer = time.AfterFunc(d, g.step)
		return
	}
	g.timer.Reset(d)
}

func (g *guard) step() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.on || time.Now().Before(g.due) { // stopped, or started again, since the timer fired
		return
	}
	g.steps[g.next]()
	if g.next++; g.next < len(g.steps) {
		g.wait(g.pause)
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
	return withCut(ctx, func() { c.Close() })
}

// cutOff is how to cut off the client of ctx.
func cutOff(ctx context.Context) func() {
	cut, ok := ctx.Value(cutKey{}).(func())
	if !ok {
		return func() {}
	}
	return cut
}
