package store

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"strconv"
	"sync"
	"weak"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// packed is an object as it was stored, compressed. The object itself is made
// when somebody asks for it, and kept for as long as the collector lets it.
type packed struct {
	r        *resource.Resource
	revision int64
	bytes    []byte

	mu   sync.Mutex
	held weak.Pointer[held]
}

type held struct{ object resource.Object }

// pack makes item, which nobody else knows yet, keep its object packed. value
// is what is stored of it.
func pack(item *Item, r *resource.Resource, value []byte) error {
	var b bytes.Buffer
	w := packers.Get().(*flate.Writer)
	defer packers.Put(w)
	w.Reset(&b)
	if _, err := w.Write(value); err != nil {
		return fmt.Errorf("pack %s: %w", item.key, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("pack %s: %w", item.key, err)
	}
	p := &packed{r: r, revision: item.revision, bytes: bytes.Clone(b.Bytes())}
	p.held = weak.Make(&held{item.object})
	item.packed, item.object = p, nil
	return nil
}

// packers are large.
var packers = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

// open is the object. It was decoded from the same bytes before it was packed.
func (p *packed) open() resource.Object {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.held.Value(); h != nil {
		return h.object
	}
	value, err := io.ReadAll(flate.NewReader(bytes.NewReader(p.bytes)))
	if err != nil {
		panic("store: unpack what was packed here: " + err.Error())
	}
	obj, err := decode(p.r, value)
	if err != nil {
		panic("store: decode again: " + err.Error())
	}
	obj.SetResourceVersion(strconv.FormatInt(p.revision, 10))
	h := &held{obj}
	p.held = weak.Make(h)
	return h.object
}
