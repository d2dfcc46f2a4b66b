package store

import (
	"fmt"
	"strconv"
	"sync"
	"weak"

	"github.com/skiff-k8s/skiff/apiserver/deflate"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// packed is an object as it was stored, compressed. The object itself is made
// when somebody asks for it, and kept for as long as the collector lets it.
type packed struct {
	r        *resource.Resource
	revision int64
	bytes    []byte
	face     face

	mu   sync.Mutex
	held weak.Pointer[held]
}

type held struct{ object resource.Object }

// pack makes item, which nobody else knows yet, keep its object packed. value
// is what is stored of it.
func pack(item *Item, r *resource.Resource, value []byte) error {
	compressed, err := deflate.Pack(value)
	if err != nil {
		return fmt.Errorf("pack %s: %w", item.key, err)
	}
	p := &packed{r: r, revision: item.revision, bytes: compressed, face: faceOf(r, item.object)}
	p.held = weak.Make(&held{item.object})
	item.packed, item.object = p, nil
	return nil
}

// open is the object. It was decoded from the same bytes before it was packed.
func (p *packed) open() resource.Object {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.held.Value(); h != nil {
		return h.object
	}
	value, err := deflate.Unpack(p.bytes)
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
