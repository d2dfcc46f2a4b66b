package managedfields

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// comparison is what has changed from one object to another. Sets are nil where there is nothing.
type comparison struct {
	removed, modified, added *fieldpath.Set

	path []step // to what is being compared
	// gaveUp: there is something that only the library knows how to compare.
	gaveUp bool
}

// step is one step of a path. What an element of a list is called is found out when something of it differs.
type step struct {
	name    fieldpath.PathElement
	list    *shape
	element reflect.Value
}

func (s *step) pathElement() fieldpath.PathElement {
	if s.list != nil {
		s.name, s.list = s.list.pathElement(s.element), nil
	}
	return s.name
}

// mostAside is how many elements may stand side by side: sets of fields take a time that is quadratic in them, which
// package heavy is for.
const mostAside = 1000

// compare finds the fields that differ between two objects of one shape, pointers to structures. Fields at the top that
// skip names are left out, but looked at. ok is false if only the library can tell.
func (s *shape) compare(before, after reflect.Value, skip func(name string) bool) (c *comparison, ok bool) {
	if s.kind != structure {
		return nil, false
	}
	c = &comparison{path: make([]step, 0, 16)}
	before, after = before.Elem(), after.Elem()
	skipped := &comparison{}
	for i := range s.fields {
		f := &s.fields[i]
		if skip(*f.name.FieldName) {
			skipped.field(f, before, after)
			continue
		}
		c.field(f, before, after)
	}
	return c, !c.gaveUp && !skipped.gaveUp
}

// side is a value on one side of a comparison. The zero side has none: it is left out there.
type side struct {
	value reflect.Value // what a pointer points to, if to anything
	null  bool
}

func (s side) absent() bool { return !s.value.IsValid() }

func sideOf(v reflect.Value, present bool) side {
	if !present {
		return side{}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return side{v, true}
		}
		return sideOf(v.Elem(), true)
	case reflect.Map, reflect.Slice:
		return side{v, v.IsNil()}
	}
	return side{v, false}
}

// field compares a field of two structures, of which one may be the zero Value: there is none.
func (c *comparison) field(f *fieldShape, before, after reflect.Value) {
	var l, r side
	if before.IsValid() {
		l = sideOf(f.of(before))
	}
	if after.IsValid() {
		r = sideOf(f.of(after))
	}
	c.node(f.shape, step{name: f.name}, l, r)
}

// node compares what is one step further.
func (c *comparison) node(s *shape, at step, l, r side) {
	switch {
	case c.gaveUp || l.absent() && r.absent():
		return
	case s.kind == foreign:
		c.gaveUp = true
		return
	case l.absent():
		c.insertAll(c.at(&c.added), s, at.pathElement(), r)
		return
	case r.absent():
		c.insertAll(c.at(&c.removed), s, at.pathElement(), l)
		return
	case s.leaf():
		c.gaveUp = c.gaveUp || s.malformed(r)
		if !s.equal(l, r) {
			c.at(&c.modified).Members.Insert(at.pathElement())
		}
		return
	case l.null && r.null:
		return
	case l.null != r.null && s.empty(l) && s.empty(r):
		c.at(&c.modified).Members.Insert(at.pathElement())
		return
	}
	c.path = append(c.path, at)
	switch s.kind {
	case structure:
		c.structure(s, l, r)
	case mapping:
		c.mapping(s, l, r)
	default:
		c.list(s, l, r)
	}
	c.path = c.path[:len(c.path)-1]
}

func (c *comparison) structure(s *shape, l, r side) {
	var before, after reflect.Value
	if !l.null {
		before = l.value
	}
	if !r.null {
		after = r.value
	}
	for i := range s.fields {
		c.field(&s.fields[i], before, after)
	}
}

var stringsByString = reflect.TypeFor[map[string]string]()

func (c *comparison) mapping(s *shape, l, r side) {
	if l.value.Type() == stringsByString && maps.Equal(l.value.Interface().(map[string]string), r.value.Interface().(map[string]string)) {
		return
	}
	if l.value.Len() > mostAside || r.value.Len() > mostAside {
		c.gaveUp = true
		return
	}
	keys := keysOf(l.value)
	maps.Copy(keys, keysOf(r.value))
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		c.node(s.element, step{name: fieldpath.FieldNameElement(name)}, entry(l.value, keys[name]), entry(r.value, keys[name]))
	}
}

func keysOf(m reflect.Value) map[string]reflect.Value {
	keys := make(map[string]reflect.Value, m.Len())
	for i := m.MapRange(); i.Next(); {
		keys[i.Key().String()] = i.Key()
	}
	return keys
}

