package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func marshal(obj resource.Object) ([]byte, error) { return obj.(*corev1.ConfigMap).Marshal() }

// messageItem is an item of the cache with so many bytes stored.
func messageItem(row *resource.Resource, obj *corev1.ConfigMap, revision int64, value []byte) *Item {
	return newKind(newShape(row, new(forms), nil), Unencrypted{}, 0).item(obj, revision, "a/x", value)
}

// TestMessage: of what is stored and a revision comes what the object is encoded as, and it is encoded once to see that.
func TestMessage(t *testing.T) {
	full := metav1.ObjectMeta{
		Namespace: "a", Name: "x", GenerateName: "x-", UID: "1234", Generation: 300, CreationTimestamp: metav1.NewTime(time.Unix(1_700_000_000, 0)),
		DeletionTimestamp: ptr.To(metav1.NewTime(time.Unix(1_700_000_001, 0))), DeletionGracePeriodSeconds: ptr.To[int64](30),
		Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"note": string(bytes.Repeat([]byte("n"), 300))}, Finalizers: []string{"f/f"},
		OwnerReferences: []metav1.OwnerReference{{Name: "o", UID: "5"}},
		ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "m", Operation: "Update", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:data":{}}`)}}},
	}
	for _, c := range []struct {
		name     string
		revision int64
		obj      corev1.ConfigMap
	}{
		{"all metadata", 7, corev1.ConfigMap{ObjectMeta: full, Data: map[string]string{"k": "v"}, Immutable: ptr.To(true)}},
		{"a large revision", 1<<63 - 1, corev1.ConfigMap{ObjectMeta: full}},
		{"a name alone", 12345, corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}},
		{"no metadata", 1, corev1.ConfigMap{Data: map[string]string{"k": "v"}}},
		{"metadata of 127 bytes with the revision", 12, corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: string(bytes.Repeat([]byte("x"), 107))}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			value, err := encode(configMaps, &c.obj)
			if err != nil {
				t.Fatal(err)
			}
			item := messageItem(configMaps, &c.obj, c.revision, value)
			want, err := marshal(item.Object())
			if err != nil {
				t.Fatal(err)
			}
			encoded := 0
			for range 2 {
				all, rest, ok := item.Message([]byte("before"), func(obj resource.Object) ([]byte, error) { encoded++; return marshal(obj) })
				head, found := bytes.CutPrefix(all, []byte("before"))
				if got := append(head, rest...); !ok || !found || !bytes.Equal(got, want) {
					t.Errorf("ok %v, got %q\nwant %q", ok, got, want)
				}
			}
			if encoded != 1 || item.kept.forms.bytes.Load() != 0 {
				t.Errorf("encoded %d times, %d bytes are kept", encoded, item.kept.forms.bytes.Load())
			}
		})
	}
}

// TestMessageUnlike: what is stored in another form, or would be stored otherwise today, is not answered.
func TestMessageUnlike(t *testing.T) {
	defaulting := resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{
		Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Default: func(c *corev1.ConfigMap) { c.Immutable = ptr.To(true) }})
	packed := keptRows()["packed true"]
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}, Data: map[string]string{"k": "v"}}
	value, err := encode(configMaps, obj)
	if err != nil {
		t.Fatal(err)
	}
	versioned := obj.DeepCopy()
	versioned.ResourceVersion = "3"
	message, err := versioned.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		row   *resource.Resource
		value []byte
	}{
		{"a default since", defaulting, value},
		{"JSON", configMaps, text},
		{"compressed", packed, value},
		{"with a version in it", configMaps, append([]byte("k8s\x00\x12"), append([]byte{byte(len(message))}, message...)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			decoded := obj.DeepCopy()
			c.row.Default(decoded)
			item := messageItem(c.row, decoded, 7, c.value)
			for range 2 {
				if all, rest, ok := item.Message([]byte("before"), marshal); ok || string(all) != "before" || rest != nil {
					t.Errorf("got %q and %q", all, rest)
				}
			}
		})
	}
	t.Run("an object that cannot be encoded now", func(t *testing.T) {
		item := messageItem(configMaps, obj.DeepCopy(), 7, value)
		if _, _, ok := item.Message(nil, func(resource.Object) ([]byte, error) { return nil, errors.New("no") }); ok {
			t.Error("it was encoded")
		}
		if _, _, ok := item.Message(nil, marshal); !ok {
			t.Error("it was not encoded later")
		}
	})
}

// TestMessageOfDamage: bytes that are anything at all are no message, or that of the object.
func TestMessageOfDamage(t *testing.T) {
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x", UID: "u", Generation: 3}, Data: map[string]string{"k": "v"}}
	value, err := encode(configMaps, obj)
	if err != nil {
		t.Fatal(err)
	}
	check := func(damaged []byte) {
		item := messageItem(configMaps, obj.DeepCopy(), 7, damaged)
		want, err := marshal(item.Object())
		if err != nil {
			t.Fatal(err)
		}
		if all, rest, ok := item.Message(nil, func(resource.Object) ([]byte, error) { return want, nil }); ok && !bytes.Equal(append(all, rest...), want) {
			t.Errorf("of %q came %q and %q", damaged, all, rest)
		}
	}
	for n := range value {
		check(value[:n])
		for _, b := range []byte{0, 0x7f, 0xff} {
			damaged := bytes.Clone(value)
			damaged[n] = b
			check(damaged)
		}
	}
}
