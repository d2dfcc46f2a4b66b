package envtest

import (
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
)

// convertible reports whether the versions of a kind can be converted into each other: one is the hub, all others convert to
// it and from it. The types have the methods that controller-runtime's package conversion wants; which of its own that
// package takes is not known here, since it is not imported.
func convertible(s *runtime.Scheme, group, kind string) bool {
	hubs := 0
	for gvk, version := range s.AllKnownTypes() {
		if gvk.Group != group || gvk.Kind != kind || gvk.Version == runtime.APIVersionInternal {
			continue
		}
		pointer := reflect.PointerTo(version)
		switch {
		case has(pointer, "Hub", 0, 0):
			hubs++
		case has(pointer, "ConvertTo", 1, 1) && has(pointer, "ConvertFrom", 1, 1):
		default:
			return false
		}
	}
	return hubs == 1
}

// has reports whether a type has a method that takes and returns so many values.
func has(t reflect.Type, name string, takes, returns int) bool {
	method, ok := t.MethodByName(name)
	return ok && method.Type.NumIn() == takes+1 && method.Type.NumOut() == returns // the receiver is one of them
}
