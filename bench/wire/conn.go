// Package wire is a client of the API that costs little: the measurements share the processors of the
// machine with what they measure, so that a client that encodes, decodes and allocates as client-go does would
// be measured rather than the server.
//
// It speaks HTTP/2 over TLS. Requests are written together that are ready together, headers are encoded without
// state, windows for what is received are so large that they are rarely renewed, and of answers only the
// status and the resourceVersion are read. Its requests are those of client-go, in protobuf.
package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/skiff-k8s/skiff/guard"
)

// Conn is a connection. Its methods may be called by many at once.
type Conn struct {
	address string
	conn    net.Conn

	mu       sync.Mutex
	windows  *sync.Cond         // sendable grew, or the connection failed
	ready    *bytes.Buffer      // frames to be written
	spare    *bytes.Buffer      // empty, or with those that are written now
	writing  bool               // somebody writes, and will write what gets ready meanwhile
	framer   *http2.Framer      // writes to ready
	fields   *hpack.Encoder     // writes to block
	block    bytes.Buffer       // the headers of one request
	streams  map[uint32]*stream // that await something
	next     uint32             // number of the next stream
	sendable int                // bytes of bodies that the server takes
	failed   error              // why nothing works any more
}

// stream is a request and what has come of its answer.
type stream struct {
	status int
	body   []byte
	data   func([]byte) // takes the body instead, if it is not nil
	err    error
	done   chan struct{} // receives one value when the answer is complete, or err is set
}

// received is how much of what a server may send is taken until it is told that it may send more.
const received = 16 << 20

// Dial opens a connection. It ends with Close.
func Dial(ctx context.Context, address string, config *tls.Config) (*Conn, error) {
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != "h2" {
		conn.Close()
		return nil, fmt.Errorf("%s speaks %q, not HTTP/2", address, got)
	}
	c := &Conn{address: address, conn: conn, ready: new(bytes.Buffer), spare: new(bytes.Buffer), streams: make(map[uint32]*stream), next: 1, sendable: 65535}
	c.windows = sync.NewCond(&c.mu)
	c.framer = http2.NewFramer(readyWriter{c}, nil)
	c.fields = hpack.NewEncoder(&c.block)
	c.fields.SetMaxDynamicTableSize(0)
	if err := c.greet(); err != nil {
		conn.Close()
		return nil, err
	}
	guard.Go("answers", c.receive)
	return c, nil
}

// readyWriter lets the framer write to what is ready, which changes.
type readyWriter struct{ conn *Conn }

func (w readyWriter) Write(p []byte) (int, error) { return w.conn.ready.Write(p) }

func (c *Conn) greet() error {
	c.mu.Lock()
	c.ready.WriteString(http2.ClientPreface)
	err := errors.Join(
		c.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32}),
		c.framer.WriteWindowUpdate(0, math.MaxInt32-65535))
	if err != nil {
		c.mu.Unlock()
		return err
	}
	return c.flush()
}

// Close ends the connection and all of its requests.
func (c *Conn) Close() { c.fail(errors.New("the connection was closed")) }

func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return
	}
	c.failed = err
	for id, s := range c.streams {
		c.end(id, s, err)
	}
	c.windows.Broadcast()
	c.conn.Close()
}

// end tells who waits for a stream. c.mu is held.
func (c *Conn) end(id uint32, s *stream, err error) {
	delete(c.streams, id)
	s.err = err
	s.done <- struct{}{}
}

// flush writes what is ready, unless somebody does already, who then writes this too. It unlocks c.mu.
func (c *Conn) flush() error {
	defer c.mu.Unlock()
	if c.writing {
		return nil
	}
	c.writing = true
	defer func() { c.writing = false }()
	for c.ready.Len() > 0 && c.failed == nil {
		c.ready, c.spare = c.spare, c.ready
		now := c.spare
		c.mu.Unlock()
		_, err := now.WriteTo(c.conn)
		if err != nil {
			c.fail(err)
		}
		c.mu.Lock()
	}
	return c.failed
}

// send begins a request.
func (c *Conn) send(method, path string, body []byte, s *stream) (id uint32, err error) {
	c.mu.Lock()
	for c.sendable < len(body) && c.failed == nil {
		c.windows.Wait()
	}
	if c.failed != nil {
		defer c.mu.Unlock()
		return 0, c.failed
	}
	id = c.next
	c.next += 2
	c.sendable -= len(body)
	c.streams[id] = s
	c.block.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: c.address}, {Name: ":path", Value: path},
		{Name: "accept", Value: protobuf}, {Name: "user-agent", Value: "skiff-bench"},
	} {
		err = errors.Join(err, c.fields.WriteField(f))
	}
	if body != nil {
		err = errors.Join(err, c.fields.WriteField(hpack.HeaderField{Name: "content-type", Value: protobuf}),
			c.fields.WriteField(hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(len(body))}))
	}
	err = errors.Join(err, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: body == nil}))
	if body != nil {
		err = errors.Join(err, c.framer.WriteData(id, true, body))
	}
	if err != nil {
		c.mu.Unlock()
		return id, err
	}
	return id, c.flush()
}

