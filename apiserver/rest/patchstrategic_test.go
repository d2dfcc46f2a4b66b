package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/heavy"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/resource/resourcetest"
)

// strategicPatches are what the fields of any object are patched with.
var strategicPatches = []string{
	`{}`, `{"status":{"phase":"a"}}`, `{"status":null}`, `{"metadata":{"labels":{"a":"b","c":null}}}`, `{"metadata":{"finalizers":["a"]}}`,
	`{"metadata":{"$setElementOrder/ownerReferences":[{"uid":"a"}],"ownerReferences":[{"uid":"a","name":"b"}]}}`,
	`{"spec":{"replicas":3}}`, `{"spec":{"containers":[{"name":"a","image":"x"}]}}`, `{"spec":{"containers":[{"$patch":"delete","name":"a"}]},"status":{"phase":"b"}}`,
	`{"spec":{"$patch":"replace","nodeName":"n"}}`, `{"spec":{"$retainKeys":["type"],"type":"a"}}`, `{"data":{"a":"b"}}`, `{"data":null,"immutable":true}`,
	`{"Status":{"phase":"a"}}`, `{"unknown":1,"status":{}}`, `{"":{}}`, `{"$patch":"replace","metadata":{"name":"a"}}`, `{"kind":"Other"}`, `{"apiVersion":"v9","metadata":{}}`,
	`{"spec":7}`, `{"metadata":[]}`, `{"status":{"conditions":[{"type":"a","status":"b"}]}}`, `{"$deleteFromPrimitiveList/x":["a"]}`,
}

// TestStrategicPatchOfAPart holds that to merge only what a patch names gives what it would give to merge all, errors
// included.
func TestStrategicPatchOfAPart(t *testing.T) {
	divided := 0
	for _, r := range builtin.Resources(builtin.Deps{}) {
		for seed := range uint64(3) {
			live := liveObject(t, r, seed)
			for _, body := range strategicPatches {
				var changes map[string]any
				strict, err := kjson.UnmarshalStrict([]byte(body), &changes)
				if err != nil || len(strict) > 0 {
					t.Fatal(err, strict)
				}
				for _, validation := range []string{metav1.FieldValidationStrict, metav1.FieldValidationIgnore} {
					p := &patch{kind: types.StrategicMergePatchType, body: []byte(body), options: &metav1.PatchOptions{FieldValidation: validation}}
					before := live.DeepCopyObject()
					whole := p.mergeText(t, r, live, nil, body)
					named, rest := divide(live, changes)
					if rest != nil {
						divided++
					}
					part := p.mergeText(t, r, named, rest, body)
					if diff := cmp.Diff(whole, part); diff != "" {
						t.Errorf("%s, seed %d, %s, %s: -whole +part\n%s", r.Plural, seed, validation, body, diff)
					}
					if diff := cmp.Diff(text(t, before), text(t, live)); diff != "" {
						t.Fatalf("%s, %s: the live object was changed: -before +after\n%s", r.Plural, body, diff)
					}
				}
			}
		}
	}
	if divided == 0 {
		t.Error("nothing was divided")
	}
}

// mergeText is the result of a merge, or its error, as text.
func (p *patch) mergeText(t *testing.T, r *resource.Resource, named, rest runtime.Object, body string) string {
	t.Helper()
	var changes map[string]any
	if err := json.Unmarshal([]byte(body), &changes); err != nil {
		t.Fatal(err)
	}
	into := r.New()
	if err := p.merge(context.Background(), heavy.Runner{}, named, rest, changes, nil, into); err != nil {
		return fmt.Sprintf("%T: %v", err, err)
	}
	return text(t, into)
}

func text(t *testing.T, obj runtime.Object) string {
	t.Helper()
	data, err := json.MarshalIndent(obj, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// liveObject is a random object as it comes out of the store.
func liveObject(t *testing.T, r *resource.Resource, seed uint64) resource.Object {
	t.Helper()
	obj := r.New()
	resourcetest.Fill(obj, rand.New(rand.NewPCG(seed, 4)))
	obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	value, ok := obj.(interface{ Marshal() ([]byte, error) })
	if !ok {
		return obj
	}
	data, err := value.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	out := r.New()
	if err := out.(interface{ Unmarshal([]byte) error }).Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	out.GetObjectKind().SetGroupVersionKind(r.GVK())
	return out
}
