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
)

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
	conn.SetReadLimit(-1)
	return conn, nil
}

// sendLog sends a log as messages of one channel, for browsers.
func sendLog(w http.ResponseWriter, r *http.Request, body io.Reader) error {
	conn, err := accept(w, r, "binary.k8s.io", "base64.binary.k8s.io")
	if conn == nil {
		return err
	}
	defer conn.CloseNow()
	ctx := conn.CloseRead(r.Context())
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
func split(message []byte, isBase64 bool) (channel byte, data []byte, ok bool) {
	if len(message) == 0 {
		return 0, nil, false
	}
	if !isBase64 {
		return message[0], message[1:], true
	}
	data, err := base64.StdEncoding.DecodeString(string(message[1:]))
	return message[0] - '0', data, err == nil
}
