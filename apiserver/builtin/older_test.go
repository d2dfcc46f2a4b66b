package builtin_test

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes/scheme"

	"github.com/skiff-k8s/skiff/apiserver/builtin"
)

// What is stored in an older version of a kind is read into the newer one by the names of its fields, so the newer one
// must have them all.
func TestOlderVersionsHaveTheSameFields(t *testing.T) {
	for _, r := range builtin.Resources(builtin.Deps{}) {
		for _, version := range r.Older {
			older, err := scheme.Scheme.New(r.GVK().GroupKind().WithVersion(version))
			if err != nil {
				t.Errorf("%s of %s: %v", version, r.GR(), err)
				continue
			}
			contains(t, version+" "+r.Kind, reflect.TypeOf(older), reflect.TypeOf(r.New()), make(map[reflect.Type]bool))
		}
	}
}

// contains checks that JSON of an older type can be read as the newer one.
func contains(t *testing.T, path string, older, newer reflect.Type, seen map[reflect.Type]bool) {
	t.Helper()
	if older == newer || seen[older] {
		return
	}
	seen[older] = true
	if newer.Kind() == reflect.Pointer && older.Kind() != reflect.Pointer {
		newer = newer.Elem() // what was always there may now be left out
	}
	if older.Kind() != newer.Kind() {
		t.Errorf("%s: %s became %s", path, older, newer)
		return
	}
	switch older.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		contains(t, path, older.Elem(), newer.Elem(), seen)
	case reflect.Map:
		contains(t, path, older.Key(), newer.Key(), seen)
		contains(t, path, older.Elem(), newer.Elem(), seen)
	case reflect.Struct:
		fields := make(map[string]reflect.StructField)
		for f := range newer.Fields() {
			fields[nameOf(f)] = f
		}
		for f := range older.Fields() {
			is, ok := fields[nameOf(f)]
			if !ok {
				t.Errorf("%s.%s: %s has no such field", path, nameOf(f), newer)
				continue
			}
			contains(t, path+"."+nameOf(f), f.Type, is.Type, seen)
		}
	}
}

func nameOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" {
		return f.Name
	}
	return name
}
