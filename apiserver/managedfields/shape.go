package managedfields

import (
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// shape says what of the values of a Go type is a field: what the schema of the kind says, worked out once for the type,
// so that two objects can be compared without a tree of values of each.
type shape struct {
	kind    shapeKind
	fields  []fieldShape // of a structure, by name
	element *shape       // of a mapping or a list
	keys    []keyShape   // of a keyed list, by name
}

type shapeKind uint8

const (
	// foreign values have no shape: what has one is left to the library.
	foreign shapeKind = iota
	// scalar values are compared as what they are: strings, bytes, numbers, booleans.
	scalar
	// opaque values are one field each, and compared as their JSON would be.
	opaque
	// either values are numbers or strings: opaque, if they are one of both.
	either
	// instant values are microTimes: opaque, but compared without making JSON of them, since each lease is renewed by one.
	instant
	// hidden values are one field each, which are not looked into: the managed fields themselves.
	hidden
	structure
	mapping
	keyedList // the elements are structures, told apart by some of their fields
	setList   // the elements are scalars
)

// leaf reports whether a value is one field, whatever is in it.
func (s *shape) leaf() bool { return s.kind >= scalar && s.kind <= hidden }

type fieldShape struct {
	name  fieldpath.PathElement
	json  []byte // the name in a set of fields
	entry *value.FieldCacheEntry
	shape *shape
	// What the entry says of most fields, so that it need not be asked for each of each object.
	index     int  // of the field in the Go type; -1: it is in a part of it, or left out by rules of its own
	omitEmpty bool // JSON leaves it out where it is empty
}

// of is the field of a structure; present is false if JSON leaves it out.
func (f *fieldShape) of(v reflect.Value) (field reflect.Value, present bool) {
	if f.index < 0 {
		field = f.entry.GetFrom(v)
		return field, !f.entry.CanOmit(field)
	}
	field = v.Field(f.index)
	return field, !f.omitEmpty || !isEmpty(field)
}

// isEmpty reports whether a value is empty for omitempty, as encoding/json has it.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return v.IsNil()
	case reflect.String, reflect.Slice, reflect.Map, reflect.Array:
		return v.Len() == 0
	case reflect.Bool:
		return !v.Bool()
	}
	switch {
	case v.CanInt():
		return v.Int() == 0
	case v.CanUint():
		return v.Uint() == 0
	case v.CanFloat():
		return v.Float() == 0
	}
	return false // a structure is never left out
}

type keyShape struct {
	field    *fieldShape
	standard any // what it is where it is left out; nil: it is then no part of the key
}

// shapes makes the shapes of one schema.
type shapes struct {
	schema *schema.Schema
	known  map[shapeKey]*shape
}

type shapeKey struct {
	goType       reflect.Type
	name         string
	relationship schema.ElementRelationship
}

// shapeOf is the shape of objects of a Go type, a struct, that the schema has under ref.
func shapeOf(s *schema.Schema, ref schema.TypeRef, t reflect.Type) *shape {
	return (&shapes{schema: s, known: make(map[shapeKey]*shape)}).of(ref, t)
}

// of is a shape of kind foreign for what this package does not know how to compare.
func (m *shapes) of(ref schema.TypeRef, t reflect.Type) *shape {
	if ref.NamedType == nil {
		return m.make(&shape{}, ref, t)
	}
	key := shapeKey{goType: t, name: *ref.NamedType}
	if ref.ElementRelationship != nil {
		key.relationship = *ref.ElementRelationship
	}
	if s := m.known[key]; s != nil {
		return s
	}
	s := &shape{}
	m.known[key] = s // types may have fields of their own type
	return m.make(s, ref, t)
}

var managedFieldsType = reflect.TypeFor[[]metav1.ManagedFieldsEntry]()

func (m *shapes) make(s *shape, ref schema.TypeRef, t reflect.Type) *shape {
	atom, ok := m.schema.Resolve(ref)
	if !ok || ref == (schema.TypeRef{}) {
		return s
	}
	base := t
	if t.Kind() == reflect.Pointer {
		base = t.Elem()
	}
	whole := (atom.List == nil || atom.List.ElementRelationship == schema.Atomic) && (atom.Map == nil || atom.Map.ElementRelationship == schema.Atomic)
	switch {
	case t == managedFieldsType && whole:
		s.kind = hidden
	case converts(t) || converts(base):
		switch {
		case !whole || atom.Scalar == nil:
		case base == intOrString:
			s.kind = either
		case base == microTime:
			s.kind = instant
		case plain(base, nil):
			s.kind = opaque
		}
	case isScalar(base):
		if whole && holds(atom.Scalar, base) {
			s.kind = scalar
		}
	case whole:
		if plain(base, nil) && (base.Kind() == reflect.Slice && atom.List != nil || base.Kind() != reflect.Slice && atom.Map != nil) {
			s.kind = opaque
		}
	case atom.Scalar != nil || atom.Map != nil && atom.List != nil: // it depends on the value which of them it is
	case base.Kind() == reflect.Struct && atom.Map != nil:
		m.makeStructure(s, atom.Map, base)
	case base.Kind() == reflect.Map && atom.Map != nil:
		if base.Key().Kind() == reflect.String && len(atom.Map.Fields) == 0 {
			s.element = m.of(atom.Map.ElementType, base.Elem())
			s.kind = mapping
		}
	case base.Kind() == reflect.Slice && atom.List != nil && atom.List.ElementRelationship == schema.Associative:
		m.makeList(s, atom.List, base)
	}
	return s
}

