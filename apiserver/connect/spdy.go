package connect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	spdystream "k8s.io/apimachinery/pkg/util/httpstream/spdy"

	"github.com/skiff-k8s/skiff/spdy"
)

// spdyUpgrader is the client's side of one upgrade to SPDY over any transport.
type spdyUpgrader struct {
	transport http.RoundTripper
	conn      net.Conn     // set when the server has agreed
	guarded   *guardedConn // conn, when it is spoken to here
}

// RoundTrip asks for the upgrade. Callers close the body of the answer before
// they use the connection, so the body is not the connection.
func (u *spdyUpgrader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "SPDY/3.1")
	resp, err := u.transport.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return resp, err
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		resp.Body.Close()
		return nil, errors.New("the transport does not give away upgraded connections")
	}
	u.conn, resp.Body = &bodyConn{body}, http.NoBody
	return resp, nil
}

// NewConnection makes a connection of the answer, or an error of a refusal.
func (u *spdyUpgrader) NewConnection(resp *http.Response) (httpstream.Connection, error) {
	if u.conn == nil {
		return nil, refusal(resp)
	}
	u.guarded = &guardedConn{Conn: u.conn, within: new(spdy.Guard).FromServer(u.conn)}
	return spdystream.NewClientConnectionWithPings(u.guarded, pingPeriod)
}

// broken is why a connection was broken off, nil if it was not. To those who read its streams it ends like any
// other.
func (u *spdyUpgrader) broken() error {
	if u.guarded == nil {
		return nil
	}
	u.guarded.mu.Lock()
	defer u.guarded.mu.Unlock()
	return u.guarded.err
}

// guardedConn is a connection to a kubelet that cannot fill the memory of this process.
type guardedConn struct {
	net.Conn
	within io.Reader

	mu  sync.Mutex
	err error // beyond limits
}

func (c *guardedConn) Read(p []byte) (int, error) {
	n, err := c.within.Read(p)
	if errors.Is(err, spdy.ErrLimit) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.err = err
	}
	return n, err
}

// refusal is why a server did not upgrade.
func refusal(resp *http.Response) error {
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return fmt.Errorf("unable to upgrade connection: unable to read error from server response: %w", err)
	}
	var status metav1.Status
	if json.Unmarshal(text, &status) == nil && status.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: status}
	}
	return fmt.Errorf("unable to upgrade connection: %s", text)
}

// bodyConn is the body of an upgraded answer as a connection.
type bodyConn struct{ io.ReadWriteCloser }

func (*bodyConn) LocalAddr() net.Addr              { return unknownAddr{} }
func (*bodyConn) RemoteAddr() net.Addr             { return unknownAddr{} }
func (*bodyConn) SetDeadline(time.Time) error      { return nil }
func (*bodyConn) SetReadDeadline(time.Time) error  { return nil }
func (*bodyConn) SetWriteDeadline(time.Time) error { return nil }

type unknownAddr struct{}

func (unknownAddr) Network() string { return "tcp" }
func (unknownAddr) String() string  { return "kubelet" }
