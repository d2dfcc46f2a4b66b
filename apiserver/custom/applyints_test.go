package custom_test

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Rules see the whole numbers of an applied configuration as integers, wherever they stand, in the object and in its status.
func TestRulesSeeAppliedIntegers(t *testing.T) {
	const crates = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crates.example.com}
spec:
  group: example.com
  names: {plural: crates, kind: Crate}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: &content
            type: object
            properties:
              count: &count {type: integer, x-kubernetes-validations: [{rule: self < 9}]}
              size: &size {type: object, properties: {count: *count}, x-kubernetes-validations: [{rule: "has(self.count) && self.count < 9"}]}
              fixed: {type: array, x-kubernetes-list-type: atomic, items: *size, maxItems: 3}
              named: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], maxItems: 3, items: {type: object, required: [name], properties: {name: {type: string}, size: *size, fixed: {type: array, x-kubernetes-list-type: atomic, items: *size, maxItems: 3}}}}
              shares: {type: array, x-kubernetes-list-type: set, items: *count, maxItems: 3}
          status: *content
`
	s := start(t, nil)
	s.define(t, crates)
	fleet := s.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "crates"}).Namespace("default")
	for name, content := range map[string]string{
		"a field":                  `{"count": 3}`,
		"an object":                `{"size": {"count": 3}}`,
		"an atomic list":           `{"fixed": [{"count": 3}, {"count": 4}]}`,
		"a list by keys":           `{"named": [{"name": "a", "size": {"count": 3}}]}`,
		"an atomic list in others": `{"named": [{"name": "a", "fixed": [{"count": 3}]}]}`,
		"a set":                    `{"shares": [3, 4]}`,
		"with a fraction of none":  `{"count": 3.0}`,
		"with an exponent":         `{"count": 3e0}`,
		"more than a float holds":  `{"count": -9007199254740993}`,
	} {
		for _, part := range []string{"spec", "status"} {
			var subresources []string
			if part == "status" {
				subresources = []string{"status"}
			}
			patch := `{"apiVersion": "example.com/v1", "kind": "Crate", "metadata": {"name": "box"}, "` + part + `": ` + content + `}`
			for range 2 { // as what is new, and as what is there
				got, err := fleet.Patch(t.Context(), "box", types.ApplyPatchType, []byte(patch), metav1.PatchOptions{FieldManager: "one"}, subresources...)
				if err != nil {
					t.Errorf("%s in the %s: %v", name, part, err)
				} else if n, there, _ := unstructured.NestedInt64(got.Object, part, "count"); there && strings.Contains(content, "-") && n != -9007199254740993 {
					t.Errorf("%s in the %s became %d", name, part, n)
				}
			}
		}
	}
	_, err := fleet.Patch(t.Context(), "box", types.ApplyPatchType, []byte(`{"apiVersion": "example.com/v1", "kind": "Crate", "spec": {"count": 1e1}}`), metav1.PatchOptions{FieldManager: "one"})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "failed rule: self < 9") {
		t.Errorf("what breaks a rule: %v", err)
	}
}
