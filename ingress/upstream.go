package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/guard"
)

const (
	// longestAnswerHeader bounds the header of an endpoint's answer, mostInterim the answers before it (1xx).
	longestAnswerHeader = 64 << 10
	mostInterim         = 5
	// Connections that wait for the next request: at most so many to one endpoint and to all, so long.
	mostIdlePerEndpoint, mostIdle = 320, 1024
	idleUpstream                  = 60 * time.Second
	handshakeTime                 = 10 * time.Second
)

var (
	errAnswerHeader = errors.New("the header of the answer is too long")
	errInterim      = errors.New("too many interim answers")
	errSwitched     = errors.New("the endpoint switches protocols before the request has ended")
)

// connections are those to endpoints that speak HTTP/1.1. They wait for the next request when they have served one.
//
// The goroutine that serves the client writes the request and reads the answer. http.Transport has two more for every
// connection: to hand a request on to them and its answer back takes longer than all else that is done with a small one.
type connections struct {
	dial dialer
	tls  *tls.Config // nil: without TLS

	mu    sync.Mutex
	idle  map[string][]*upstream // by endpoint, the one used last at the end
	kept  int
	timer *time.Timer // runs while there are some
}

func newConnections(dial dialer, secure *tls.Config) *connections {
	return &connections{dial: dial, tls: secure, idle: make(map[string][]*upstream)}
}

// RoundTrip asks the endpoint that the URL names. The answer's body must be read to its end or closed.
func (c *connections) RoundTrip(r *http.Request) (*http.Response, error) {
	u := c.take(r.URL.Host)
	if u != nil {
		res, err := u.ask(r)
		if err == nil || !u.silent || !repeatable(r) || r.Context().Err() != nil {
			return res, err
		}
		// The endpoint has closed it since it was looked at.
	}
	u, err := c.connect(r.Context(), r.URL.Host)
	if err != nil {
		return nil, err
	}
	return u.ask(r)
}

// repeatable reports whether a request may be sent again although it may have been read.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return r.Body == nil
	}
	return false
}

func (c *connections) connect(ctx context.Context, endpoint string) (*upstream, error) {
	conn, err := c.dial(ctx, "tcp", endpoint)
	if err != nil {
		return nil, err
	}
	u := &upstream{of: c, endpoint: endpoint, conn: conn}
	if c.tls != nil {
		config := c.tls.Clone()
		if config.ServerName, _, err = net.SplitHostPort(endpoint); err != nil {
			config.ServerName = endpoint
		}
		secure := tls.Client(conn, config)
		within, cancel := context.WithTimeout(ctx, handshakeTime)
		defer cancel()
		if err := secure.HandshakeContext(within); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		u.conn = secure
	}
	u.reader, u.writer = bufio.NewReader(u), bufio.NewWriter(u.conn)
	return u, nil
}

// take returns a connection that waits and is still open, the one used last; nil if there is none.
func (c *connections) take(endpoint string) *upstream {
	for {
		c.mu.Lock()
		list := c.idle[endpoint]
		if len(list) == 0 {
			c.mu.Unlock()
			return nil
		}
		u := list[len(list)-1]
		list[len(list)-1] = nil
		c.shorten(endpoint, list[:len(list)-1])
		c.mu.Unlock()
		if u.quiet() {
			return u
		}
		u.close()
	}
}

// shorten replaces the list of an endpoint by one that has lost an element.
func (c *connections) shorten(endpoint string, list []*upstream) {
	c.kept--
	if len(list) == 0 {
		delete(c.idle, endpoint)
		return
	}
	c.idle[endpoint] = list
}

// keep has a connection wait for the next request, if there is a place.
func (c *connections) keep(u *upstream) {
	u.since = time.Now()
	c.mu.Lock()
	fits := c.kept < mostIdle && len(c.idle[u.endpoint]) < mostIdlePerEndpoint
	if fits {
		c.idle[u.endpoint] = append(c.idle[u.endpoint], u)
		c.kept++
		if c.timer == nil {
			c.timer = guard.After(idleUpstream, "ingress", c.sweep)
		}
	}
	c.mu.Unlock()
	if !fits {
		u.close()
	}
}

// sweep closes connections that have waited for too long.
func (c *connections) sweep() {
	var old []*upstream
	c.mu.Lock()
	for endpoint, list := range c.idle {
		for len(list) > 0 && time.Since(list[0].since) >= idleUpstream {
			old = append(old, list[0])
			list = list[1:]
			c.shorten(endpoint, list)
		}
	}
	c.timer = nil
	if c.kept > 0 {
		c.timer = guard.After(idleUpstream/4, "ingress", c.sweep)
	}
	c.mu.Unlock()
	for _, u := range old {
		u.close()
	}
}

// upstream is a connection to an endpoint.
type upstream struct {
	of       *connections
	endpoint string
	conn     net.Conn
	reader   *bufio.Reader
	writer   *bufio.Writer
	since    time.Time // when it began to wait
	limit    int64     // how much the reader may still read; 0: all

	// Of the request that it serves:
	silent bool         // nothing of an answer came
	left   atomic.Int32 // what has not ended of sending and receiving
	broken atomic.Bool
	stop   func() bool // ends that the context closes the connection
}