// protobuf is the media type of requests and answers; a stream of it is asked for alike.
const protobuf = "application/vnd.kubernetes.protobuf"

// receive takes what the server sends until the connection ends.
func (c *Conn) receive() {
	in := http2.NewFramer(io.Discard, bufio.NewReaderSize(c.conn, 64<<10))
	in.SetReuseFrames()
	status := 0
	fields := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			status, _ = strconv.Atoi(f.Value) // what is none is no success
		}
	})
	unacknowledged := 0
	for {
		frame, err := in.ReadFrame()
		if err != nil {
			c.fail(err)
			return
		}
		switch f := frame.(type) {
		case *http2.HeadersFrame:
			status = 0
			if _, err = fields.Write(f.HeaderBlockFragment()); err == nil && f.HeadersEnded() {
				err = fields.Close()
			}
			c.answered(f.StreamID, status, nil, f.StreamEnded())
		case *http2.ContinuationFrame:
			err = errors.New("the headers of an answer take several frames")
		case *http2.DataFrame:
			unacknowledged += int(f.Length)
			c.answered(f.StreamID, 0, f.Data(), f.StreamEnded())
			if unacknowledged > received {
				err = c.control(func() error { return c.framer.WriteWindowUpdate(0, uint32(unacknowledged)) })
				unacknowledged = 0
			}
		case *http2.RSTStreamFrame:
			c.reset(f.StreamID, f.ErrCode)
		case *http2.WindowUpdateFrame:
			c.refill(f)
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.control(c.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.control(func() error { return c.framer.WritePing(true, f.Data) })
			}
		case *http2.GoAwayFrame:
			err = fmt.Errorf("the server ends the connection: %v", f.ErrCode)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// control sends a frame that is no request. Of settings only that of windows of streams says something to this
// client, and its bodies are smaller than any.
func (c *Conn) control(write func() error) error {
	c.mu.Lock()
	if err := write(); err != nil {
		c.mu.Unlock()
		return err
	}
	return c.flush()
}

func (c *Conn) refill(f *http2.WindowUpdateFrame) {
	if f.StreamID != 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendable += int(f.Increment)
	c.windows.Broadcast()
}

func (c *Conn) reset(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		c.end(id, s, fmt.Errorf("the server ended the request: %v", code))
	}
}

// answered notes a part of an answer.
func (c *Conn) answered(id uint32, status int, data []byte, complete bool) {
	c.mu.Lock()
	s := c.streams[id]
	c.mu.Unlock()
	if s == nil {
		return // nobody waits any more
	}
	if s.status == 0 {
		s.status = status
	}
	switch {
	case s.data != nil && s.status == http.StatusOK:
		s.data(data)
	default:
		s.body = append(s.body, data...)
	}
	if !complete {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[id] == s {
		c.end(id, s, nil)
	}
}

// await waits for the end of a stream and forgets it at the end of ctx.
func (c *Conn) await(ctx context.Context, id uint32, s *stream) error {
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	if c.streams[id] != s {
		c.mu.Unlock()
		<-s.done
		return s.err
	}
	delete(c.streams, id)
	err := c.framer.WriteRSTStream(id, http2.ErrCodeCancel)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	_ = c.flush() // the connection has failed: ctx has ended as well
	return ctx.Err()
}

// Caller makes requests, one after the other, over a connection.
type Caller struct {
	conn   *Conn
	stream *stream
}

// NewCaller returns a caller; many can share a connection.
func (c *Conn) NewCaller() *Caller {
	return &Caller{conn: c, stream: &stream{done: make(chan struct{}, 1)}}
}

// Do makes a request. The body of the answer is good until the next.
func (c *Caller) Do(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
	s := c.stream
	s.status, s.body, s.err = 0, s.body[:0], nil
	id, err := c.conn.send(method, path, body, s)
	if err == nil {
		err = c.conn.await(ctx, id, s)
	}
	if err != nil {
		c.stream = &stream{done: make(chan struct{}, 1)} // the old one may still be written to
		return 0, nil, err
	}
	return s.status, s.body, nil
}

// Get streams the answer to a GET to data until it ends or ctx does: nothing when it begins, then pieces as they come.
// Data must be quick: all of the connection waits for it. An answer that is no success is an error.
func (c *Conn) Get(ctx context.Context, path string, data func([]byte)) error {
	s := &stream{done: make(chan struct{}, 1), data: data}
	id, err := c.send(http.MethodGet, path, nil, s)
	if err == nil {
		err = c.await(ctx, id, s)
	}
	if err == nil && s.status != http.StatusOK {
		err = &StatusError{s.status, string(s.body)}
	}
	return err
}

// StatusError is an answer that is no success.
type StatusError struct {
	Status int
	Body   string
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %q", e.Status, e.Body) }