func entry(m, key reflect.Value) side {
	v := m.MapIndex(key)
	return sideOf(v, v.IsValid())
}

// list compares the elements of two lists, which are told apart by what they are or by their keys.
func (c *comparison) list(s *shape, l, r side) {
	if l.value.Len() > mostAside || r.value.Len() > mostAside {
		c.gaveUp = true
		return
	}
	if s.alike(l.value, r.value) {
		for i := range l.value.Len() {
			c.element(s, l.value.Index(i), r.value.Index(i))
		}
		return
	}
	left, right := s.byKey(l.value), s.byKey(r.value)
	if left == nil || right == nil {
		c.gaveUp = true // some are there twice, or have no key
		return
	}
	for i := range l.value.Len() {
		e := l.value.Index(i)
		if other, both := right[s.key(e)]; both {
			c.element(s, e, r.value.Index(other))
			continue
		}
		c.node(s.element, step{list: s, element: e}, sideOf(e, true), side{})
	}
	for i := range r.value.Len() {
		e := r.value.Index(i)
		if _, both := left[s.key(e)]; !both {
			c.node(s.element, step{list: s, element: e}, side{}, sideOf(e, true))
		}
	}
}

// element compares two elements of the same key.
func (c *comparison) element(s *shape, l, r reflect.Value) {
	if s.kind == keyedList {
		c.node(s.element, step{list: s, element: l}, sideOf(l, true), sideOf(r, true))
	}
}

// insertAll puts name and all that is below it into a set.
func (c *comparison) insertAll(set *fieldpath.Set, s *shape, name fieldpath.PathElement, v side) {
	set.Members.Insert(name)
	var below fieldpath.Set
	switch {
	case s.kind == foreign, s.malformed(v):
		c.gaveUp = true
	case s.leaf() || v.null || c.gaveUp:
	case s.kind == structure:
		for i := range s.fields {
			f := &s.fields[i]
			if field, present := f.of(v.value); present {
				c.insertAll(&below, f.shape, f.name, sideOf(field, true))
			}
		}
	case v.value.Len() > mostAside:
		c.gaveUp = true
	case s.kind == mapping:
		keys := keysOf(v.value)
		for _, name := range slices.Sorted(maps.Keys(keys)) {
			c.insertAll(&below, s.element, fieldpath.FieldNameElement(name), entry(v.value, keys[name]))
		}
	case v.value.Len() > 1 && s.byKey(v.value) == nil, s.kind == keyedList && !s.hasKey(v.value):
		c.gaveUp = true
	default:
		for i := range v.value.Len() {
			e := v.value.Index(i)
			c.insertAll(&below, s.element, s.pathElement(e), sideOf(e, true))
		}
	}
	if below.Members.Size() > 0 {
		*set.Children.Descend(name) = below
	}
}

// at is where the path leads in a set.
func (c *comparison) at(set **fieldpath.Set) *fieldpath.Set {
	if *set == nil {
		*set = fieldpath.NewSet()
	}
	at := *set
	for i := range c.path {
		at = at.Children.Descend(c.path[i].pathElement())
	}
	return at
}

// empty reports whether there is nothing in what is no leaf.
func (s *shape) empty(v side) bool {
	switch {
	case v.null:
		return true
	case s.kind != structure:
		return v.value.Len() == 0
	}
	return !slices.ContainsFunc(s.fields, func(f fieldShape) bool {
		_, present := f.of(v.value)
		return present
	})
}

// malformed reports whether a value can not be written as JSON: protobuf has some of which neither a number nor a string is
// meant. The library knows what to do.
func (s *shape) malformed(v side) bool {
	if s.kind != either || v.null {
		return false
	}
	is := v.value.FieldByName("Type").Int()
	return is != int64(intstr.Int) && is != int64(intstr.String)
}

// equal reports whether a leaf is the same on both sides, in JSON.
func (s *shape) equal(l, r side) bool {
	if s.kind == scalar {
		return l.null == r.null && (l.null || sameScalar(l.value, r.value))
	}
	if s.kind == instant {
		a, b := l.instant(), r.instant()
		return a.IsZero() == b.IsZero() && (a.IsZero() || a.Truncate(time.Microsecond).Equal(b.Truncate(time.Microsecond)))
	}
	if s.kind == either && (l.null || r.null || s.malformed(l) || s.malformed(r)) {
		return l.null && r.null
	}
	if l.value.CanAddr() && r.value.CanAddr() && reflect.DeepEqual(l.value.Addr().Interface(), r.value.Addr().Interface()) {
		return true
	}
	return value.Equals(l.inJSON(), r.inJSON())
}

