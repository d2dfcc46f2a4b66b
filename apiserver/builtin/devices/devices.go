// Package devices holds the kinds of resource.k8s.io: which devices there are
// (ResourceSlice), what they are called by (DeviceClass), and who needs and has
// which of them (ResourceClaim, ResourceClaimTemplate).
//
// Of the features of the group those are there that are on by default in
// Kubernetes 1.36. Fields of the others (attributes with lists of values,
// mappings to resources of the node) are dropped.
package devices

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

const group = "resource.k8s.io"

// Resources are the rows of the group in the order of discovery. The authorizer
// says who may change which part of the status of a claim; nil: whoever may
// change the status.
func Resources(z authorizer.Authorizer) []*resource.Resource {
	return []*resource.Resource{deviceClasses(), resourceClaims(z), resourceClaimTemplates(), resourceSlices()}
}

// each checks the items of a list that has no more than most of them. Of a
// longer one nothing else is said: it may be as long as it likes.
func each[T any](list []T, most int, at *field.Path, check func(item *T, at *field.Path) field.ErrorList) field.ErrorList {
	if len(list) > most {
		return field.ErrorList{field.TooMany(at, len(list), most)}
	}
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, check(&list[i], at.Index(i))...)
	}
	return errs
}

// eachOnce is each for a list in which no key may come twice.
func eachOnce[T any, K comparable](list []T, most int, at *field.Path, key func(item *T) K, check func(item *T, at *field.Path) field.ErrorList) field.ErrorList {
	errs := each(list, most, at, check)
	if len(list) > most {
		return errs
	}
	seen := make(map[K]bool, len(list))
	for i := range list {
		k := key(&list[i])
		if seen[k] {
			errs = append(errs, field.Duplicate(at.Index(i), k))
		}
		seen[k] = true
	}
	return errs
}

// eachEntry checks the keys and the values of a map, in the order of the keys.
// Keys longer than longest are cut in the middle where they are part of a path.
func eachEntry[K ~string, V any](m map[K]V, most, longest int, at *field.Path, checkKey func(key K, at *field.Path) field.ErrorList, check func(value V, at *field.Path) field.ErrorList) field.ErrorList {
	if len(m) > most {
		return field.ErrorList{field.TooMany(at, len(m), most)}
	}
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(m)) {
		errs = append(errs, checkKey(key, at)...)
		errs = append(errs, check(m[key], at.Key(shorten(string(key), longest)))...)
	}
	return errs
}

func shorten(key string, longest int) string {
	const dots = "..."
	if len(key) <= longest {
		return key
	}
	keep := longest - len(dots)
	return key[:(keep+1)/2] + dots + key[len(key)-keep/2:]
}

// choice collects which of the fields were set of which exactly one may be.
type choice []string

func (c *choice) add(name string) { *c = append(*c, "`"+name+"`") }

// value is how messages show the fields that were set.
func (c choice) value() string {
	text := ""
	for i, name := range c {
		if i > 0 {
			text += ", "
		}
		text += name
	}
	return fmt.Sprintf("{%s}", text)
}
