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
type transports map[route.Protocol]http.RoundTripper

func newTransports(dial dialer) transports {
	dial = connect(dial)
	unchecked := &tls.Config{InsecureSkipVerify: true}
	var plain, secure http.Protocols
	plain.SetUnencryptedHTTP2(true)
	secure.SetHTTP2(true)
	return transports{
		route.HTTP:  newConnections(dial, nil),
		route.HTTPS: newConnections(dial, unchecked),
		route.GRPC:  newHTTP2(dial, unchecked, &plain),
		route.GRPCS: newHTTP2(dial, unchecked, &secure),
	}
}

func newHTTP2(dial dialer, secure *tls.Config, protocols *http.Protocols) *http.Transport {
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        secure,
		TLSHandshakeTimeout:    handshakeTime,
		MaxIdleConns:           mostIdle,
		MaxIdleConnsPerHost:    mostIdlePerEndpoint,
		IdleConnTimeout:        idleUpstream,
		DisableCompression:     true,
		MaxResponseHeaderBytes: longestAnswerHeader,
		Protocols:              protocols,
	}
}

// newDialer connects to all but what onlyOthers refuses.
func newDialer() dialer {
	return (&net.Dialer{Control: onlyOthers, KeepAlive: 30 * time.Second}).DialContext
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
	if dial == nil {
		dial = newDialer()
	}
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
