package encryption

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// What encryption costs an update of an object of 2 KiB.
func BenchmarkUpdate(b *testing.B) {
	forEachProvider(b, func(b *testing.B, row *resource.Resource, s *store.Store) {
		var n atomic.Int64
		b.SetParallelism(16)
		b.RunParallel(func(next *testing.PB) {
			name := fmt.Sprint("x", n.Add(1))
			if _, err := s.Create(context.Background(), row, benchMap(name), false); err != nil {
				b.Error(err)
			}
			for i := 0; next.Next(); i++ {
				_, err := s.Update(context.Background(), row, "a", name, false, func(current *store.Item) (resource.Object, error) {
					m := current.Object().DeepCopyObject().(*corev1.ConfigMap)
					m.Data["n"] = fmt.Sprint(i)
					return m, nil
				})
				if err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// What it costs the start for each object.
func BenchmarkDecrypt(b *testing.B) {
	e, _ := openAll(b)
	value := []byte(strings.Repeat("0123456789abcdef", 128))
	for name, plural := range benchKinds {
		r := schema.GroupResource{Resource: plural}
		stored, err := e.Encrypt(b.Context(), r, "/k", value)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := e.Decrypt(b.Context(), r, "/k", stored); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchKinds are resources of testdata/all.yaml by their providers.
var benchKinds = map[string]string{"none": "events", "aesgcm": "secrets", "aescbc": "configmaps", "secretbox": "serviceaccounts", "kms": "endpoints"}

func row(plural string) *resource.Resource {
	return resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{Version: "v1", Kind: "ConfigMap", Plural: plural})
}

func benchMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Data: map[string]string{"data": strings.Repeat("0123456789abcdef", 128)}}
}

func forEachProvider(b *testing.B, run func(*testing.B, *resource.Resource, *store.Store)) {
	e, _ := openAll(b)
	for _, name := range []string{"off", "none", "aesgcm", "aescbc", "secretbox", "kms"} {
		b.Run(name, func(b *testing.B) {
			r := row(cmp.Or(benchKinds[name], "configmaps"))
			c := store.Config{Backend: memory.New(), Encryption: e}
			if name == "off" {
				c.Encryption = nil
			}
			c.Resources = []*resource.Resource{r}
			defer c.Backend.Close()
			s, err := store.Open(b.Context(), c)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.ReportAllocs()
			run(b, r, s)
		})
	}
}
