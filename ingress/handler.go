package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/skiff-k8s/skiff/ingress/route"
)

// longestURI is the longest path and query that is taken: they are compared with regular expressions.
const longestURI = 8 << 10

// handler serves requests as the table of the moment says.
type handler struct {
	table   atomic.Pointer[route.Table]
	proxy   *httputil.ReverseProxy
	journal *journal
	limits  *limits
	auth    *verifier
	// httpsPort is named in redirects, unless it is the usual one; 0: nothing serves https.
	httpsPort uint16
}

func newHandler(c Config) *handler {
	h := &handler{journal: newJournal(c.AccessLog), limits: newLimits(), auth: newVerifier(), httpsPort: c.HTTPSPort}
	h.table.Store(&route.Table{})
	h.proxy = newProxy(newTransports(c.Dial), c.Log)
	return h
}

// visit is one request on its way.
type visit struct {
	http.ResponseWriter
	request  *http.Request
	location *route.Location
	path     string // clean
	client   netip.Addr
	scheme   string
	leave    func()      // after the answer; may be nil
	read     atomic.Bool // the body has been, to its end or as far as it could be
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	entry := h.journal.begin(w, r)
	defer entry.end()
	v := &visit{ResponseWriter: entry, request: r, client: clientOf(r), scheme: "http"}
	if r.TLS != nil {
		v.scheme = "https"
	}
	defer v.leaveBody(w)
	if !h.find(v) {
		return
	}
	entry.location = v.location
	defer v.left()
	for _, step := range steps {
		if !step(h, v) {
			return
		}
	}
	h.forward(v)
}

// left ends what the steps began.
func (v *visit) left() {
	if v.leave != nil {
		v.leave()
	}
}

// steps are what a request passes before it is forwarded, in the order of ingress-nginx. A step that returns false has
// answered.
var steps = []func(*handler, *visit) bool{
	(*handler).closed,
	(*handler).toHTTPS,
	(*handler).elsewhere,
	(*handler).preflight,
	(*handler).limit,
	(*handler).admitClient,
	(*handler).admitUser,
	(*handler).limitBody,
}

func clientOf(r *http.Request) netip.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr().Unmap()
}

// find finds the location.
func (h *handler) find(v *visit) bool {
	r := v.request
	if len(r.RequestURI) > longestURI {
		return v.refuse(http.StatusRequestURITooLong)
	}
	path, ok := route.Clean(r.URL.Path)
	if !ok || r.Method == http.MethodConnect {
		return v.refuse(http.StatusBadRequest)
	}
	found, other := h.table.Load().Find(route.Hostname(r.Host), path)
	switch {
	case other != "":
		return v.redirect(http.StatusPermanentRedirect, v.scheme+"://"+other+portOf(r.Host)+r.URL.RequestURI())
	case found == nil:
		v.Header().Set("Content-Type", "text/plain")
		v.WriteHeader(http.StatusNotFound)
		_, _ = v.Write([]byte("default backend - 404"))
		return false
	}
	v.location, v.path = found, path
	return true
}

func portOf(host string) string {
	if _, port, err := net.SplitHostPort(host); err == nil {
		return ":" + port
	}
	return ""
}

// refuse answers with a code and its name.
func (v *visit) refuse(code int) bool {
	http.Error(v, fmt.Sprintf("%d %s", code, http.StatusText(code)), code)
	return false
}

func (v *visit) redirect(code int, to string) bool {
	v.Header().Set("Location", to)
	return v.refuse(code)
}

func (h *handler) closed(v *visit) bool {
	if v.location.Settings.Closed == "" {
		return true
	}
	return v.refuse(http.StatusServiceUnavailable)
}

// toHTTPS sends a client of plain HTTP to where others cannot read along.
func (h *handler) toHTTPS(v *visit) bool {
	s := v.location.Settings
	if v.request.TLS != nil || h.httpsPort == 0 || !s.ForceSSLRedirect && !(s.SSLRedirect && v.location.Secured) {
		return true
	}
	host := v.request.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if h.httpsPort != 443 {
		host = net.JoinHostPort(host, fmt.Sprint(h.httpsPort))
	}
	return v.redirect(http.StatusPermanentRedirect, "https://"+host+v.request.URL.RequestURI())
}

func (h *handler) elsewhere(v *visit) bool {
	s := v.location.Settings
	switch {
	case s.Redirect.Code != 0:
		return v.redirect(s.Redirect.Code, s.Redirect.Location(v.scheme, v.request))
	case s.AppRoot != "" && v.path == "/":
		return v.redirect(http.StatusFound, s.AppRoot)
	}
	return true
}

func (h *handler) admitClient(v *visit) bool {
	return v.location.Settings.Allowed(v.client) || v.refuse(http.StatusForbidden)
}

// limitBody refuses a body that says that it is too long; one that does not say is measured while it is read.
func (h *handler) limitBody(v *visit) bool {
	limit := v.location.Settings.BodyLimit
	if limit == 0 || v.request.ContentLength <= limit {
		return true
	}
	v.Header().Set("Connection", "close")
	return v.refuse(http.StatusRequestEntityTooLarge)
}

// forward passes a request on and its answer back.
func (h *handler) forward(v *visit) {
	x := newExchange(v)
	ctx, cancel := context.WithCancelCause(context.WithValue(v.request.Context(), exchangeKey{}, x))
	defer cancel(nil)
	x.watch(cancel)
	defer x.unwatch()
	r := v.request.WithContext(ctx)
	if hasBody(r) {
		if r.ProtoMajor == 1 {
			_ = http.NewResponseController(v.ResponseWriter).EnableFullDuplex()
		}
		r.Body = x.body(v.ResponseWriter, r.Body)
	} else {
		x.sent()
	}
	h.proxy.ServeHTTP(v.ResponseWriter, r)
}

func newProxy(t http.RoundTripper, log *slog.Logger) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:  t,
		BufferPool: newBuffers(),
		Rewrite: func(p *httputil.ProxyRequest) {
			exchangeOf(p.In.Context()).outgoing(p.In, p.Out)
		},
		ModifyResponse: func(res *http.Response) error {
			exchangeOf(res.Request.Context()).incoming(res)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			x := exchangeOf(r.Context())
			code := x.codeOf(err)
			log.Debug("a request is not forwarded", "ingress", x.backend.Ingress.String(), "tried", x.tried, "code", code, "error", err)
			if r.ProtoMajor == 1 && (code == http.StatusRequestEntityTooLarge || x.expired.Load()) {
				w.Header().Set("Connection", "close") // what is left of the body, and the deadlines, are not the next one's
			}
			http.Error(w, fmt.Sprintf("%d %s", code, http.StatusText(code)), code)
		},
		ErrorLog: discarded,
	}
}

// codeOf is what a client is told of a request that could not be forwarded.
func (x *exchange) codeOf(err error) int {
	var netErr net.Error
	switch {
	case x.tooLarge.Load():
		return http.StatusRequestEntityTooLarge
	case x.expired.Load() && x.reading.Load():
		return http.StatusRequestTimeout
	case errors.Is(err, errPath):
		return http.StatusBadRequest
	case errors.Is(err, errNoEndpoints):
		return http.StatusServiceUnavailable
	case x.expired.Load(), errors.As(err, &netErr) && netErr.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// dropUnderscores takes headers away that a program behind, which writes both as "_", could take for others.
func dropUnderscores(h http.Header) {
	for name := range h {
		if strings.Contains(name, "_") {
			delete(h, name)
		}
	}
}
