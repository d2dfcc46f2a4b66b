package apiserver

import (
	"bufio"
	"net"
	"net/http"
	"time"
)

// response remembers what was answered, and sees to it that answering does not
// wait for ever.
type response struct {
	http.ResponseWriter
	code  int
	bytes int64 // of the body
	// begun, if not nil, is called when the answer begins.
	begun func()
	// stall, if not nil, guards every write and flush, which may take patience.
	stall    *expiry
	patience time.Duration
}

var (
	_ http.Flusher  = (*response)(nil)
	_ http.Hijacker = (*response)(nil)
)

func (w *response) WriteHeader(code int) {
	w.begin(code)
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) begin(code int) {
	if w.code != 0 {
		return
	}
	w.code = code
	if w.begun != nil {
		w.begun()
	}
}

func (w *response) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	defer w.guarded()()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// guarded guards until what it returns is called.
func (w *response) guarded() func() {
	if w.stall == nil {
		return func() {}
	}
	w.stall.start(w.patience)
	return w.stall.stop
}

// Flush, FlushError and Hijack are passed on; Unwrap lets
// http.ResponseController find the rest.
func (w *response) Flush() { w.FlushError() }

// FlushError tells whether the client is still there.
func (w *response) FlushError() error {
	w.begin(http.StatusOK)
	defer w.guarded()()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.begin(http.StatusSwitchingProtocols)
	}
	return conn, rw, err
}

func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
