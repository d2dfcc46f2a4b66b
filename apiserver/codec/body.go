package codec

import (
	"io"
	"net/http"
	"strings"
	"sync"
)

// Body is an encoded answer in pieces, which are shared and must not be
// changed.
type Body [][]byte

// Size is the sum of the pieces.
func (b Body) Size() int {
	n := 0
	for _, piece := range b {
		n += len(piece)
	}
	return n
}

// Write answers r with b. After an error the connection is of no use.
func (b Body) Write(w http.ResponseWriter, r *http.Request, code int, m Media) error {
	return b.WriteAs(w, r, code, m.String())
}

// WriteAs is Write with a content type that says more than the encoding.
func (b Body) WriteAs(w http.ResponseWriter, r *http.Request, code int, contentType string) error {
	size := b.Size()
	w.Header().Set("Content-Type", contentType)
	if size > compressOver && acceptsGzip(r) {
		return b.compress(w, code)
	}
	w.WriteHeader(code)
	return b.writeTo(w)
}

// gatherers are buffers in which pieces are joined. What an answer costs beyond its bytes, frames of HTTP/2 and what the
// goroutines of a connection tell each other, is for each write.
var gatherers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// writeTo writes the pieces, small ones together. What fits into one buffer is one write, and so has a Content-Length.
func (b Body) writeTo(w io.Writer) error {
	if len(b) == 1 {
		_, err := w.Write(b[0])
		return err
	}
	buffer := gatherers.Get().(*[64 << 10]byte)
	defer gatherers.Put(buffer)
	joined := buffer[:0]
	for _, piece := range b {
		if len(joined)+len(piece) > len(buffer) {
			if _, err := w.Write(joined); err != nil {
				return err
			}
			joined = joined[:0]
			if len(piece) > len(buffer)/2 {
				if _, err := w.Write(piece); err != nil {
					return err
				}
				continue
			}
		}
		joined = append(joined, piece...)
	}
	if len(joined) == 0 {
		return nil
	}
	_, err := w.Write(joined)
	return err
}

func acceptsGzip(r *http.Request) bool {
	for token := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(token) == "gzip" {
			return true
		}
	}
	return false
}
