package rest

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/connect"
)

func isWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

// serveWebSocket sends a message per event: text for JSON and YAML, else
// binary. What the client sends is ignored; when it leaves, the watch ends.
func (s *stream) serveWebSocket(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // who may watch is decided by authorization, not by origin
	if err != nil {
		return nil // Accept has answered
	}
	defer conn.CloseNow()
	ctx = connect.Ignore(ctx, conn)
	kind := websocket.MessageText
	if s.framer.Media == codec.Protobuf {
		kind = websocket.MessageBinary
	}
	if s.run(ctx, messageSink{ctx, conn, kind, cmp.Or(s.handler.Patience, time.Minute)}) == nil {
		conn.Close(websocket.StatusNormalClosure, "")
	}
	return nil
}

// messageSink sends each frame as a message; a message needs no length before
// it and no newline after it.
type messageSink struct {
	ctx  context.Context
	conn *websocket.Conn
	kind websocket.MessageType
	// patience is how long a message may take.
	patience time.Duration
}

func (s messageSink) Write(frame []byte) (int, error) {
	message := frame
	if s.kind == websocket.MessageBinary {
		message = frame[4:]
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.patience)
	defer cancel()
	return len(frame), s.conn.Write(ctx, s.kind, bytes.TrimSuffix(message, []byte("\n")))
}

func (messageSink) Flush() error { return nil }
