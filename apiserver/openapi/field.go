package openapi

import (
	"iter"
	"reflect"
	"strings"
)

// field is a field of a struct as JSON has it.
type field struct {
	reflect.StructField
	name      string
	inline    bool
	omitEmpty bool
}

func (f field) pointer() bool {
	return f.Type.Kind() == reflect.Pointer
}

// fieldsOf are the fields of t that JSON has, in the order of the type.
func fieldsOf(t reflect.Type) iter.Seq[field] {
	return func(yield func(field) bool) {
		for i := range t.NumField() {
			sf := t.Field(i)
			name, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
			if name == "-" || !sf.IsExported() {
				continue
			}
			f := field{StructField: sf, name: name}
			f.inline = name == "" && sf.Anonymous || strings.Contains(options, "inline")
			f.omitEmpty = strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
			if f.name == "" {
				f.name = sf.Name
			}
			if f.inline && f.Type.Kind() == reflect.Pointer {
				f.Type = f.Type.Elem()
			}
			if !yield(f) {
				return
			}
		}
	}
}
