package store

import (
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
