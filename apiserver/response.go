package apiserver

import (
	"bufio"
	"net"
	"net/http"
)

// response remembers what was answered.
type response struct {
	http.ResponseWriter
	code  int
	bytes int64
}

var (
	_ http.Flusher  = (*response)(nil)
	_ http.Hijacker = (*response)(nil)
)

func (w *response) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Flush and Hijack are passed on; Unwrap lets http.ResponseController find the
// rest.
func (w *response) Flush() { http.NewResponseController(w.ResponseWriter).Flush() }

func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.code == 0 {
		w.code = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
