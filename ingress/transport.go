package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/ingress/route"
)

// attempts is how many endpoints are tried when they take no connection.
const attempts = 3

var discarded = log.New(io.Discard, "", 0)

// dialer opens a connection to host:port.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// transports ask backends, by the protocol they speak.
type transports map[route.Protocol]*http.Transport

func newTransports(dial dialer) transports {
	if dial == nil {
		dial = (&net.Dialer{Control: onlyOthers, KeepAlive: 30 * time.Second}).DialContext
	}
	t := make(transports)
	for _, p := range []struct {
		route.Protocol
		set func(*http.Protocols)
	}{
		{route.HTTP, func(p *http.Protocols) { p.SetHTTP1(true) }},
		{route.HTTPS, func(p *http.Protocols) { p.SetHTTP1(true) }},
		{route.GRPC, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
		{route.GRPCS, func(p *http.Protocols) { p.SetHTTP2(true) }},
	} {
		var protocols http.Protocols
		p.set(&protocols)
		t[p.Protocol] = &http.Transport{
			DialContext:            connect(dial),
			TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
			TLSHandshakeTimeout:    10 * time.Second,
			MaxIdleConns:           1024,
			MaxIdleConnsPerHost:    320,
			IdleConnTimeout:        60 * time.Second,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
			Protocols:              &protocols,
		}
	}
	return t
}

// errRefused says that an endpoint is at an address to which nothing is forwarded.
var errRefused = errors.New("nothing is forwarded to this address")

// onlyOthers keeps requests from what listens on the node for the node alone, and from what a cloud tells its machines
// alone: a Service of type ExternalName may have a name that leads there.
func onlyOthers(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	a := at.Addr().Unmap()
	if a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() {
		return errRefused
	}
	return nil
}

// dialError says that no connection was made, so that nothing of the request can have been read.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// connect dials within the time that the Ingress leaves.
func connect(dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		timeout := 5 * time.Second
		if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
			timeout = x.settings.ConnectTimeout
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, dialError{err}
		}
		return conn, nil
	}
}

// RoundTrip asks an endpoint of the exchange, and another one as long as none takes a connection.
func (t transports) RoundTrip(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r.Context())
	if x.wrong != nil {
		return nil, x.wrong
	}
	protocol := x.settings.Protocol
	out := *r
	u := *r.URL
	out.URL = &u
	if r.Body != nil {
		out.Body = io.NopCloser(r.Body) // an attempt that fails must not close what the next one sends
	}
	if protocol == route.HTTPS || protocol == route.GRPCS {
		u.Scheme = "https"
	}
	var last error
	for range attempts {
		if u.Host = x.endpoint(); u.Host == "" {
			break
		}
		res, err := t[protocol].RoundTrip(&out)
		var dialing dialError
		if err == nil || !errors.As(err, &dialing) || r.Context().Err() != nil {
			return res, err
		}
		last = fmt.Errorf("endpoint %s: %w", u.Host, err)
	}
	if last == nil {
		last = errNoEndpoints
	}
	return nil, last
}
