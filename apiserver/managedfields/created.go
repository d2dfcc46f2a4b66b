package managedfields

import (
	"cmp"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// created is what a new object has that its empty one has not, as the JSON of a set of fields. Most objects are written once
// by whoever makes them, and nobody has owned a field before: so the JSON is written while looking at the object, without a
// set. ok is false for what needs one.
func (d *direct) created(empty, obj reflect.Value) (fields []byte, ok bool) {
	if d.reset != nil || d.shape.kind != structure {
		return nil, false
	}
	w := writers.Get().(*writer)
	defer writers.Put(w)
	w.out, w.gaveUp = append(w.out[:0], '{'), false
	empty, obj = empty.Elem(), obj.Elem()
	for i := range d.shape.fields {
		f := &d.shape.fields[i]
		name := *f.name.FieldName
		switch {
		case name == "apiVersion" || name == "kind" || slices.Contains(d.skipped, name):
			at := len(w.out)
			w.field(f, empty, obj)
			w.out = w.out[:at] // it was looked at
		case name == "metadata":
			w.metadata(f, empty, obj)
		default:
			w.field(f, empty, obj)
		}
	}
	return slices.Concat(w.out, []byte{'}'}), !w.gaveUp
}

var writers = sync.Pool{New: func() any { return new(writer) }}

// writer writes sets of fields as JSON, in their order. An element of a set that has others below it is an object, in which
// "." says that the element is in the set itself.
type writer struct {
	out []byte
	// gaveUp: there is something that needs a set, or that only the library knows how to write.
	gaveUp bool
}

// open begins an element, of which name is the JSON.
func (w *writer) open(name []byte) {
	if w.out[len(w.out)-1] != '{' {
		w.out = append(w.out, ',')
	}
	w.out = append(append(w.out, name...), ":{"...)
}

func (w *writer) leaf(name []byte) {
	w.open(name)
	w.out = append(w.out, '}')
}

// metadata writes the fields of metadata that are somebody's.
func (w *writer) metadata(f *fieldShape, empty, obj reflect.Value) {
	before, _ := f.of(empty)
	after, _ := f.of(obj)
	if f.shape.kind != structure || before.Kind() != reflect.Struct {
		w.gaveUp = true
		return
	}
	at := len(w.out)
	w.open(f.json)
	begin := len(w.out)
	for i := range f.shape.fields {
		if f := &f.shape.fields[i]; !slices.Contains(nobodys, *f.name.FieldName) {
			w.field(f, before, after)
		}
	}
	w.close(at, begin)
}

// close ends an element that is not in the set itself; if nothing is below it, it was never begun.
func (w *writer) close(at, begin int) {
	if len(w.out) == begin {
		w.out = w.out[:at]
		return
	}
	w.out = append(w.out, '}')
}

// field writes what is new of a field of two structures, of which the first may be the zero Value: there is none.
func (w *writer) field(f *fieldShape, before, after reflect.Value) {
	var l, r side
	if before.IsValid() {
		l = sideOf(f.of(before))
	}
	if after.IsValid() {
		r = sideOf(f.of(after))
	}
	w.node(f.shape, f.json, l, r)
}

// node is what comparison.node does for an object that had nothing but what an empty one has.
func (w *writer) node(s *shape, name []byte, l, r side) {
	switch {
	case w.gaveUp || l.absent() && r.absent():
		return
	case s.kind == foreign, r.absent():
		w.gaveUp = true
		return
	case l.absent():
		w.all(s, name, r)
		return
	case s.leaf():
		w.gaveUp = s.malformed(r)
		if !s.equal(l, r) {
			w.leaf(name)
		}
		return
	case l.null && r.null:
		return
	case l.null != r.null && s.empty(l) && s.empty(r):
		w.leaf(name)
		return
	case s.kind != structure && !l.null && l.value.Len() > 0, r.null:
		w.gaveUp = true
		return
	}
	at := len(w.out)
	w.open(name)
	begin := len(w.out)
	if s.kind == structure {
		var before reflect.Value
		if !l.null {
			before = l.value
		}
		for i := range s.fields {
			w.field(&s.fields[i], before, r.value)
		}
	} else {
		w.elements(s, r.value)
	}
	w.close(at, begin)
}

// all writes an element and all that is below it.
func (w *writer) all(s *shape, name []byte, v side) {
	switch {
	case s.kind == foreign, s.malformed(v):
		w.gaveUp = true
		return
	case s.leaf() || v.null || w.gaveUp:
		w.leaf(name)
		return
	}
	w.open(name)
	begin := len(w.out)
	w.leaf(self)
	alone := len(w.out)
	if s.kind == structure {
		for i := range s.fields {
			f := &s.fields[i]
			if field, present := f.of(v.value); present {
				w.all(f.shape, f.json, sideOf(field, true))
			}
		}
	} else {
		w.elements(s, v.value)
	}
	if len(w.out) == alone {
		w.out = w.out[:begin]
	}
	w.out = append(w.out, '}')
}

var self = []byte(`"."`)

// elements writes all that is in a mapping or a list.
func (w *writer) elements(s *shape, v reflect.Value) {
	switch {
	case v.Len() > mostAside:
		w.gaveUp = true
	case s.kind == mapping:
		w.entries(s, v)
	case s.kind == setList:
		w.list(s, v, func(a, b reflect.Value) int { return compareScalars(a, b) })
	case !s.hasKey(v):
		w.gaveUp = true
	default:
		w.list(s, v, s.compareKeys)
	}
}

func (w *writer) entries(s *shape, m reflect.Value) {
	var room [16]string
	names := room[:0]
	if plain, ok := m.Interface().(map[string]string); ok {
		for name := range plain {
			names = append(names, name)
		}
	} else {
		for i := m.MapRange(); i.Next(); {
			names = append(names, i.Key().String())
		}
	}
	slices.Sort(names)
	var name [64]byte
	for _, n := range names {
		w.gaveUp = w.gaveUp || !unescaped(n)
		json := append(append(append(name[:0], `"f:`...), n...), '"')
		if s.element.leaf() && s.element.kind != either {
			w.leaf(json)
			continue
		}
		w.all(s.element, json, sideOf(m.MapIndex(reflect.ValueOf(n).Convert(m.Type().Key())), true))
	}
}

// list writes the elements of a list in the order of their keys.
func (w *writer) list(s *shape, l reflect.Value, compare func(a, b reflect.Value) int) {
	var room [16]int
	order := room[:0]
	for i := range l.Len() {
		order = append(order, i)
	}
	slices.SortFunc(order, func(a, b int) int { return compare(l.Index(a), l.Index(b)) })
	var name [128]byte
	for i, at := range order {
		e := l.Index(at)
		if i > 0 && compare(l.Index(order[i-1]), e) == 0 {
			w.gaveUp = true // one is there twice
		}
		json, ok := s.appendPath(name[:0], e)
		if !ok {
			w.gaveUp = true
			return
		}
		w.all(s.element, json, sideOf(e, true))
	}
}

// compareKeys orders elements of a keyed list as sets of fields do. Elements without one of the keys are only together with none
// in a list that is written: appendPath refuses them.
func (s *shape) compareKeys(a, b reflect.Value) int {
	for _, k := range s.keys {
		l, _ := k.of(a)
		r, _ := k.of(b)
		if by := compareScalars(l, r); by != 0 {
			return by
		}
	}
	return 0
}

// compareScalars orders strings and numbers. Others are equal, and a list of two of them is not written.
func compareScalars(a, b reflect.Value) int {
	switch {
	case a.Kind() == reflect.String && b.Kind() == reflect.String:
		return strings.Compare(a.String(), b.String())
	case a.CanInt() && b.CanInt():
		return cmp.Compare(a.Int(), b.Int())
	}
	return 0
}

// appendPath appends the JSON of what an element of a list is called in a set of fields: a string, in which there is JSON. ok is
// false for keys that are left out, are neither strings nor whole numbers, or need more than quotes.
func (s *shape) appendPath(b []byte, element reflect.Value) (json []byte, ok bool) {
	if s.kind == setList {
		b, ok = appendInString(append(b, `"v:`...), element)
		return append(b, '"'), ok
	}
	b = append(b, `"k:{`...)
	for i, k := range s.keys {
		v, present := k.of(element)
		if !present {
			return b, false
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, `\"`...), *k.field.name.FieldName...), `\":`...)
		if b, ok = appendInString(b, v); !ok {
			return b, false
		}
	}
	return append(b, `}"`...), true
}

// appendInString appends the JSON of a scalar as it is inside of a string of JSON.
func appendInString(b []byte, v reflect.Value) (json []byte, ok bool) {
	switch {
	case v.Kind() == reflect.String:
		return append(append(append(b, `\"`...), v.String()...), `\"`...), unescaped(v.String())
	case v.CanInt():
		return strconv.AppendInt(b, v.Int(), 10), true
	}
	return b, false
}

// unescaped reports whether a string is itself in JSON.
func unescaped(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}
