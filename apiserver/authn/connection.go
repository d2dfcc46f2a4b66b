package authn

import (
	"context"
	"crypto/x509"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// connection remembers who is at the other end of a connection by its certificate, so that requests after the first need
// neither verify it nor make anything of it. It ends with the connection. A nil one remembers nothing.
type connection struct{ known atomic.Pointer[connected] }

// connected is the user that authorities have vouched for. What is said of it holds for the same authorities, the same
// certificate, and while all of the chain are valid.
type connected struct {
	by   *x509.CertPool
	leaf *x509.Certificate
	is   validity
	user user.Info
}

type connectionKey struct{}

// WithConnection returns the context of a connection, for all its requests.
func WithConnection(ctx context.Context) context.Context {
	return context.WithValue(ctx, connectionKey{}, new(connection))
}

func connectionOf(r *http.Request) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	return c
}

// user is who sends r, nil if it is not known. It must not be changed.
func (c *connection) user(by *x509.CertPool, r *http.Request, now time.Time) user.Info {
	if c == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	k := c.known.Load()
	if k == nil || k.by != by || k.leaf != r.TLS.PeerCertificates[0] || !k.is.at(now) {
		return nil
	}
	return k.user
}

func (c *connection) remember(k *connected) {
	if c != nil {
		c.known.Store(k)
	}
}
