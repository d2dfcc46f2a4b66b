package store

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var (
	configMaps = resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{Version: "v1", Kind: "ConfigMap", Plural: "configmaps"})
	secrets    = resource.Define[corev1.SecretList](resource.Definition[corev1.Secret]{Version: "v1", Kind: "Secret", Plural: "secrets"})
	widgets    = custom("example.com", "v1", "Widget", "widgets")
)

func custom(group, version, kind, plural string) *resource.Resource {
	r := &resource.Resource{
		Group: group, Version: version, Kind: kind, Plural: plural,
		New:     func() resource.Object { return &unstructured.Unstructured{} },
		Weak:    resource.Weakly[unstructured.Unstructured],
		Default: func(resource.Object) {},
	}
	r.Stored = r
	return r
}

func TestEncode(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "a", Name: "x", ResourceVersion: "17", Labels: map[string]string{"b": "2", "a": "<1>"}}
	for _, c := range []struct {
		name   string
		r      *resource.Resource
		obj    resource.Object
		begins string
	}{
		{"protobuf", configMaps, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v", "j": "w"}}, "k8s\x00"},
		{"JSON", widgets, &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "x", "namespace": "a", "resourceVersion": "17"},
			"spec":     map[string]any{"whole": int64(9007199254740993), "part": 1.5, "text": "<&>", "null": nil},
		}}, `{"apiVersion":"example.com/v1","kind":"Widget"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := c.obj.DeepCopyObject().(resource.Object)
			want.SetResourceVersion("")
			want.GetObjectKind().SetGroupVersionKind(c.r.GVK())
			value, err := encode(c.r, c.obj)
			if err != nil || !bytes.HasPrefix(value, []byte(c.begins)) {
				t.Fatalf("encoded as %q, %v; want it to begin with %q", value, err, c.begins)
			}
			if again, _ := encode(c.r, want.DeepCopyObject().(resource.Object)); !bytes.Equal(again, value) {
				t.Errorf("the same object was encoded as\n%q and\n%q", value, again)
			}
			got, err := decode(c.r, value)
			if err != nil || !equality.Semantic.DeepEqual(got, want) {
				t.Errorf("decoded as %v, %v; want %v", got, err, want)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	value, err := encode(configMaps, &corev1.ConfigMap{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		r     *resource.Resource
		value string
		want  string
	}{
		{"another kind", secrets, string(value), "found /v1, Kind=ConfigMap where /v1, Kind=Secret is stored"},
		{"protobuf of a custom resource", custom("", "v1", "ConfigMap", "configmaps"), string(value), "has no protobuf form"},
		{"cut short", configMaps, string(value[:len(value)-3]), "unexpected EOF"},
		{"neither", configMaps, "\x01\x02", "invalid character"},
		{"empty", widgets, "", "unexpected end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decode(c.r, []byte(c.value))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestSame(t *testing.T) {
	value := func(data string) []byte {
		b, err := encode(configMaps, &corev1.ConfigMap{Data: map[string]string{"k": data}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	obj, err := decode(configMaps, value("1"))
	if err != nil {
		t.Fatal(err)
	}
	item := newKind(newShape(configMaps, nil, nil), Unencrypted{}, 0).item(obj, 7, "a/x", value("1"))
	if !same(item, value("1")) {
		t.Error("the same bytes are taken for a change")
	}
	if same(item, value("2")) {
		t.Error("a change is not seen")
	}
	if got := item.Object().GetResourceVersion(); got != "7" {
		t.Errorf("comparing changed the item: it is at %q, want 7", got)
	}
}