func (m *shapes) makeStructure(s *shape, of *schema.Map, t reflect.Type) {
	s.kind = structure
	for _, entry := range value.TypeReflectEntryOf(t).OrderedFields() {
		ref := of.ElementType
		if known, ok := of.FindField(entry.JsonName); ok {
			ref = known.Type
		}
		field := entry.GetFrom(reflect.Zero(t))
		f := fieldShape{name: fieldpath.FieldNameElement(entry.JsonName), json: []byte(`"f:` + entry.JsonName + `"`), entry: entry, shape: m.of(ref, field.Type())}
		f.index, f.omitEmpty = placeOf(entry.JsonName, t)
		s.fields = append(s.fields, f)
	}
}

// placeOf finds the field that has a name in JSON; -1 if more has to be known than where it is and whether it is empty.
func placeOf(name string, t reflect.Type) (index int, omitEmpty bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		called, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if called == name && !f.Anonymous && !strings.Contains(options, "omitzero") {
			return i, slices.Contains(strings.Split(options, ","), "omitempty")
		}
	}
	return -1, false
}

func (m *shapes) makeList(s *shape, of *schema.List, t reflect.Type) {
	element := m.of(of.ElementType, t.Elem())
	if len(of.Keys) == 0 {
		if element.kind == scalar && t.Elem().Kind() != reflect.Pointer && t.Elem().Kind() != reflect.Slice {
			s.kind, s.element = setList, element
		}
		return
	}
	if element.kind != structure || t.Elem().Kind() != reflect.Struct {
		return
	}
	atom, _ := m.schema.Resolve(of.ElementType)
	for _, name := range slices.Sorted(slices.Values(of.Keys)) {
		i := slices.IndexFunc(element.fields, func(f fieldShape) bool { return *f.name.FieldName == name })
		if i < 0 || element.fields[i].shape.kind != scalar {
			return
		}
		known, _ := atom.Map.FindField(name)
		s.keys = append(s.keys, keyShape{&element.fields[i], known.Default})
	}
	s.kind, s.element = keyedList, element
}

// converts reports whether values of a type say themselves what they are in JSON.
func converts(t reflect.Type) bool { return value.TypeReflectEntryOf(t).CanConvertToUnstructured() }

// Types that make JSON themselves. Of others (RawExtension) not all values can, so that the library looks into them.
var intOrString, duration, microTime = reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[metav1.Duration](), reflect.TypeFor[metav1.MicroTime]()

var converter = reflect.TypeFor[value.UnstructuredConverter]()

// plain reports whether all values of a type have a form in JSON.
func plain(t reflect.Type, above []reflect.Type) bool {
	if slices.Contains(above, t) {
		return true
	}
	switch {
	case t == duration, t == microTime:
		return true
	case converts(t):
		return t.Implements(converter) || reflect.PointerTo(t).Implements(converter)
	case isScalar(t):
		return true
	}
	above = append(above, t)
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return plain(t.Elem(), above)
	case reflect.Map:
		return t.Key().Kind() == reflect.String && plain(t.Elem(), above)
	case reflect.Struct:
		for i := range t.NumField() {
			if !plain(t.Field(i).Type, above) {
				return false
			}
		}
		return true
	}
	return false
}

func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Float32, reflect.Float64:
		return true
	}
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// holds reports whether a scalar of the schema is what values of a Go type are.
func holds(s *schema.Scalar, t reflect.Type) bool {
	if s == nil {
		return false
	}
	switch *s {
	case schema.Untyped:
		return true
	case schema.String:
		return t.Kind() == reflect.String || t.Kind() == reflect.Slice
	case schema.Boolean:
		return t.Kind() == reflect.Bool
	case schema.Numeric:
		return t.Kind() >= reflect.Int && t.Kind() <= reflect.Float64
	}
	return false
}
