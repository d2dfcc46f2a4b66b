package apiserver

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/guard"
)

// Transport lets clients in this process reach the server as u, without socket
// or TLS. Answers stream, closing an answer's body ends its request, and
// upgraded connections work.
func (s *Server) Transport(u user.Info) http.RoundTripper {
	return &transport{handler: s.handler, user: u}
}

// ComponentTransport is Transport for a part of the control plane: its watches last as
// much longer than they ask as those of a Source do.
func (s *Server) ComponentTransport(u user.Info) http.RoundTripper {
	return &transport{handler: s.handler, user: u, seldom: max(s.config.Seldom, 1)}
}

// inProcess is the address of clients in this process.
const inProcess = "in-process"

type transport struct {
	handler http.Handler
	user    user.Info
	seldom  int // how many times longer watches last than they ask; 0 means once
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	a := &answer{request: r, header: make(http.Header), body: newPipe(cancel), begun: make(chan struct{})}
	served := r.Clone(withCut(request.WithUser(ctx, t.user), func() { a.body.closeWith(os.ErrDeadlineExceeded) }))
	served.URL = t.lengthened(r.URL)
	served.RequestURI, served.RemoteAddr = served.URL.RequestURI(), inProcess
	if served.Host == "" {
		served.Host = r.URL.Host
	}
	if served.Body == nil {
		served.Body = http.NoBody
	}
	stop := context.AfterFunc(ctx, func() { a.body.closeWith(ctx.Err()) })
	guard.Go("requests in process", func() {
		defer stop()
		defer cancel()
		defer a.end()
		t.handler.ServeHTTP(a, served)
	})
	select {
	case <-a.begun:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return a.result()
}

// lengthened is where a request goes that asks for u.
func (t *transport) lengthened(u *url.URL) *url.URL {
	const limit = "timeoutSeconds"
	if t.seldom <= 1 || !strings.Contains(u.RawQuery, limit) {
		return u
	}
	query := u.Query()
	seconds, err := strconv.ParseInt(query.Get(limit), 10, 64)
	if watch, _ := strconv.ParseBool(query.Get("watch")); !watch || err != nil {
		return u
	}
	query.Set(limit, strconv.FormatInt(seconds*int64(t.seldom), 10))
	longer := *u
	longer.RawQuery = query.Encode()
	return &longer
}

// answer is the response as the handler writes it and as the client reads it.
type answer struct {
	request *http.Request
	header  http.Header
	body    *pipe

	once  sync.Once
	begun chan struct{} // closed when code and sent are set, or conn
	code  int
	sent  http.Header
	conn  net.Conn // the client's end of an upgraded connection
}

var (
	_ http.ResponseWriter = (*answer)(nil)
	_ http.Flusher        = (*answer)(nil)
	_ http.Hijacker       = (*answer)(nil)
)

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) {
	switch {
	case code == http.StatusSwitchingProtocols: // Hijack follows
		a.code, a.sent = code, a.header.Clone()
		return
	case code < 200:
		return // an interim answer, which no client here waits for
	}
	a.once.Do(func() {
		a.code, a.sent = code, a.header.Clone()
		close(a.begun)
	})
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.request.Method == http.MethodHead {
		return len(p), nil
	}
	return a.body.Write(p)
}

// Flush does nothing: what is written can be read at once.
func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }

func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	server, client := net.Pipe()
	err := errors.New("hijack: the answer has begun")
	a.once.Do(func() {
		a.conn, err = client, nil
		close(a.begun)
	})
	if err != nil {
		return nil, nil, err
	}
	return server, bufio.NewReadWriter(bufio.NewReader(server), bufio.NewWriter(server)), nil
}

// end is called when the handler has returned.
func (a *answer) end() {
	if p := recover(); p != nil { // only http.ErrAbortHandler comes this far
		a.body.closeWith(io.ErrUnexpectedEOF)
	}
	a.WriteHeader(http.StatusOK)
	a.body.closeWith(cmp.Or(a.request.Context().Err(), io.EOF))
}

// result is the answer as far as it goes when its header is there.
func (a *answer) result() (*http.Response, error) {
	resp := &http.Response{
		Status: http.StatusText(a.code), StatusCode: a.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.sent, Body: a.body, ContentLength: -1, Request: a.request,
	}
	switch {
	case a.conn == nil:
		return resp, nil
	case a.code == http.StatusSwitchingProtocols:
		resp.Body = a.conn
		return resp, nil
	}
	// The handler writes the answer itself.
	in := bufio.NewReader(a.conn)
	resp, err := http.ReadResponse(in, a.request)
	if err != nil {
		a.conn.Close()
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = upgraded{a.conn, in}
	}
	return resp, nil
}

// upgraded is the connection behind an answer 101.
type upgraded struct {
	net.Conn
	in *bufio.Reader
}

func (u upgraded) Read(p []byte) (int, error) { return u.in.Read(p) }

// pipe is a body between handler and client. The handler waits when the client
// is far behind.
type pipe struct {
	mu     sync.Mutex
	change sync.Cond
	buffer bytes.Buffer
	err    error // what reading gives at the end of buffer
	cancel context.CancelFunc
}

// ahead is how many bytes the handler may be ahead of the client.
const ahead = 1 << 20

func newPipe(cancel context.CancelFunc) *pipe {
	p := &pipe{cancel: cancel}
	p.change.L = &p.mu
	return p
}

func (p *pipe) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.buffer.Len() > ahead && p.err == nil {
		p.change.Wait()
	}
	if p.err != nil {
		return 0, io.ErrClosedPipe
	}
	p.change.Broadcast()
	return p.buffer.Write(data)
}

func (p *pipe) Read(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.buffer.Len() == 0 && p.err == nil {
		p.change.Wait()
	}
	if p.buffer.Len() == 0 || p.err != nil && p.err != io.EOF {
		return 0, p.err
	}
	p.change.Broadcast()
	return p.buffer.Read(data)
}

// Close is the client's: it wants no more.
func (p *pipe) Close() error {
	p.closeWith(io.ErrClosedPipe)
	p.cancel()
	return nil
}

// closeWith ends the body; the first error stays.
func (p *pipe) closeWith(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		p.change.Broadcast()
	}
}
