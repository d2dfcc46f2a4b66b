package codec

import (
	"compress/gzip"
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

// Answers larger than compressOver bytes are compressed for clients that can
// take it, at the level that costs least: the network gains, and small answers
// would only lose time.
const compressOver = 128 * 1024

var compressors = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

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
	for _, piece := range b.gathered(size) {
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// gathered joins small bodies, to answer with one write and so with a
// Content-Length.
func (b Body) gathered(size int) Body {
	if len(b) == 1 || size > 2048 && len(b) > 3 {
		return b
	}
	one := make([]byte, 0, size)
	for _, piece := range b {
		one = append(one, piece...)
	}
	return Body{one}
}

func (b Body) compress(w http.ResponseWriter, code int) error {
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Add("Vary", "Accept-Encoding")
	w.WriteHeader(code)
	z := compressors.Get().(*gzip.Writer)
	defer compressors.Put(z)
	z.Reset(w)
	for _, piece := range b {
		if _, err := z.Write(piece); err != nil {
			return err
		}
	}
	return z.Close()
}

func acceptsGzip(r *http.Request) bool {
	for token := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(token) == "gzip" {
			return true
		}
	}
	return false
}
