package aggregate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	clienttransport "k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/skiff-k8s/skiff/apiserver/discovery"
	"github.com/skiff-k8s/skiff/apiserver/openapi"
	"github.com/skiff-k8s/skiff/apiserver/reach"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// extension is a group version that another server serves, as one APIService
// names it.
type extension struct {
	name    string
	object  *apiService // as it was when the extension was made; its conditions and priorities may have changed
	service apiregistrationv1.ServiceReference
	config  Config
	trust   error // why its certificate can never be trusted
	// by speaks HTTP/2 where the server can; upgrades takes HTTP/1.1, which can be
	// upgraded.
	by, upgrades *http.Transport

	places     chan struct{} // taken by requests that are passed on
	available  atomic.Bool   // as found out last, or as its APIService says
	version    string        // of its APIService as it was seen last. Used by Services alone
	discovered atomic.Pointer[discovery.Remote]
	described  atomic.Pointer[openapi.Extension]
	asked      chan struct{}
	end        context.CancelFunc // of run; nil: it does not run. Used by Services alone
}

func newExtension(c Config, o *apiService) *extension {
	e := &extension{name: o.Name, object: o, service: *o.Spec.Service, config: c, asked: make(chan struct{}, 1), places: make(chan struct{}, mostPassed)}
	// Until it was asked nobody knows what it has: who deletes a namespace must
	// not believe that there is nothing.
	e.discovered.Store(&discovery.Remote{Stale: true})
	e.described.Store(&openapi.Extension{Group: o.Spec.Group, Version: o.Spec.Version})
	security := &tls.Config{
		ServerName: e.service.Name + "." + e.service.Namespace + ".svc", InsecureSkipVerify: o.Spec.InsecureSkipTLSVerify,
		GetClientCertificate: c.Certificate,
	}
	if bundle := o.Spec.CABundle; len(bundle) > 0 {
		security.RootCAs = x509.NewCertPool()
		if !security.RootCAs.AppendCertsFromPEM(bundle) {
			e.trust = errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	e.by, e.upgrades = transport(c.Dial, security, true), transport(c.Dial, security, false)
	return e
}

// inherit takes over what was known of an extension that e takes the place of, if
// there was one: that its certificate is judged in another way, say, changes
// nothing of what it serves. It is asked again at once.
func (e *extension) inherit(before *extension) {
	if before == nil || before.object.UID != e.object.UID {
		return
	}
	e.discovered.Store(before.discovered.Load())
	described := *before.described.Load()
	if described.Serve != nil {
		described.Serve = e
	}
	e.described.Store(&described)
}

func transport(dial reach.Dial, security *tls.Config, http2 bool) *http.Transport {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(http2)
	return &http.Transport{
		DialContext: dial, TLSClientConfig: security.Clone(), Protocols: protocols, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second, DisableCompression: true, MaxResponseHeaderBytes: 1 << 20,
		// A connection on which nothing comes any more is noticed, so that watches end.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// sameServer reports whether an APIService still names the server that it named.
// In which order that is listed makes no difference.
func sameServer(was, now *apiService) bool {
	before := was.Spec
	before.GroupPriorityMinimum, before.VersionPriority = now.Spec.GroupPriorityMinimum, now.Spec.VersionPriority
	return was.UID == now.UID && equality.Semantic.DeepEqual(before, now.Spec)
}

// discoveryTime is how long a client waits for the document of a group version,
// which many ask for before anything else.
const discoveryTime = 5 * time.Second

// mostPassed is how many requests, long-running ones not counted, wait for one
// extension server at once. They take no slots of this server.
const mostPassed = 400

// ServeHTTP passes a request on, in the name of its user. Errors are texts, as
// clients of kube-apiserver know them.
func (e *extension) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !e.available.Load() {
		fail(w, r, errUnavailable, http.StatusServiceUnavailable)
		return
	}
	if info := request.From(r.Context()); info == nil || !info.IsLongRunning(r) {
		select {
		case e.places <- struct{}{}:
			defer func() { <-e.places }()
		default:
			w.Header().Set("Retry-After", "1")
			rest.WriteError(w, r, apierrors.NewTooManyRequests("too many requests, please try again later", 1))
			return
		}
	}
	e.pass(w, r)
}

var errUnavailable = errors.New("service unavailable")

// pass passes a request on.
func (e *extension) pass(w http.ResponseWriter, r *http.Request) {
	who := request.User(r.Context())
	switch {
	case e.trust != nil:
		fail(w, r, e.trust, http.StatusInternalServerError)
		return
	case who == nil:
		fail(w, r, errors.New("missing user"), http.StatusInternalServerError)
		return
	}
	address, err := reach.Address(r.Context(), e.config.Cluster, e.service.Namespace, e.service.Name, *e.service.Port)
	if err != nil {
		fail(w, r, errUnavailable, http.StatusServiceUnavailable)
		return
	}
	if info := request.From(r.Context()); info != nil && !info.IsResource && strings.Count(strings.Trim(r.URL.Path, "/"), "/") == 2 {
		ctx, cancel := context.WithTimeout(r.Context(), discoveryTime)
		defer cancel()
		r = r.WithContext(ctx)
	}
	by := http.RoundTripper(e.by)
	if httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") {
		by = e.upgrades
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = &url.URL{Scheme: "https", Host: address, Path: p.In.URL.Path, RawQuery: p.In.URL.Query().Encode()}
			p.Out.Host = address
			p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			p.SetXForwarded()
			p.Out.Header.Set("X-Forwarded-Host", address)
			p.Out.Header.Set("X-Forwarded-Proto", "https")
			p.Out.Header.Set("X-Forwarded-Uri", (&url.URL{Path: p.In.URL.Path}).EscapedPath())
			p.Out.Header.Set("Audit-Id", request.AuditID(r.Context()))
			sign(p.Out, who)
		},
		ModifyResponse: func(answer *http.Response) error { return check(w.Header(), answer) },
		Transport:      by,
		FlushInterval:  -1,
		ErrorLog:       slog.NewLogLogger(e.config.Log.Handler(), slog.LevelDebug),
		ErrorHandler:   explain,
	}
	proxy.ServeHTTP(w, r)
}

// sign says who asks, by headers that an extension server believes from who
// shows the certificate of the front proxy. What a client sent of that kind, or
// to prove who it is, goes no further.
func sign(r *http.Request, who user.Info) {
	for name := range r.Header {
		lower := strings.ToLower(name)
		if lower == "authorization" || strings.HasPrefix(lower, "impersonate-") || strings.HasPrefix(lower, "x-remote-") {
			delete(r.Header, name)
		}
	}
	clienttransport.SetAuthProxyHeaders(r, who.GetName(), who.GetUID(), who.GetGroups(), who.GetExtra())
}

// errRedirect answers for a server that sends clients elsewhere: they would go
// there with what proves who they are.
var errRedirect = errors.New("the backend attempted to redirect this request, which is not permitted")

// check looks at an answer before it is passed back. written are the headers
// this server has set already; those that are meant once are the extension
// server's.
func check(written http.Header, answer *http.Response) error {
	if answer.StatusCode >= 300 && answer.StatusCode < 400 && answer.Header.Get("Location") != "" {
		return errRedirect
	}
	for _, name := range []string{"Audit-Id", "Cache-Control"} {
		if answer.Header.Get(name) != "" {
			written.Del(name)
		}
	}
	return nil
}

// explain answers a request that got no answer.
func explain(w http.ResponseWriter, r *http.Request, err error) {
	info := request.From(r.Context())
	switch {
	case errors.Is(err, errRedirect):
		fail(w, r, err, http.StatusBadGateway)
	case errors.Is(err, context.DeadlineExceeded) && info != nil && info.IsResource:
		rest.WriteError(w, r, apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0))
	default:
		fail(w, r, fmt.Errorf("error trying to reach service: %w", err), http.StatusServiceUnavailable)
	}
}

func fail(w http.ResponseWriter, r *http.Request, err error, code int) {
	request.Fail(r.Context(), err)
	http.Error(w, rest.Short(err.Error()), code)
}
