package podspec

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// Untagged makes a value print in messages the way the API prints it: its own
// types have no JSON names, so their fields appear as they are called in Go,
// empty ones included. Types that carry their names everywhere (selectors,
// quantities, times) print as usual.
func Untagged(value any) json.Marshaler { return untagged{reflect.ValueOf(value)} }

type untagged struct{ value reflect.Value }

// MarshalJSON implements json.Marshaler.
func (u untagged) MarshalJSON() ([]byte, error) {
	v := u.value
	if !v.IsValid() {
		return []byte("null"), nil
	}
	if _, ok := v.Interface().(json.Marshaler); ok || sharedType(v.Type()) {
		return json.Marshal(v.Interface())
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return []byte("null"), nil
		}
		return untagged{v.Elem()}.MarshalJSON()
	case reflect.Slice:
		if v.IsNil() || v.Type().Elem().Kind() == reflect.Uint8 {
			return json.Marshal(v.Interface())
		}
		list := make([]untagged, v.Len())
		for i := range list {
			list[i] = untagged{v.Index(i)}
		}
		return json.Marshal(list)
	case reflect.Struct:
		return u.fields()
	}
	return json.Marshal(v.Interface())
}

func (u untagged) fields() ([]byte, error) {
	var buf bytes.Buffer
	buf.WriteByte('{')
	t := u.value.Type()
	for i := range t.NumField() {
		if buf.Len() > 1 {
			buf.WriteByte(',')
		}
		value, err := untagged{u.value.Field(i)}.MarshalJSON()
		if err != nil {
			return nil, err
		}
		if t.Field(i).Anonymous { // its fields appear as this struct's own
			buf.Write(value[1 : len(value)-1])
			continue
		}
		name, err := json.Marshal(t.Field(i).Name)
		if err != nil {
			return nil, err
		}
		buf.Write(name)
		buf.WriteByte(':')
		buf.Write(value)
	}
	buf.WriteByte('}')
	return buf.Bytes(), nil
}

// sharedType reports whether a type has JSON names in the server too: those of
// apimachinery.
func sharedType(t reflect.Type) bool {
	switch t.PkgPath() {
	case "k8s.io/apimachinery/pkg/apis/meta/v1", "k8s.io/apimachinery/pkg/api/resource", "k8s.io/apimachinery/pkg/util/intstr":
		return true
	}
	return false
}
