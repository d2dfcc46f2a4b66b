// Package resourcetest makes random objects of any Go type of the API.
package resourcetest

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Fill gives the fields of obj, a pointer to a struct, random values from a few, so that elements of lists meet. Its kind
// and managed fields stay.
func Fill(obj any, random *rand.Rand) { fill(reflect.ValueOf(obj).Elem(), random, 0) }

// Change fills a few of the fields anew, takes some away, and puts elements of lists in another order.
func Change(obj any, random *rand.Rand) { change(reflect.ValueOf(obj).Elem(), random, 0) }

// words are names and values.
var words = []string{"a", "b", "c", "", "x/y", `q"u`, "1", "TCP"}

// fill gives v a random value, deeper ones less likely.
func fill(v reflect.Value, random *rand.Rand, depth int) {
	if !v.CanSet() || depth > 12 {
		return
	}
	switch v.Type() {
	case reflect.TypeFor[apiresource.Quantity]():
		v.Set(reflect.ValueOf(*apiresource.NewMilliQuantity(random.Int64N(4)*500, apiresource.DecimalSI)))
		return
	case reflect.TypeFor[metav1.Time]():
		v.Set(reflect.ValueOf(metav1.Unix(random.Int64N(3), 0)))
		return
	case reflect.TypeFor[metav1.MicroTime]():
		v.Set(reflect.ValueOf(metav1.NewMicroTime(time.UnixMicro(random.Int64N(3)))))
		return
	case reflect.TypeFor[intstr.IntOrString]():
		v.Set(reflect.ValueOf([]intstr.IntOrString{intstr.FromInt32(1), intstr.FromString("a"), {}}[random.IntN(3)]))
		return
	case reflect.TypeFor[runtime.RawExtension]():
		v.Set(reflect.ValueOf(runtime.RawExtension{Raw: fmt.Appendf(nil, `{"a":%d}`, random.IntN(2))}))
		return
	case reflect.TypeFor[apiextensionsv1.JSON]():
		v.Set(reflect.ValueOf(apiextensionsv1.JSON{Raw: fmt.Appendf(nil, `%d`, random.IntN(2))}))
		return
	case reflect.TypeFor[metav1.TypeMeta](), reflect.TypeFor[[]metav1.ManagedFieldsEntry]():
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.SetZero()
		if random.IntN(3) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), random, depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), random, depth+1)
		}
	case reflect.Slice:
		fillSlice(v, random, depth)
	case reflect.Map:
		v.SetZero()
		if random.IntN(3) == 0 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range random.IntN(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, random, depth+1)
			fill(value, random, depth+1)
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString(words[random.IntN(len(words))])
	case reflect.Bool:
		v.SetBool(random.IntN(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(random.IntN(4)))
	}
}

func fillSlice(v reflect.Value, random *rand.Rand, depth int) {
	v.SetZero()
	if v.Type().Elem().Kind() == reflect.Uint8 {
		if random.IntN(2) == 0 && depth > 0 && v.Type() == reflect.TypeFor[[]byte]() {
			v.SetBytes([]byte(words[random.IntN(len(words))]))
		}
		return
	}
	if random.IntN(3) == 0 {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), random.IntN(3), 3))
	for i := range v.Len() {
		fill(v.Index(i), random, depth+1)
	}
}

// change fills a few parts of v anew, and puts elements of lists in another order.
func change(v reflect.Value, random *rand.Rand, depth int) {
	if !v.CanSet() || depth > 12 || v.Type() == reflect.TypeFor[metav1.TypeMeta]() || v.Type() == reflect.TypeFor[[]metav1.ManagedFieldsEntry]() {
		return
	}
	if random.IntN(12) == 0 && depth > 1 {
		fill(v, random, depth)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			change(v.Elem(), random, depth+1)
		}
	case reflect.Struct:
		if v.Type().PkgPath() == "k8s.io/apimachinery/pkg/api/resource" || slices.Contains([]reflect.Type{
			reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime](), reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[runtime.RawExtension](), reflect.TypeFor[apiextensionsv1.JSON]()}, v.Type()) {
			return
		}
		for i := range v.NumField() {
			change(v.Field(i), random, depth+1)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range v.Len() {
			change(v.Index(i), random, depth+1)
		}
		random.Shuffle(v.Len(), reflect.Swapper(v.Interface()))
	case reflect.Map:
		for _, key := range v.MapKeys() {
			if random.IntN(6) == 0 {
				v.SetMapIndex(key, reflect.Value{})
			}
		}
	}
}
