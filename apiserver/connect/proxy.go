package connect

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"path"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// reference is a name in a proxy path: name, name:port, scheme:name:port.
type reference struct{ scheme, name, port string }

func parse(kind, text string) (reference, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(text)
	if !ok {
		return reference{}, apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", kind, text))
	}
	if scheme == "" {
		scheme = "http"
	}
	return reference{scheme, name, port}, nil
}

// routable refuses addresses that would reach this machine instead of a pod or
// a node.
func routable(host string) error {
	a, err := netip.ParseAddr(host)
	if err != nil || !a.IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

// proxy passes a request on to at, which has no path, and the answer back with
// its links changed to lead through here.
func (h *Handler) proxy(w http.ResponseWriter, r *http.Request, t Target, at *url.URL, by http.RoundTripper) {
	at.Path = joinPath(at.Path, t.Path)
	if strings.HasSuffix(r.URL.Path, "/") && !strings.HasSuffix(at.Path, "/") {
		at.Path += "/"
	}
	at.RawQuery = r.URL.RawQuery
	if at.Path == "" && !upgrades(r) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		redirectToRoot(w, r)
		return
	}
	h.forward(w, r, at, by, &rewriter{prefix: strings.TrimSuffix(r.URL.Path, at.Path), source: *at, host: r.Host})
}

func joinPath(base, rest string) string {
	if rest == "" {
		return base
	}
	return strings.TrimSuffix(base, "/") + "/" + strings.TrimPrefix(rest, "/")
}

// redirectToRoot gives relative links of the root page something to be
// relative to.
func redirectToRoot(w http.ResponseWriter, r *http.Request) {
	to := r.URL.Path + "/"
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusMovedPermanently)
}

// forward passes a request on to at, upgrades included. links, if there are
// any, are rewritten in the answer.
func (h *Handler) forward(w http.ResponseWriter, r *http.Request, at *url.URL, by http.RoundTripper, links *rewriter) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = at
			p.Out.Host = p.In.Host
			p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
			p.SetXForwarded()
			p.Out.Header.Del("X-Forwarded-Host")
			p.Out.Header.Del("X-Forwarded-Proto")
			dropIdentity(p.Out.Header)
			if links != nil {
				p.Out.Header.Set("X-Forwarded-Uri", links.forwardedURI())
			}
		},
		Transport:     by,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			h.writeError(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)))
		},
	}
	if links != nil {
		proxy.ModifyResponse = links.rewrite
	}
	proxy.ServeHTTP(w, r)
}

// dropIdentity keeps what a client showed this server from the servers behind
// it.
func dropIdentity(header http.Header) {
	for name := range header {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			header.Del(name)
		}
	}
}

func (l *rewriter) forwardedURI() string {
	uri := path.Join(l.prefix, l.source.EscapedPath())
	if strings.HasSuffix(l.source.Path, "/") {
		uri += "/"
	}
	return uri
}
