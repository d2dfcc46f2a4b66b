package ingress

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// mostLeft is how much of a body is read that nobody wants, so that the connection can be used again.
const mostLeft = 256 << 10

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// leaveBody ends a request of HTTP/1 that was answered before its body was read. The client has a moment to end it; then
// whoever still sends it to an endpoint is woken, and the connection is closed. The server alone would wait for ever, and
// take what comes later for another request, for it does not look whether it could read a body to its end when both ways
// are open at once. w is the server's own.
func (v *visit) leaveBody(w http.ResponseWriter) {
	r := v.request
	if r.ProtoMajor != 1 || !hasBody(r) || v.read.Load() {
		return
	}
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(lastWords))
	if r.Header.Get("Expect") == "" && conn.Flush() == nil { // one that expects something has sent nothing yet
		if _, err := io.CopyN(io.Discard, r.Body, mostLeft); err == io.EOF {
			return
		}
	}
	closeAfter(w)
}

// closeAfter has the server close the connection after an answer whose header may be written already. A limit that is
// passed is how a handler tells it.
func closeAfter(w http.ResponseWriter) {
	passed := http.MaxBytesReader(w, io.NopCloser(bytes.NewReader([]byte{0})), 0)
	_, _ = passed.Read(make([]byte, 1))
}
