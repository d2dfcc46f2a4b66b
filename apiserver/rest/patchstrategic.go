package rest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"

	"github.com/skiff-k8s/skiff/apiserver/heavy"
)

// applyStrategic merges by the merge keys in the tags of the Go type. What the patch does not name is copied as it is:
// most patches are of the status, and most of an object is its spec.
func (p *patch) applyStrategic(ctx context.Context, run heavy.Runner, live, into runtime.Object) error {
	changes := map[string]any{}
	var strict []error
	var err error
	if p.lax() {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.body, &changes)
	} else {
		strict, err = kjson.UnmarshalStrict(p.body, &changes)
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	named, rest := divide(live, changes)
	return p.merge(ctx, run, named, rest, changes, strict, into)
}

// merge reads into what changes make of named, and puts rest beside it, which is nil if there is none. strict is what the
// body has that no patch has.
func (p *patch) merge(ctx context.Context, run heavy.Runner, named, rest runtime.Object, changes map[string]any, strict []error, into runtime.Object) error {
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(named)
	if err != nil {
		return err
	}
	if rest != nil {
		for name := range before {
			if _, is := changes[name]; !is {
				delete(before, name)
			}
		}
	}
	var after strategicpatch.JSONMap
	err = run.Do(ctx, strategicCost(before, changes), func() (err error) {
		after, err = strategicpatch.StrategicMergeMapPatch(before, changes, into)
		return strategicError(err)
	})
	if err != nil {
		return err
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, into, !p.lax())
	if unknown, ok := runtime.AsStrictDecodingError(err); ok {
		strict, err = append(strict, unknown.Errors()...), nil
	}
	if err != nil {
		return invalidPatch(fmt.Sprintf("%+v", changes), err)
	}
	if rest != nil {
		unite(into, rest, changes)
	}
	if len(strict) == 0 {
		return nil
	}
	return p.strictErrors(ctx, fmt.Sprintf("%+v", changes), strict)
}

// divide returns of live, a pointer to a struct, what changes name and a copy of what they do not, each as an object with
// the other's fields empty. rest is nil, and named all of live, where a patch may be about more than the fields it names,
// and where some of what it does not name would not come out of a patch as it was: JSON of other programs (RawExtension),
// whose keys are put in order.
func divide(live runtime.Object, changes map[string]any) (named, rest runtime.Object) {
	t := reflect.TypeOf(live)
	if t.Kind() != reflect.Pointer || holdsRaw(t.Elem()) {
		return live, nil
	}
	for name := range changes {
		if name == "" || strings.HasPrefix(name, "$") || name == "kind" || name == "apiVersion" {
			return live, nil
		}
	}
	from := reflect.ValueOf(live).Elem()
	some, others := reflect.New(t.Elem()), reflect.New(t.Elem())
	for i := range from.NumField() {
		into := others
		if _, is := changes[jsonName(t.Elem().Field(i))]; is {
			into = some
		}
		into.Elem().Field(i).Set(from.Field(i))
	}
	return some.Interface().(runtime.Object), others.Interface().(runtime.Object).DeepCopyObject()
}

// unite puts the fields that changes do not name from rest into an object.
func unite(into, rest runtime.Object, changes map[string]any) {
	to, from := reflect.ValueOf(into).Elem(), reflect.ValueOf(rest).Elem()
	for i := range to.NumField() {
		if _, is := changes[jsonName(to.Type().Field(i))]; !is {
			to.Field(i).Set(from.Field(i))
		}
	}
}

// jsonName is what a field of an object is called; the kind and the version, which are embedded, have no name together.
func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// rawKinds remembers which types hold JSON as it was sent.
var rawKinds sync.Map // reflect.Type → bool

// holdsRaw reports whether values of a type may hold such JSON. The managed fields do, which are made anew anyway.
func holdsRaw(t reflect.Type) bool {
	if holds, ok := rawKinds.Load(t); ok {
		return holds.(bool)
	}
	holds := findRaw(t, make(map[reflect.Type]bool))
	rawKinds.Store(t, holds)
	return holds
}

var rawTypes = []reflect.Type{reflect.TypeFor[runtime.RawExtension](), reflect.TypeFor[apiextensionsv1.JSON]()}

func findRaw(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] || t == reflect.TypeFor[metav1.FieldsV1]() || t == reflect.TypeFor[metav1.Time]() {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return findRaw(t.Elem(), seen)
	case reflect.Struct:
		if slices.Contains(rawTypes, t) {
			return true
		}
		for i := range t.NumField() {
			if findRaw(t.Field(i).Type, seen) {
				return true
			}
		}
	}
	return t.Kind() == reflect.Interface
}

// strategicError tells a malformed patch from one that does not fit the object.
func strategicError(err error) error {
	switch {
	case slices.Contains([]error{mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
		mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat}, err):
		return apierrors.NewBadRequest(err.Error())
	case slices.Contains([]error{mergepatch.ErrNoListOfLists, mergepatch.ErrPatchContentNotMatchRetainKeys}, err):
		return unprocessable(err)
	}
	return err
}
