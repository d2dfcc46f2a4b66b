package ingress

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/ingress/route"
)

var (
	errNoEndpoints = errors.New("the Service has no endpoints")
	errPath        = errors.New("the rewritten path leads upwards")
	errIdle        = errors.New("nothing was read or written for too long")
)

// exchange is a request that is forwarded. It watches that something is always read or written.
type exchange struct {
	visit    *visit
	settings *route.Settings
	backend  *route.Location // the visit's location or one of its canaries

	path, query string // rewritten
	rewritten   bool
	wrong       error // why it is not forwarded

	tried  []string // endpoints
	chosen string   // by affinity, at first
	cookie *http.Cookie

	timer             *time.Timer
	limit             atomic.Int64 // how long nothing may be read or written, in nanoseconds
	expired           atomic.Bool
	reading, tooLarge atomic.Bool
	answering         atomic.Bool
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

func newExchange(v *visit) *exchange {
	x := &exchange{visit: v, settings: v.location.Settings, backend: canaryFor(v.location, v.request)}
	x.limit.Store(int64(x.settings.SendTimeout))
	if path, query, ok := v.location.Rewrite(v.path); ok {
		clean, inside := route.Clean(path)
		if !inside || route.HasDots(path) {
			x.wrong = errPath
		}
		x.path, x.query, x.rewritten = clean, query, true
	}
	if a := x.settings.Affinity; a != nil {
		x.stick(a)
	}
	return x
}

// watch cancels the exchange when it stands still for too long. Whoever waits for the client then is woken: of an answer
// that has begun nothing more is written, for another one there is a moment.
func (x *exchange) watch(cancel context.CancelCauseFunc) {
	x.timer = guard.After(time.Duration(x.limit.Load()), "ingress", func() {
		x.expired.Store(true)
		cancel(errIdle)
		conn := http.NewResponseController(x.visit.ResponseWriter)
		left := lastWords
		if x.answering.Load() {
			left = 0
		}
		_ = conn.SetWriteDeadline(time.Now().Add(left))
		_ = conn.SetReadDeadline(time.Now())
	})
}

// lastWords is how long the answer to a request that expired may take to be written, and what is left of one that was
// answered early to be read.
const lastWords = 5 * time.Second

func (x *exchange) unwatch() { x.timer.Stop() }

// progress says that something was read or written.
func (x *exchange) progress() {
	if x.timer != nil && !x.expired.Load() {
		x.timer.Reset(time.Duration(x.limit.Load()))
	}
}

// sent says that the request is out: from now on the answer is waited for.
func (x *exchange) sent() {
	x.limit.Store(int64(x.settings.ReadTimeout))
	x.progress()
}

// outgoing makes of the client's request the one for the backend.
func (x *exchange) outgoing(in, out *http.Request) {
	s := x.settings
	out.URL.Scheme, out.URL.Host = "http", x.backend.Backend.Service.Name // an endpoint is chosen later
	out.URL.RawQuery = in.URL.RawQuery
	if x.rewritten {
		out.URL.Path, out.URL.RawPath = x.path, ""
		if x.query != "" {
			out.URL.RawQuery = joinQuery(x.query, in.URL.RawQuery)
		}
	}
	out.Host = in.Host
	if s.UpstreamHost != "" {
		out.Host = s.UpstreamHost
	}
	dropUnderscores(out.Header)
	x.forwarded(in, out.Header)
}

func joinQuery(first, rest string) string {
	if rest == "" {
		return first
	}
	return first + "&" + rest
}

// forwarded says who the client is and what it asked for. What the client says of that itself does not count.
func (x *exchange) forwarded(in *http.Request, h http.Header) {
	client, port := x.visit.client.String(), "80"
	if x.visit.scheme == "https" {
		port = "443"
	}
	if said := in.Header["X-Forwarded-For"]; len(said) > 0 {
		h["X-Original-Forwarded-For"] = said
	}
	h["X-Real-Ip"] = []string{client}
	h["X-Forwarded-For"] = []string{client}
	h["X-Forwarded-Host"] = []string{in.Host}
	h["X-Forwarded-Port"] = []string{port}
	h["X-Forwarded-Proto"] = []string{x.visit.scheme}
	h["X-Forwarded-Scheme"] = []string{x.visit.scheme}
	h["X-Scheme"] = []string{x.visit.scheme}
	h.Del("Forwarded")
	h.Del("X-Forwarded-Prefix")
	if p := x.settings.ForwardedPrefix; p != "" {
		h["X-Forwarded-Prefix"] = []string{p}
	}
	if h.Get("X-Request-Id") == "" {
		var id [16]byte
		_, _ = rand.Read(id[:])
		h["X-Request-Id"] = []string{hex.EncodeToString(id[:])}
	}
}

// incoming makes of the backend's answer the one for the client.
func (x *exchange) incoming(res *http.Response) {
	x.answering.Store(true)
	if x.cookie != nil {
		res.Header.Add("Set-Cookie", x.cookie.String())
	}
	if c := x.settings.CORS; c != nil {
		allowOrigin(c, x.visit.request, res.Header)
	}
	x.progress()
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.sent()
		if e, ok := x.visit.ResponseWriter.(*entry); ok {
			e.code = res.StatusCode // it is not written by WriteHeader
		}
		if both, ok := res.Body.(io.ReadWriteCloser); ok {
			res.Body = &upgraded{both, x}
		}
		return
	}
	res.Body = &answer{res.Body, x}
}

