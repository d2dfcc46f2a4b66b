package openapi

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/kube-openapi/pkg/spec3"
)

// TestStrategicMerge patches as kubectl does on its side: merge keys and
// strategies come from the document.
func TestStrategicMerge(t *testing.T) {
	h, _ := standard(t)
	schemas := read[spec3.OpenAPI](t, h, PathV3+"/apis/apps/v1").Components.Schemas
	meta := strategicpatch.PatchMetaFromOpenAPIV3{SchemaList: schemas, Schema: schemas["io.k8s.api.apps.v1.Deployment"]}
	for _, c := range []struct{ name, original, patch, want string }{
		{"items with a merge key are merged",
			`{"spec":{"template":{"spec":{"containers":[{"name":"a","image":"one"},{"name":"b","image":"two"}]}}}}`,
			`{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"three"}]}}}}`,
			`{"spec":{"template":{"spec":{"containers":[{"image":"one","name":"a"},{"image":"three","name":"b"}]}}}}`},
		{"lists without one are replaced",
			`{"spec":{"template":{"spec":{"containers":[{"name":"a","args":["x","y"]}]}}}}`,
			`{"spec":{"template":{"spec":{"containers":[{"name":"a","args":["z"]}]}}}}`,
			`{"spec":{"template":{"spec":{"containers":[{"args":["z"],"name":"a"}]}}}}`},
		{"plain values are merged",
			`{"metadata":{"finalizers":["a"]}}`, `{"metadata":{"finalizers":["b"]}}`, `{"metadata":{"finalizers":["b","a"]}}`},
		{"only the keys of the patch are retained",
			`{"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}}`,
			`{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}`,
			`{"spec":{"strategy":{"type":"Recreate"}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := strategicpatch.StrategicMergePatchUsingLookupPatchMeta([]byte(c.original), []byte(c.patch), meta)
			if err != nil {
				t.Fatal(err)
			}
			var gotValue, wantValue any
			if err := json.Unmarshal(got, &gotValue); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &wantValue); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wantValue, gotValue); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

// TestServerSideApply reads the documents as clients that extract what they
// own do: every list must say how it is merged in a way they understand.
func TestServerSideApply(t *testing.T) {
	h, _ := standard(t)
	for path, obj := range map[string]runtime.Object{
		"apis/apps/v1": &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}},
		"api/v1": &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1, Protocol: "TCP"}, {Port: 1, Protocol: "UDP"}}}},
	} {
		converter, err := managedfields.NewTypeConverter(read[spec3.OpenAPI](t, h, PathV3+"/"+path).Components.Schemas, false)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if _, err := converter.ObjectToTyped(obj); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