// Read is for the buffer.
func (u *upstream) Read(p []byte) (int, error) {
	if u.limit < 0 {
		return 0, errAnswerHeader
	}
	if u.limit > 0 && int64(len(p)) > u.limit {
		p = p[:u.limit]
	}
	n, err := u.conn.Read(p)
	if u.limit > 0 {
		if u.limit -= int64(n); u.limit == 0 {
			u.limit = -1
		}
	}
	return n, err
}

func (u *upstream) close() { _ = u.conn.Close() }

// quiet reports whether the connection is open and nothing has come that was not asked for.
func (u *upstream) quiet() bool {
	if u.reader.Buffered() > 0 {
		return false
	}
	conn := u.conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	var peeked error
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, peeked = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err == nil && peeked == syscall.EAGAIN
}

// ask sends a request and returns its answer. With an error, the connection is closed.
func (u *upstream) ask(r *http.Request) (*http.Response, error) {
	u.silent = false
	u.broken.Store(false)
	u.left.Store(2)
	u.stop = context.AfterFunc(r.Context(), u.close)
	if r.Body == nil {
		if err := u.send(r); err != nil {
			u.silent = true // what it may have said is lost with the connection
			return nil, u.fail(r, err)
		}
		u.ended(true)
	} else {
		guard.Go("ingress", func() { u.ended(u.sendBody(r)) })
	}
	res, err := u.receive(r)
	if err != nil {
		return nil, u.fail(r, err)
	}
	return res, nil
}

func (u *upstream) fail(r *http.Request, err error) error {
	u.broken.Store(true)
	u.stop()
	u.close()
	if r.Context().Err() != nil {
		return context.Cause(r.Context())
	}
	return err
}

// ended says that sending or receiving is done. The last one to end lets the connection wait for the next request.
func (u *upstream) ended(well bool) {
	if !well {
		u.broken.Store(true)
	}
	if u.left.Add(-1) > 0 {
		return
	}
	if u.stop() && !u.broken.Load() {
		u.of.keep(u)
	} else {
		u.close()
	}
}

func (u *upstream) send(r *http.Request) error {
	if err := r.Write(u.writer); err != nil {
		return err
	}
	return u.writer.Flush()
}

// sendBody sends a request with a body, as it comes. An endpoint that reads no more may have answered, so that only the
// end of what the client sends closes the connection.
func (u *upstream) sendBody(r *http.Request) bool {
	body := &source{ReadCloser: r.Body}
	out := *r
	out.Body = body
	err := u.send(&out)
	if body.err != nil {
		u.close()
	}
	return err == nil
}

// source is a body that remembers why it ended too early.
type source struct {
	io.ReadCloser
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (u *upstream) receive(r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	for range mostInterim {
		u.limit = longestAnswerHeader
		if _, err := u.reader.Peek(1); err != nil {
			u.silent = true
			return nil, err
		}
		res, err := http.ReadResponse(u.reader, r)
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode == http.StatusSwitchingProtocols:
			if u.left.Load() > 1 {
				return nil, errSwitched // two would write at once
			}
			u.limit = 0
			res.Body = &switched{u}
			return res, nil
		case res.StatusCode >= 200:
			u.limit = 0
			u.deliver(res)
			return res, nil
		case res.StatusCode != http.StatusContinue && trace != nil && trace.Got1xxResponse != nil: // bodies are sent unasked
			if err := trace.Got1xxResponse(res.StatusCode, map[string][]string(res.Header)); err != nil {
				return nil, err
			}
		}
	}
	return nil, errInterim
}

// deliver has the end of the answer's body be the end of the use of the connection.
func (u *upstream) deliver(res *http.Response) {
	if res.Close {
		u.broken.Store(true)
	}
	if res.Body == http.NoBody {
		u.ended(true)
		return
	}
	res.Body = &received{body: res.Body, upstream: u}
}

// received is the body of an answer.
type received struct {
	*upstream
	body io.Reader
	over bool
}

func (b *received) Read(p []byte) (int, error) {
	if b.over {
		return 0, io.EOF
	}
	n, err := b.body.Read(p)
	if err != nil {
		b.over = true
		b.ended(err == io.EOF)
	}
	return n, err
}

// Close gives up what has not been read.
func (b *received) Close() error {
	if !b.over {
		b.over = true
		b.broken.Store(true)
		b.upstream.close() // whoever still sends is to notice
		b.ended(false)
	}
	return nil
}

// switched is a connection on which both ends speak another protocol from now on.
type switched struct{ *upstream }

func (s *switched) Read(p []byte) (int, error) { return s.reader.Read(p) }

func (s *switched) Write(p []byte) (int, error) { return s.conn.Write(p) }

func (s *switched) Close() error {
	s.stop()
	return s.conn.Close()
}