// answer tells the exchange of what is read of it.
type answer struct {
	io.ReadCloser
	x *exchange
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	a.x.progress()
	return n, err
}

// upgraded is a connection whose protocol is the two ends' own.
type upgraded struct {
	io.ReadWriteCloser
	x *exchange
}

func (u *upgraded) Read(p []byte) (int, error) {
	n, err := u.ReadWriteCloser.Read(p)
	u.x.progress()
	return n, err
}

func (u *upgraded) Write(p []byte) (int, error) {
	u.x.progress()
	return u.ReadWriteCloser.Write(p)
}

// sending is the body of the client's request.
type sending struct {
	io.ReadCloser
	x *exchange
}

func (x *exchange) body(w http.ResponseWriter, body io.ReadCloser) io.ReadCloser {
	if limit := x.settings.BodyLimit; limit > 0 {
		body = http.MaxBytesReader(w, body, limit)
	}
	return &sending{body, x}
}

func (s *sending) Read(p []byte) (int, error) {
	s.x.progress()
	s.x.reading.Store(true)
	n, err := s.ReadCloser.Read(p)
	s.x.reading.Store(s.x.expired.Load()) // what expires while this reads is the client's fault
	var tooLarge *http.MaxBytesError
	s.x.visit.read.Store(err != nil)
	switch {
	case err == nil:
		s.x.progress()
	case errors.Is(err, io.EOF):
		s.x.sent()
	case errors.As(err, &tooLarge):
		s.x.tooLarge.Store(true)
	}
	return n, err
}

// endpoint is the next one to try; empty if there is none.
func (x *exchange) endpoint() string {
	e := x.chosen
	if e == "" || len(x.tried) > 0 {
		e = x.backend.Pool.Next(x.tried)
	}
	if e == "" {
		return ""
	}
	if a := x.settings.Affinity; a != nil && e != x.chosen && (x.chosen == "" || a.ChangeOnFailure) {
		x.cookie = affinityCookie(a, x.visit, stickyID(x.backend, e))
	}
	x.tried = append(x.tried, e)
	return e
}

// stick finds the endpoint that the client's cookie names.
func (x *exchange) stick(a *route.Affinity) {
	c, err := x.visit.request.Cookie(a.Name)
	if err != nil {
		return
	}
	for _, e := range x.backend.Pool.Endpoints() {
		if stickyID(x.backend, e) == c.Value {
			x.chosen = e
			return
		}
	}
}

// stickyID names an endpoint to a client, the same on every node.
func stickyID(l *route.Location, endpoint string) string {
	sum := sha256.Sum256([]byte(l.Ingress.String() + " " + endpoint))
	return hex.EncodeToString(sum[:16])
}

func affinityCookie(a *route.Affinity, v *visit, value string) *http.Cookie {
	c := &http.Cookie{Name: a.Name, Value: value, Path: a.Path, Domain: a.Domain, HttpOnly: true, Secure: a.Secure || v.scheme == "https", MaxAge: a.MaxAge}
	if c.Path == "" {
		c.Path = v.location.CookiePath()
	}
	if a.Expires > 0 {
		c.Expires = time.Now().Add(time.Duration(a.Expires) * time.Second)
	}
	switch a.SameSite {
	case "None":
		c.SameSite = http.SameSiteNoneMode
	case "Lax":
		c.SameSite = http.SameSiteLaxMode
	case "Strict":
		c.SameSite = http.SameSiteStrictMode
	}
	return c
}

// buffers are those that bodies are copied with.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}}
}

func (b *buffers) Get() []byte { return b.pool.Get().(*[32 << 10]byte)[:] }

func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }
