package podspec_test

import (
	"context"
	"math/rand/v2"
	"reflect"
	"testing"

	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// TestRandomObjects feeds every row objects that are nonsense in all ways a
// decoder lets through: nothing may panic, and what is filled in once stays as
// it is when it is filled in again.
func TestRandomObjects(t *testing.T) {
	const rounds = 300
	for _, kind := range []string{"Pod", "PodTemplate", "ReplicationController", "Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "ControllerRevision", "Job", "CronJob"} {
		r := rows()[kind]
		t.Run(kind, func(t *testing.T) {
			for seed := range uint64(rounds) {
				random := rand.New(rand.NewPCG(seed, 1))
				obj, old := randomObject(r, random), randomObject(r, random)
				again := obj.DeepCopyObject().(resource.Object)
				r.Default(again)
				if !reflect.DeepEqual(obj, again) {
					t.Fatalf("seed %d: defaults change when they are applied again", seed)
				}
				exercise(r, obj, old)
			}
		})
	}
}

func randomObject(r *resource.Resource, random *rand.Rand) resource.Object {
	obj := r.New()
	fill(reflect.ValueOf(obj).Elem(), random, 0)
	r.Default(obj)
	return obj
}

// exercise calls everything a row has with a new and an old object.
func exercise(r *resource.Resource, obj, old resource.Object) {
	created := obj.DeepCopyObject().(resource.Object)
	r.Prepare(created, nil)
	r.Validate(context.Background(), created, nil)
	r.Warn(created, nil)
	updated := obj.DeepCopyObject().(resource.Object)
	r.Prepare(updated, old)
	r.Generation(updated, old)
	r.Validate(context.Background(), updated, old)
	r.Warn(updated, old)
	r.Grace(obj, &metav1.DeleteOptions{})
	for _, value := range r.Fields {
		value(obj)
	}
	for _, c := range r.Columns {
		c.Value(obj)
	}
	for _, s := range r.Subresources {
		if s.View {
			viewed := obj.DeepCopyObject().(resource.Object)
			s.Prepare(viewed, old)
			s.Validate(context.Background(), viewed, old)
			s.Warn(viewed, old)
		}
		if s.Scale != nil {
			s.Scale.Selector(obj)
			s.Scale.Replicas(obj)
		}
	}
}

// words are texts that mean something somewhere.
var words = []string{"", "a", "b", "A_", "1", "x/y", "..", "metadata.name", "Always", "Never", "RollingUpdate", "OnDelete", "Recreate",
	"Indexed", "Localhost", "In", "Exists", "50%", "kubernetes.io/config.mirror", "* * * * *", "cpu", "memory", "hugepages-2Mi", "1.2.3.4"}

// fill gives v a random value, deeper ones less likely.
func fill(v reflect.Value, random *rand.Rand, depth int) {
	if !v.CanSet() || depth > 12 {
		return
	}
	switch v.Type() {
	case reflect.TypeFor[apiresource.Quantity]():
		v.Set(reflect.ValueOf(*apiresource.NewMilliQuantity(random.Int64N(4000)-1000, apiresource.DecimalSI)))
		return
	case reflect.TypeFor[metav1.Time]():
		v.Set(reflect.ValueOf(metav1.Unix(random.Int64N(1<<31), 0)))
		return
	case reflect.TypeFor[metav1.TypeMeta](), reflect.TypeFor[metav1.FieldsV1]():
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if random.IntN(3) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), random, depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), random, depth+1)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), random.IntN(3), 3))
		for i := range v.Len() {
			fill(v.Index(i), random, depth+1)
		}
	case reflect.Map:
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
		v.SetInt(int64(random.IntN(7) - 2))
	}
}
