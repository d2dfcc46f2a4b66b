package store

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// TestMessageOfEveryKind: a resourceVersion that is put into what is stored gives the bytes that the object with it is encoded
// as. Names are so long that lengths take more bytes with it than without.
func TestMessageOfEveryKind(t *testing.T) {
	kinds := 0
	for gvk := range scheme.Scheme.AllKnownTypes() {
		for _, size := range []int{0, 1, 98, 100, 103, 104, 105, 106, 110, 16000} {
			made, err := scheme.Scheme.New(gvk)
			if err != nil {
				t.Fatal(err)
			}
			obj, ok := made.(resource.Object)
			message, encodes := made.(interface{ Marshal() ([]byte, error) })
			if !ok || !encodes {
				break // a list, or options
			}
			kinds++
			obj.SetName(strings.Repeat("x", size))
			obj.SetLabels(map[string]string{"a": "b"})
			obj.SetOwnerReferences([]metav1.OwnerReference{{Name: "y"}})
			value, err := encode(&resource.Resource{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}, obj)
			if err != nil {
				t.Fatal(err)
			}
			obj.SetResourceVersion("1234567")
			want, err := message.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			head, rest, _ := (&kept{bytes: value, revision: 1234567}).message(nil)
			if got := slices.Concat(head, rest); !bytes.Equal(got, want) {
				t.Errorf("%v, a name of %d bytes: %q, want %q", gvk, size, got, want)
			}
		}
	}
	if kinds < 100 {
		t.Errorf("only %d kinds were looked at", kinds)
	}
}

// TestWrittenWithoutObject: what was written here is answered without its object, and so is that it is gone; what is read from the
// storage, which another version of the program may have stored, is compared first. A kind of which something is filled in when it
// is read is decoded.
func TestWrittenWithoutObject(t *testing.T) {
	reads := resource.Define[corev1.SecretList](resource.Definition[corev1.Secret]{
		Version: "v1", Kind: "Secret", Plural: "secrets", Read: func(s *corev1.Secret) { s.Type = "read" }})
	b := memory.New()
	defer b.Close()
	start := func() *Store {
		s, err := Open(t.Context(), Config{Backend: b, Resources: []*resource.Resource{configMaps, reads}, Changed: func(d string) { t.Error(d) }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	answered := func(what string, item *Item, err error, compared bool) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		want, err := marshal(item.Object())
		if err != nil {
			t.Fatal(err)
		}
		asked := false
		head, rest, ok := item.Message(nil, func(obj resource.Object) ([]byte, error) { asked = true; return marshal(obj) })
		if got := slices.Concat(head, rest); !ok || !bytes.Equal(got, want) || asked != compared {
			t.Errorf("%s: %v, %q, want %q; compared: %v", what, ok, got, want, asked)
		}
	}
	s := start()
	meta := metav1.ObjectMeta{Namespace: "a", Name: "x"}
	item, err := s.Create(t.Context(), configMaps, &corev1.ConfigMap{ObjectMeta: meta}, false)
	answered("written", item, err, false)
	gone, err := s.Delete(t.Context(), configMaps, item, false)
	answered("deleted", gone, err, false)
	secret, err := s.Create(t.Context(), reads, &corev1.Secret{ObjectMeta: meta}, false)
	if err != nil || secret.Object().(*corev1.Secret).Type != "read" || secret.like.known.Load() == alike {
		t.Errorf("what is filled in when it is read is missing: %v, %v", secret.Object(), err)
	}
	if _, err := s.Create(t.Context(), configMaps, &corev1.ConfigMap{ObjectMeta: meta}, false); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = start()
	defer s.Close()
	item, err = s.Get(t.Context(), configMaps, "a", "x")
	answered("read after a restart", item, err, true)
}

// TestDetectorOfWritten: a kind of which is read what was not written is found out.
func TestDetectorOfWritten(t *testing.T) {
	times := 0
	counts := resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{
		Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Default: func(c *corev1.ConfigMap) { times++; c.Data = map[string]string{"times": fmt.Sprint(times)} },
		Fields: map[string]func(*corev1.ConfigMap) string{"data.times": func(c *corev1.ConfigMap) string { return c.Data["times"] }}})
	var found []string
	b := memory.New()
	defer b.Close()
	s, err := Open(t.Context(), Config{Backend: b, Resources: []*resource.Resource{counts}, Changed: func(d string) { found = append(found, d) }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(t.Context(), counts, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}}, false)
	s.Close()
	if err != nil || len(found) != 2 || !strings.Contains(found[0], "is written as") || !strings.Contains(found[1], "fields") {
		t.Errorf("found %q, %v", found, err)
	}
}
