package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/skiff-k8s/skiff/guard"
)

const (
	// portRetry is how often a port that was taken is tried again.
	portRetry = 10 * time.Second
	// headerTime is how long a client may take for the header of a request, idleTime how long until its next one.
	headerTime = 10 * time.Second
	idleTime   = 75 * time.Second
	// longestHeader bounds a request's header, mostConnections the connections of clients to a port.
	longestHeader   = 32 << 10
	mostConnections = 16384
)

// ports keeps the listeners: open while there is something to serve and nothing else has the port.
type ports struct {
	Config
	handler http.Handler
	changed func() // a listener ended by itself

	mu   sync.Mutex
	open map[uint16]*http.Server
	tls  *tls.Config
}

func newPorts(c Config, h *handler) *ports {
	p := &ports{Config: c, handler: h, open: make(map[uint16]*http.Server), changed: func() {}}
	fallback := sync.OnceValues(func() (*tls.Certificate, error) { return selfSigned("ingress.local") })
	p.tls = &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if pair := h.table.Load().Certificate(hello.ServerName); pair != nil {
				return pair, nil
			}
			return fallback()
		},
	}
	return p
}

// selfSigned makes a certificate that nobody vouches for. It is shown for names that no Ingress has one for.
func selfSigned(names ...string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Skiff Ingress default certificate"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// keep opens the ports if they are wanted, and closes them otherwise. It returns why one is not open.
func (p *ports) keep(wanted bool, holder func(port uint16) string) (problems []string) {
	for _, port := range []struct {
		number uint16
		secure bool
	}{{p.HTTPPort, false}, {p.HTTPSPort, true}} {
		if port.number == 0 {
			continue
		}
		who := ""
		if wanted {
			who = holder(port.number)
		}
		if !wanted || who != "" {
			p.shut(port.number)
		} else if err := p.ensure(port.number, port.secure); err != nil {
			who = "another program (" + err.Error() + ")"
		}
		if who != "" {
			problems = append(problems, fmt.Sprintf("%s does not serve at %s: port %d is that of %s", p.NodeName, p.Address, port.number, who))
		}
	}
	return problems
}

func (p *ports) ensure(port uint16, secure bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[port] != nil {
		return nil
	}
	var listeners []net.Listener
	for _, a := range p.addresses() {
		l, err := p.Listen("tcp", netip.AddrPortFrom(a, port).String())
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return err
		}
		listeners = append(listeners, netutil.LimitListener(l, mostConnections))
	}
	server := newServer(p.handler)
	if secure {
		server.TLSConfig = p.tls
	}
	p.open[port] = server
	for _, l := range listeners {
		guard.Go("ingress", func() { p.serve(server, l, port, secure) })
	}
	return nil
}

// serve serves at an address until the port is shut.
func (p *ports) serve(server *http.Server, l net.Listener, port uint16, secure bool) {
	var err error
	if secure {
		err = server.ServeTLS(l, "", "")
	} else {
		err = server.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return
	}
	p.Log.Error("the ingress' port closed by itself", "address", l.Addr(), "error", err)
	p.shut(port)
	p.changed()
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: longestHeader, ErrorLog: discarded,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 128},
	}
}

// drain is how long requests have to end when a port is closed.
const drain = 5 * time.Second

func (p *ports) shut(port uint16) {
	p.mu.Lock()
	server := p.open[port]
	delete(p.open, port)
	p.mu.Unlock()
	if server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
}

func (p *ports) close() {
	p.shut(p.HTTPPort)
	p.shut(p.HTTPSPort)
}

// listening reports whether every port that is to be open is.
func (p *ports) listening() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range []uint16{p.HTTPPort, p.HTTPSPort} {
		if port != 0 && p.open[port] == nil {
			return false
		}
	}
	return p.HTTPPort != 0 || p.HTTPSPort != 0
}
