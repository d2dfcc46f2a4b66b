package connect

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/guard"
)

// maxMessage is how long a client's message may be: what kube-apiserver takes. One that is longer ends its
// session with status 1009. Messages are read as they come and never held, so the limit costs no memory.
const maxMessage = 32 << 20

func isWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && upgrades(r)
}

// upgrades reports whether a request wants to become another protocol.
func upgrades(r *http.Request) bool {
	return slices.ContainsFunc(r.Header.Values("Connection"), func(v string) bool {
		return strings.Contains(strings.ToLower(v), "upgrade")
	})
}

func offered(r *http.Request) []string {
	var protocols []string
	for _, v := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(v, ",") {
			protocols = append(protocols, strings.TrimSpace(p))
		}
	}
	return protocols
}

// accept makes r a WebSocket with the first protocol in the client's order that
// is among known. A client that names none gets none.
func accept(w http.ResponseWriter, r *http.Request, known ...string) (*websocket.Conn, error) {
	var chosen []string
	for _, p := range offered(r) {
		if slices.Contains(known, p) {
			chosen = []string{p}
			break
		}
	}
	if len(chosen) == 0 && len(offered(r)) > 0 {
		return nil, apierrors.NewBadRequest("unable to upgrade: unable to negotiate protocol: client supports " +
			strings.Join(offered(r), ", ") + ", server accepts " + strings.Join(known, ", "))
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: chosen,
		// Who asks is known by a token or a certificate, never by a cookie, so
		// no page can borrow a session.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, nil // answered already
	}
	conn.SetReadLimit(maxMessage)
	return conn, nil
}

// Ignore drops what the client of conn sends. The context it returns ends when the client leaves or sends a
// message that is too long.
func Ignore(ctx context.Context, conn *websocket.Conn) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	conn.SetReadLimit(maxMessage)
	guard.Go("streams", func() {
		defer cancel()
		for {
			_, message, err := conn.Reader(ctx)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, message); err != nil {
				return
			}
		}
	})
	return ctx
}

// sendLog sends a log as messages of one channel, for browsers. A client that leaves ends a log that is
// followed and has nothing to say.
func sendLog(w http.ResponseWriter, r *http.Request, body io.ReadCloser) error {
	conn, err := accept(w, r, "binary.k8s.io", "base64.binary.k8s.io")
	if conn == nil {
		return err
	}
	defer conn.CloseNow()
	ctx := Ignore(r.Context(), conn)
	defer context.AfterFunc(ctx, func() { body.Close() })()
	if _, err := io.Copy(&messages{ctx: ctx, conn: conn, base64: conn.Subprotocol() == "base64.binary.k8s.io"}, body); err == nil {
		_ = conn.Close(websocket.StatusNormalClosure, "")
	}
	return nil
}

// messages writes each Write as a message, behind the number of a channel if
// there is one.
type messages struct {
	ctx     context.Context
	conn    *websocket.Conn
	base64  bool
	channel *byte
}

func (m *messages) Write(p []byte) (int, error) {
	if m.base64 {
		text := base64.StdEncoding.EncodeToString(p)
		if m.channel != nil {
			text = string('0'+*m.channel) + text
		}
		return len(p), m.conn.Write(m.ctx, websocket.MessageText, []byte(text))
	}
	message := p
	if m.channel != nil {
		message = append([]byte{*m.channel}, p...)
	}
	return len(p), m.conn.Write(m.ctx, websocket.MessageBinary, message)
}

// split takes a message apart: its channel and what it says.
func split(message io.Reader, isBase64 bool) (channel byte, data io.Reader, err error) {
	var number [1]byte
	if _, err := io.ReadFull(message, number[:]); err != nil {
		return 0, nil, err
	}
	if !isBase64 {
		return number[0], message, nil
	}
	return number[0] - '0', base64.NewDecoder(base64.StdEncoding, message), nil
}
