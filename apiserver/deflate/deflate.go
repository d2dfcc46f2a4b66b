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

// readers have a window that is larger than most of what is packed.
var readers = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// Unpack gives back what Pack was given. It may be called concurrently.
func Unpack(packed []byte) ([]byte, error) {
	r := readers.Get().(io.ReadCloser)
	defer readers.Put(r)
	if err := r.(flate.Resetter).Reset(bytes.NewReader(packed), nil); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(2 * len(packed))
	_, err := b.ReadFrom(r)
	return b.Bytes(), err
}
