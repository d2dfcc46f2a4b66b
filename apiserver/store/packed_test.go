package store

import (
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// TestPackedObject: it is the same when it was made anew, and not kept by the
// item.
func TestPackedObject(t *testing.T) {
	row := resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Packed: true})
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}, Data: map[string]string{"k": "v"}}
	value, err := encode(row, obj)
	if err != nil {
		t.Fatal(err)
	}
	item := newKind(row, Unencrypted{}, 0).item(obj, 7, "a/x", value)
	if item.object != nil {
		t.Fatal("the item keeps its object")
	}
	gone := make(chan struct{})
	runtime.AddCleanup(obj, func(struct{}) { close(gone) }, struct{}{})
	obj = nil
	for collected := false; !collected; {
		runtime.GC()
		select {
		case <-gone:
			collected = true
		case <-t.Context().Done():
			t.Fatal("the object is never let go")
		default:
		}
	}
	again := item.Object().(*corev1.ConfigMap)
	if again.Data["k"] != "v" || again.ResourceVersion != "7" || again.Kind != "ConfigMap" {
		t.Errorf("made anew it is %v", again)
	}
	if !same(row, item, value) {
		t.Error("the same bytes are taken for a change")
	}
}

// TestPackedSelection: objects are selected by labels and fields without being opened.
func TestPackedSelection(t *testing.T) {
	row := resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Packed: true,
		Fields: map[string]func(*corev1.ConfigMap) string{"data.k": func(c *corev1.ConfigMap) string { return c.Data["k"] }}})
	k := newKind(row, Unencrypted{}, 0)
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x", Labels: map[string]string{"app": "web", "tier": ""}}, Data: map[string]string{"k": "v"}}
	value, err := encode(row, obj)
	if err != nil {
		t.Fatal(err)
	}
	item := k.item(obj, 7, "a/x", value)
	obj = nil
	for item.packed.held.Value() != nil {
		runtime.GC()
	}
	for _, c := range []struct {
		labels, fields string
		want           bool
	}{
		{"app=web", "", true}, {"app=api", "", false}, {"app", "", true}, {"tier=", "", true}, {"!tier", "", false}, {"absent", "", false}, {"absent!=x", "", true}, {"app in (api, web),tier", "", true},
		{"", "data.k=v", true}, {"", "data.k=w", false}, {"", "data.k!=v", false}, {"", "data.k!=w", true}, {"app=web", "data.k=v", true}, {"app=api", "data.k=v", false},
	} {
		m := Match{Namespace: "a"}
		if c.labels != "" {
			if m.Labels, err = labels.Parse(c.labels); err != nil {
				t.Fatal(err)
			}
		}
		if c.fields != "" {
			m.Fields = fields.ParseSelectorOrDie(c.fields).Requirements()
		}
		if got := k.matcher(m).item(item); got != c.want || m.plain() {
			t.Errorf("%s and %s: selected %v, want %v", c.labels, c.fields, got, c.want)
		}
	}
	if item.packed.held.Value() != nil {
		t.Error("the object was opened")
	}
}
