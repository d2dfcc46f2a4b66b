package store

import (
	"bytes"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/skiff-k8s/skiff/apiserver/deflate"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// kept is an object as it was stored. The object itself is made when somebody
// asks for it and it is not there any more: it is held by those alone who use
// it, as informers in this process do. There is never more than one, so that
// what they hold is one copy.
type kept struct {
	*shape
	revision int64
	bytes    []byte   // as stored, or compressed
	packed   bool     // they are compressed
	fields   []string // the values of those of the shape

	mu   sync.Mutex
	live func() resource.Object // see resource.Resource.Weak
}

// shape is what the objects of a kind have in common.
type shape struct {
	r        *resource.Resource
	names    []string // of the fields that objects are selected by, in order
	forms    *forms
	watching *detector // nil but in tests
}

func newShape(r *resource.Resource, f *forms, d *detector) *shape {
	return &shape{r: r, names: slices.Sorted(maps.Keys(r.Fields)), forms: f, watching: d}
}

// keep makes item, which nobody else knows yet, keep its object as value, which
// is what is stored of it.
func (s *shape) keep(item *Item, value []byte) {
	obj := item.object
	item.object = nil
	s.describe(item, obj, value)
	item.kept.hold(obj)
}

// keepWritten makes item keep value, which was just made of obj. Nobody will see obj, which its writer may have left in
// another form than it is read in: who wants the object has it decoded.
func (s *shape) keepWritten(item *Item, obj resource.Object, value []byte) {
	s.describe(item, obj, value)
	item.like.known.Store(alike)
	s.watching.compareWritten(item)
}

// describe makes item keep value, and beside it what of obj it can be found by.
func (s *shape) describe(item *Item, obj resource.Object, value []byte) {
	k := &kept{shape: s, revision: item.revision, bytes: value, fields: s.values(obj)}
	if s.r.Packed {
		if packed, err := deflate.Pack(value); err != nil {
			slog.Error("Stored object is not compressed", "key", item.key, "error", err)
		} else {
			k.bytes, k.packed = packed, true
		}
	}
	item.labels, item.value = newLabelSet(obj.GetLabels()), k.field(s.r.IndexBy)
	item.kept = k
}

// values are the values of the fields of an object.
func (s *shape) values(obj resource.Object) []string {
	if len(s.names) == 0 {
		return nil
	}
	values := make([]string, len(s.names))
	for i, name := range s.names {
		values[i] = s.r.Fields[name](obj)
	}
	return values
}

// hold lets the object be found for as long as somebody else holds it.
func (k *kept) hold(obj resource.Object) {
	k.live = k.r.Weak(obj)
	k.watching.watch(obj)
}

// open is the object. It was decoded from the same bytes before.
func (k *kept) open() resource.Object {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.live != nil {
		if obj := k.live(); obj != nil {
			return obj
		}
	}
	obj, err := decode(k.r, k.value())
	if err != nil {
		panic("store: decode again: " + err.Error())
	}
	obj.SetResourceVersion(strconv.FormatInt(k.revision, 10))
	k.hold(obj)
	return obj
}

// value is what is stored.
func (k *kept) value() []byte {
	if !k.packed {
		return k.bytes
	}
	value, err := deflate.Unpack(k.bytes)
	if err != nil {
		panic("store: unpack what was packed here: " + err.Error())
	}
	return value
}

// at is the same object at another revision.
func (k *kept) at(revision int64) *kept {
	return &kept{shape: k.shape, revision: revision, bytes: k.bytes, packed: k.packed, fields: k.fields}
}

// field is the value of one of the fields that objects are selected by.
func (k *kept) field(name string) string {
	if i, found := slices.BinarySearch(k.names, name); found {
		return k.fields[i]
	}
	return ""
}

// same reports whether storing value in place of an item of the cache would
// change nothing.
func same(item *Item, value []byte) bool {
	return item.size == len(value) && bytes.Equal(item.kept.value(), value)
}
