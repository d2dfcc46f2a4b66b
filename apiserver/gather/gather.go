// Package gather lets what HTTP/2 writes to a connection in many small pieces leave in few large ones.
//
// The server of net/http writes frame by frame, and what it writes are records of TLS of a few kilobytes: a list leaves in a
// thousand system calls, and an event for each of 25 watches of one connection in 25, each of which wakes up the client. Most of
// what a large answer or an event costs is that. Below TLS, a Conn takes what is written and has one goroutine write it, which takes all that has come
// while it wrote or waited for a processor. So a busy server writes seldom, and one that has nothing else to do writes at once.
//
// A writer waits when much is waiting already, and learns of a failure by its next write. That is no less than the kernel promises, which
// also takes what it has not sent. What HTTP/1 writes is passed on as it comes: there a writer counts on deadlines of its own.
package gather

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/guard"
)

const (
	// most is how much is waiting before writers wait: a client that reads slowly holds so much, and as much that is being written.
	most = 64 << 10
	// record is the most that TLS writes at a time.
	record = 17 << 10
	// lastWords is how long Close waits for the client to take what was written, as long as TLS does.
	lastWords = 5 * time.Second
)

var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, most+record)) }}

// listener gives connections that can gather.
type listener struct {
	net.Listener
	patience time.Duration
}

// Listen makes connections of l such that can gather. A client that takes no byte for the time of patience has failed.
func Listen(l net.Listener, patience time.Duration) net.Listener { return listener{l, patience} }

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return New(conn, l.patience), nil
}

// HTTP2 is for http.Server.ConnState: connections gather as soon as they are known to speak HTTP/2.
func HTTP2(conn net.Conn, state http.ConnState) {
	secure, ok := conn.(*tls.Conn)
	if !ok || state != http.StateActive {
		return
	}
	if c, ok := secure.NetConn().(*Conn); ok {
		c.known.Do(func() {
			if secure.ConnectionState().NegotiatedProtocol == "h2" {
				c.Gather()
			}
		})
	}
}

// Conn is a connection that passes on what is written to it, until it is told to gather.
type Conn struct {
	net.Conn
	patience time.Duration
	known    sync.Once   // what the connection speaks
	gathers  atomic.Bool // nothing is passed on any more

	mu      sync.Mutex
	change  sync.Cond // of what is below
	waiting *[]byte   // what was written, and has yet to be taken; nil: nothing
	busy    bool      // there is a goroutine that takes it
	stuck   int       // writers that wait
	until   time.Time // if it is set, the connection ends then at the latest
	failed  error
}

// New makes a Conn of a connection.
func New(conn net.Conn, patience time.Duration) *Conn {
	c := &Conn{Conn: conn, patience: patience}
	c.change.L = &c.mu
	return c
}

// Gather has what is written from now on gathered. No write may be under way.
func (c *Conn) Gather() { c.gathers.Store(true) }

// Write takes p, once there is room.
func (c *Conn) Write(p []byte) (int, error) {
	if !c.gathers.Load() {
		return c.Conn.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stuck++
	for c.failed == nil && c.waiting != nil && len(*c.waiting) >= most {
		c.change.Wait()
	}
	c.stuck--
	if c.failed != nil {
		return 0, c.failed
	}
	if c.waiting == nil {
		c.waiting = buffers.Get().(*[]byte)
	}
	*c.waiting = append(*c.waiting, p...)
	if !c.busy {
		c.busy = true
		guard.Go("writes to connections", c.send)
	}
	return len(p), nil
}

// send writes what is waiting until nothing is.
func (c *Conn) send() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.waiting != nil && c.failed == nil {
		taken := c.waiting
		c.waiting = nil
		c.change.Broadcast()
		c.mu.Unlock()
		err := c.write(*taken)
		giveBack(taken)
		c.mu.Lock()
		if err != nil {
			c.failed = err
			c.Conn.Close() // half of something may have been written
		}
	}
	c.busy = false
	c.change.Broadcast()
}

func giveBack(buffer *[]byte) {
	if cap(*buffer) > most+record {
		return // of somebody who writes other pieces than TLS does
	}
	*buffer = (*buffer)[:0]
	buffers.Put(buffer)
}

// write writes p while the client takes some of it now and then.
func (c *Conn) write(p []byte) error {
	for {
		c.allow()
		n, err := c.Conn.Write(p)
		p = p[n:]
		if len(p) == 0 || n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) || c.over() {
			return err
		}
	}
}

// allow gives a write the time it may take.
func (c *Conn) allow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() {
		c.Conn.SetWriteDeadline(time.Now().Add(c.patience))
	}
}

func (c *Conn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.until.IsZero()
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetWriteDeadline is passed on while c does not gather. Then each write has the time of patience. TLS alone sets a deadline still,
// before its last words; that it has passed says that Close follows, which waits for them.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if !c.gathers.Load() {
		return c.Conn.SetWriteDeadline(t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.After(time.Now()) {
		return nil
	}
	c.until = t
	return c.Conn.SetWriteDeadline(t)
}

// Close waits for what was written to be sent, but neither long, nor if a writer is waiting for that already.
func (c *Conn) Close() error {
	if c.gathers.Load() {
		c.finish()
	}
	return c.Conn.Close()
}

func (c *Conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy || c.stuck > 0 {
		return
	}
	if c.until.IsZero() {
		c.until = time.Now().Add(lastWords)
		c.Conn.SetWriteDeadline(c.until)
	}
	for c.busy {
		c.change.Wait()
	}
}
