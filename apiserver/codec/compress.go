package codec

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"
)

// Answers larger than compressOver bytes are compressed for clients that can
// take it, at the level that costs least: the network gains, and small answers
// would only lose time.
const compressOver = 128 * 1024

// turns are who may compress now. That is most of what a large list costs, and as many lists as have seats could want to do it at
// the same time. A goroutine that wakes up for something small would come after all of them, each of which may keep its processor for 10 ms, and
// does so several times in a request. So those that compress wait here, where they are in nobody's way, and leave one processor to
// the rest: the runtime looks at connections when a processor has nothing to do, and else every 10 ms.
var turns = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))

// perTurn is how much is compressed in a turn, which takes a fraction of a millisecond.
const perTurn = 64 << 10

// compressor compresses what is written to it and passes it on. A turn ends before that: a client may be slow to read.
type compressor struct {
	gzip *gzip.Writer
	done bytes.Buffer // not passed on yet
	to   io.Writer
}

var compressors = sync.Pool{New: func() any {
	c := &compressor{}
	var err error
	if c.gzip, err = gzip.NewWriterLevel(&c.done, gzip.BestSpeed); err != nil {
		panic(err) // the level is a constant
	}
	return c
}}

func (c *compressor) Write(p []byte) (int, error) {
	for part := range slices.Chunk(p, perTurn) {
		if err := c.turn(func() error { _, err := c.gzip.Write(part); return err }); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c *compressor) turn(work func() error) error {
	if err := inTurn(work); err != nil || c.done.Len() == 0 {
		return err
	}
	_, err := c.done.WriteTo(c.to)
	return err
}

func inTurn(work func() error) error {
	turns <- struct{}{}
	defer func() { <-turns }()
	return work()
}

// compress answers with b, compressed.
func (b Body) compress(w http.ResponseWriter, code int) error {
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Add("Vary", "Accept-Encoding")
	w.WriteHeader(code)
	c := compressors.Get().(*compressor)
	defer compressors.Put(c)
	c.done.Reset()
	c.gzip.Reset(&c.done)
	c.to = w
	defer func() { c.to = nil }() // before it is put back
	if err := b.writeTo(c); err != nil {
		return err
	}
	return c.turn(c.gzip.Close)
}
