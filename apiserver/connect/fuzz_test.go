package connect

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// FuzzWebSocketFrames sends bytes as the frames of a session, and of a forwarded port. The session ends when the client has.
func FuzzWebSocketFrames(f *testing.F) {
	f.Add(false, []byte{wholeBinary, 0x83, 0, 0, 0, 0, 0, 'h', 'i'})
	f.Add(false, []byte{wholeText, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Add(true, []byte{firstPart, 0x81, 0, 0, 0, 0, 9, nextPart, 0x81, 0, 0, 0, 0, 1, 0x88, 0x80, 0, 0, 0, 0})
	f.Add(true, []byte{0x89, 0xfe, 0, 126, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, forward bool, data []byte) {
		w := newWorld(t, http.NotFoundHandler())
		path, protocol := "pods/web/exec", "v5.channel.k8s.io"
		query := url.Values{"command": {"cat"}, "stdin": {"true"}, "stdout": {"true"}}
		if forward {
			path, protocol, query = "pods/web/portforward", "SPDY/3.1+portforward.k8s.io", url.Values{}
		}
		s := dialRaw(t, w.url(path, query), protocol)
		s.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = s.Write(data) // the server may have ended it
		_ = s.Conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, s.in); err != nil {
			if wait, ok := err.(net.Error); ok && wait.Timeout() {
				t.Error("the session goes on without its client")
			}
		}
	})
}