// instant is the time of a side that is one. The zero time is null in JSON.
func (s side) instant() time.Time {
	if s.value.Kind() == reflect.Pointer {
		return time.Time{}
	}
	return s.value.Field(0).Interface().(time.Time)
}

// inJSON is the value of a side as the library sees it.
func (s side) inJSON() value.Value {
	if s.value.Kind() == reflect.Pointer {
		return value.NewValueInterface(nil)
	}
	p := reflect.New(s.value.Type())
	p.Elem().Set(s.value)
	v, err := value.NewValueReflect(p.Interface())
	if err != nil {
		panic("managedfields: " + err.Error()) // opaque values always have a form in JSON
	}
	return v
}

func sameScalar(l, r reflect.Value) bool {
	switch {
	case l.Kind() == reflect.String && r.Kind() == reflect.String:
		return l.String() == r.String()
	case l.CanInt() && r.CanInt():
		return l.Int() == r.Int()
	case l.Kind() == reflect.Slice:
		return bytes.Equal(l.Bytes(), r.Bytes())
	}
	return plainScalar(l) == plainScalar(r)
}

// plainScalar is a scalar that is not bytes as JSON has it.
func plainScalar(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.String:
		return v.String()
	case v.Kind() == reflect.Bool:
		return v.Bool()
	case v.CanInt():
		return v.Int()
	case v.CanUint():
		return int64(v.Uint())
	case v.CanFloat():
		return v.Float()
	}
	return nil
}

// alike reports whether two lists have elements of the same keys in the same order, none twice and each with a key.
func (s *shape) alike(l, r reflect.Value) bool {
	n := l.Len()
	if n != r.Len() || n > 8 { // of more it costs less to remember than to look through them
		return false
	}
	for i := range n {
		if !s.sameKey(l.Index(i), r.Index(i)) {
			return false
		}
		for j := range i {
			if s.sameKey(l.Index(i), l.Index(j)) {
				return false
			}
		}
	}
	return s.kind == setList || s.hasKey(l)
}

func (s *shape) sameKey(l, r reflect.Value) bool {
	if s.kind == setList {
		return sameScalar(l, r)
	}
	for _, k := range s.keys {
		a, is := k.of(l)
		b, other := k.of(r)
		if is != other || is && !sameScalar(a, b) {
			return false
		}
	}
	return true
}

// hasKey reports whether each element has a key, if only a part of it.
func (s *shape) hasKey(l reflect.Value) bool {
	for i := range l.Len() {
		if !slices.ContainsFunc(s.keys, func(k keyShape) bool {
			_, ok := k.of(l.Index(i))
			return ok
		}) {
			return false
		}
	}
	return true
}

// of is the value of a key of an element; ok is false where it is left out and nothing stands for it.
func (k keyShape) of(element reflect.Value) (v reflect.Value, ok bool) {
	v, present := k.field.of(element)
	switch {
	case !present:
		return reflect.ValueOf(k.standard), k.standard != nil
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return v.Elem(), true
	}
	return v, true
}

// byKey finds elements by their keys; nil if one is there twice or has none.
func (s *shape) byKey(l reflect.Value) map[string]int {
	found := make(map[string]int, l.Len())
	for i := range l.Len() {
		found[s.key(l.Index(i))] = i
	}
	if len(found) != l.Len() || s.kind == keyedList && !s.hasKey(l) {
		return nil
	}
	return found
}

// key tells an element of a list from the others.
func (s *shape) key(element reflect.Value) string {
	var b []byte
	if s.kind == setList {
		return string(appendScalar(b, element))
	}
	for _, k := range s.keys {
		if v, ok := k.of(element); ok {
			b = appendScalar(append(b, '='), v)
		}
		b = append(b, 0)
	}
	return string(b)
}

func appendScalar(b []byte, v reflect.Value) []byte {
	switch u := plainScalar(v).(type) {
	case string:
		return strconv.AppendQuote(b, u)
	case int64:
		return strconv.AppendInt(b, u, 10)
	case float64:
		return strconv.AppendFloat(b, u, 'g', -1, 64)
	case bool:
		return strconv.AppendBool(b, u)
	}
	return append(b, "null"...)
}

// pathElement is what the fields of an element are below.
func (s *shape) pathElement(element reflect.Value) fieldpath.PathElement {
	if s.kind == setList {
		return fieldpath.ValueElement(value.NewValueInterface(plainScalar(element)))
	}
	fields := make(value.FieldList, 0, len(s.keys))
	for _, k := range s.keys {
		if v, ok := k.of(element); ok {
			fields = append(fields, value.Field{Name: *k.field.name.FieldName, Value: value.NewValueInterface(plainScalar(v))})
		}
	}
	return fieldpath.PathElement{Key: &fields}
}
