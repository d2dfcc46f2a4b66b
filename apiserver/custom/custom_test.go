package custom_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	boats       = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "boats"}
)

const boatDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bt], categories: [fleet]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.crew, statusReplicasPath: .status.crew, labelSelectorPath: .status.selector}}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Crew, type: integer, jsonPath: .spec.crew}
    - {name: Color, type: string, jsonPath: .spec.color, description: what it looks like}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "self.crew <= self.berths", message: too many people}
            - {rule: "self.color == oldSelf.color", reason: FieldValueForbidden, fieldPath: .color, message: paint lasts}
            properties:
              crew: {type: integer, minimum: 0, default: 1}
              berths: {type: integer, default: 4}
              color: {type: string, default: white, maxLength: 10}
              sails:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, area: {type: integer}}
              load: {x-kubernetes-int-or-string: true}
              notes: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties: {crew: {type: integer}, selector: {type: string}}
  - name: v2
    served: true
    storage: false
    deprecated: true
    schema:
      openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {crew: {type: integer}}}}}
`

func parse(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return u
}

// server is one with a client that knows of no kinds beforehand.
type server struct {
	*apiserver.Server
	config *rest.Config
	dynamic.Interface
}

func start(t testing.TB, change func(*apiserver.Options)) *server {
	t.Helper()
	s := apiservertest.Start(t, change)
	config := apiservertest.Config(s, "admin")
	return &server{s, config, dynamic.NewForConfigOrDie(config)}
}

// define creates a definition and waits until it is established.
func (s *server) define(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	made, err := s.Resource(definitions).Create(t.Context(), parse(t, text), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.await(t, made.GetName(), func(d *unstructured.Unstructured) bool { return conditionOf(d, "Established")["status"] == "True" })
}

// await waits until a definition is such; nil: until it is gone.
func (s *server) await(t testing.TB, name string, is func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	t.Helper()
	w, err := s.Resource(definitions).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if is == nil {
		if _, err := s.Resource(definitions).Get(t.Context(), name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return nil
		}
	}
	for e := range w.ResultChan() {
		d := e.Object.(*unstructured.Unstructured)
		if is == nil && e.Type == "DELETED" {
			return nil
		}
		if is != nil && is(d) {
			return d
		}
	}
	t.Fatalf("the watch of %s has ended", name)
	return nil
}

func conditionOf(d *unstructured.Unstructured, kind string) map[string]any {
	list, _, _ := unstructured.NestedSlice(d.Object, "status", "conditions")
	for _, c := range list {
		if c := c.(map[string]any); c["type"] == kind {
			return c
		}
	}
	return nil
}

func boat(t testing.TB, name, spec string) *unstructured.Unstructured {
	t.Helper()
	return parse(t, "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: "+name+"}\nspec: "+spec)
}

func TestDefinitionIsServed(t *testing.T) {
	s := start(t, nil)
	d := s.define(t, boatDefinition)
	if got, _, _ := unstructured.NestedString(d.Object, "status", "acceptedNames", "listKind"); got != "BoatList" {
		t.Errorf("accepted listKind %q, want BoatList", got)
	}
	if c := conditionOf(d, "NamesAccepted"); c["reason"] != "NoConflicts" || c["message"] != "no conflicts found" {
		t.Errorf("condition NamesAccepted: %v", c)
	}
	if got, _, _ := unstructured.NestedStringSlice(d.Object, "status", "storedVersions"); len(got) != 1 || got[0] != "v1" {
		t.Errorf("stored versions %v, want v1", got)
	}
	fleet := s.Resource(boats).Namespace("default")
	made, err := fleet.Create(t.Context(), boat(t, "dory", "{extra: 1, load: 3, notes: {any: thing}, sails: [{name: main, x: 1}]}"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec, _ := json.Marshal(made.Object["spec"]); string(spec) != `{"berths":4,"color":"white","crew":1,"load":3,"notes":{"any":"thing"},"sails":[{"name":"main"}]}` {
		t.Errorf("created spec %s: want defaults filled in and what is unknown pruned", spec)
	}
	if made.GetGeneration() != 1 {
		t.Errorf("generation %d, want 1", made.GetGeneration())
	}
	other, err := s.Resource(boats.GroupResource().WithVersion("v2")).Namespace("default").Get(t.Context(), "dory", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec, _ := json.Marshal(other.Object["spec"]); string(spec) != `{"crew":1}` || other.GetAPIVersion() != "example.com/v2" {
		t.Errorf("as v2 the spec is %s of %s", spec, other.GetAPIVersion())
	}
	if list, err := fleet.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.color=white"}); err != nil || len(list.Items) != 1 || list.GetKind() != "BoatList" {
		t.Errorf("list of white boats: %v, %v; want one", list, err)
	}
	if list, err := fleet.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.color=red"}); err != nil || len(list.Items) != 0 {
		t.Errorf("list of red boats: %v, %v; want none", list, err)
	}
	_, err = fleet.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.crew=1"})
	if err == nil || !strings.Contains(err.Error(), "field label not supported: spec.crew") {
		t.Errorf("list by another field: %v", err)
	}
}

// TestDiscoveredDefinitionIsEstablished: whoever finds a kind in discovery reads that its definition is established, and
// changes the definition without meeting a write of the server.
func TestDiscoveredDefinitionIsEstablished(t *testing.T) {
	s := start(t, nil)
	client := discovery.NewDiscoveryClientForConfigOrDie(s.config)
	for i := range 20 {
		group := fmt.Sprintf("g%d.example.com", i)
		d := parse(t, strings.ReplaceAll(boatDefinition, "example.com", group))
		if _, err := s.Resource(definitions).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for {
			_, err := client.ServerResourcesForGroupVersion(group + "/v1")
			if err == nil {
				break
			}
			if !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
		}
		found, err := s.Resource(definitions).Get(t.Context(), d.GetName(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c := conditionOf(found, "Established"); c["status"] != "True" {
			t.Fatalf("%s is in discovery, its definition says %v, want that it is established", group, c)
		}
		found.SetLabels(map[string]string{"a": "b"})
		if _, err := s.Resource(definitions).Update(t.Context(), found, metav1.UpdateOptions{}); err != nil {
			t.Fatalf("the first update after discovery: %v", err)
		}
	}
}

// TestFinalizersOfDefinitions: they need no domain, other than those of most kinds.
func TestFinalizersOfDefinitions(t *testing.T) {
	s := start(t, nil)
	d := parse(t, boatDefinition)
	d.SetFinalizers([]string{"x"})
	if _, err := s.Resource(definitions).Create(t.Context(), d, metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
		t.Error(err)
	}
}

func TestObjectsAreValidated(t *testing.T) {
	s := start(t, nil)
	s.define(t, boatDefinition)
	fleet := s.Resource(boats).Namespace("default")
	if _, err := fleet.Create(t.Context(), boat(t, "gig", "{}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, spec, want string }{
		{"type", "{crew: many}", `spec.crew: Invalid value: "string": spec.crew in body must be of type integer: "string"`},
		{"minimum", "{crew: -1}", `spec.crew: Invalid value: -1: spec.crew in body should be greater than or equal to 0`},
		{"rule", "{crew: 9}", `spec: Invalid value: too many people`},
		{"twice", "{sails: [{name: a}, {name: a}]}", `spec.sails[1]: Duplicate value: {"name":"a"}`},
		{"missing", "", `spec: Required value`},
	} {
		_, err := fleet.Create(t.Context(), boat(t, c.name, c.spec), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	_, err := fleet.Patch(t.Context(), "gig", types.MergePatchType, []byte(`{"spec":{"color":"red"}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `spec.color: Forbidden: paint lasts`) {
		t.Errorf("transition rule: %v", err)
	}
	_, err = fleet.Create(t.Context(), boat(t, "strict", "{oars: 2, sails: [{name: a, b: 1}]}"), metav1.CreateOptions{FieldValidation: "Strict"})
	want := `Boat in version "v1" cannot be handled as a Boat: strict decoding error: unknown field "spec.oars", unknown field "spec.sails[0].b"`
	if !apierrors.IsBadRequest(err) || err.Error() != want {
		t.Errorf("strict: %v, want %s", err, want)
	}
}

// TestLetOffRulesWarn: a rule that an object broke before it was there is let off where nothing it is about changes, with
// a warning, also if the write fails for something else.
func TestLetOffRulesWarn(t *testing.T) {
	s := start(t, nil)
	const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {crew: {type: integer}, mates: {type: integer, maximum: 3}}}, status: {type: object, properties: {crew: {type: integer}}}}}}
`
	s.define(t, definition)
	fleet := s.Resource(boats).Namespace("default")
	if _, err := fleet.Create(t.Context(), boat(t, "dory", "{crew: 4}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rule := `[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/crew/x-kubernetes-validations","value":[{"rule":"self % 2 == 1","message":"is even"}]}]`
	if _, err := s.Resource(definitions).Patch(t.Context(), "boats.example.com", types.JSONPatchType, []byte(rule), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for { // until the rule is there
		_, err := fleet.Create(t.Context(), boat(t, "gig", "{crew: 4}"), metav1.CreateOptions{DryRun: []string{"All"}})
		if apierrors.IsInvalid(err) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, patch, sub string
		refused          bool
		want             string
	}{
		{"the rest changes", `{"metadata":{"labels":{"a":"b"}}}`, "", false, "spec.crew: Invalid value: 4: is even"},
		{"the rest is wrong", `{"spec":{"mates":9}}`, "", true, "spec.crew: Invalid value: 4: is even"},
		{"the status changes", `{"status":{"crew":1}}`, "status", false, "spec.crew: Invalid value: 4: is even"},
		{"it changes for the worse", `{"spec":{"crew":6}}`, "", true, ""},
		{"it changes for the better", `{"spec":{"crew":5}}`, "", false, ""},
	} {
		heard := new(warnings)
		config := rest.CopyConfig(s.config)
		config.WarningHandler = heard
		var sub []string
		if c.sub != "" {
			sub = append(sub, c.sub)
		}
		_, err := dynamic.NewForConfigOrDie(config).Resource(boats).Namespace("default").Patch(t.Context(), "dory", types.MergePatchType, []byte(c.patch), metav1.PatchOptions{}, sub...)
		if apierrors.IsInvalid(err) != c.refused || err != nil && !c.refused {
			t.Errorf("%s: %v, want refused %v", c.name, err, c.refused)
		}
		if got := strings.Join(*heard, "; "); got != c.want {
			t.Errorf("%s: warned of %q, want %q", c.name, got, c.want)
		}
	}
	text, err := discovery.NewDiscoveryClientForConfigOrDie(s.config).RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, counted := range []string{"apiserver_cel_compilation_duration_seconds", "apiserver_cel_evaluation_duration_seconds", "apiextensions_apiserver_validation_ratcheting_seconds"} {
		if !regexp.MustCompile(`(?m)^` + counted + `_count [1-9]`).Match(text) {
			t.Errorf("/metrics does not count %s", counted)
		}
	}
}

// warnings are those a client was sent.
type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _, text string) { *w = append(*w, text) }

func TestSubresources(t *testing.T) {
	s := start(t, nil)
	s.define(t, boatDefinition)
	ctx, fleet := t.Context(), s.Resource(boats).Namespace("default")
	made, err := fleet.Create(ctx, boat(t, "dory", "{crew: 2}\nstatus: {crew: 7}"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.Object["status"] != nil {
		t.Errorf("create has set the status: %v", made.Object["status"])
	}
	update := made.DeepCopy()
	update.Object["status"] = map[string]any{"crew": int64(2), "selector": "a=b"}
	update.Object["spec"].(map[string]any)["crew"] = int64(3)
	after, err := fleet.UpdateStatus(ctx, update, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if crew, _, _ := unstructured.NestedInt64(after.Object, "spec", "crew"); crew != 2 || after.GetGeneration() != 1 {
		t.Errorf("update of the status has made it %v", after.Object)
	}
	scaled, err := fleet.Get(ctx, "dory", metav1.GetOptions{}, "scale")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := json.Marshal([]any{scaled.Object["spec"], scaled.Object["status"], scaled.GetKind()}); string(got) != `[{"replicas":2},{"replicas":2,"selector":"a=b"},"Scale"]` {
		t.Errorf("scale is %s", got)
	}
	if _, err := fleet.Patch(ctx, "dory", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Fatal(err)
	}
	after, err = fleet.Get(ctx, "dory", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if crew, _, _ := unstructured.NestedInt64(after.Object, "spec", "crew"); crew != 4 || after.GetGeneration() != 2 {
		t.Errorf("after scaling it is %v", after.Object)
	}
	_, err = fleet.Patch(ctx, "dory", types.MergePatchType, []byte(`{"spec":{"replicas":-4}}`), metav1.PatchOptions{}, "scale")
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "should be a non-negative integer") {
		t.Errorf("scale to less than none: %v", err)
	}
}

// TestApplyMergesByKeys: applied configurations are merged by the list types of
// the schema.
func TestApplyMergesByKeys(t *testing.T) {
	s := start(t, nil)
	s.define(t, boatDefinition)
	ctx, fleet := t.Context(), s.Resource(boats).Namespace("default")
	for manager, sail := range map[string]string{"one": "jib", "two": "main"} {
		patch := `{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"dory"},"spec":{"sails":[{"name":"` + sail + `","area":5}]}}`
		if _, err := fleet.Patch(ctx, "dory", types.ApplyPatchType, []byte(patch), metav1.PatchOptions{FieldManager: manager}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := fleet.Get(ctx, "dory", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if sails, _, _ := unstructured.NestedSlice(got.Object, "spec", "sails"); len(sails) != 2 {
		t.Errorf("sails %v, want one of each manager", sails)
	}
	_, err = fleet.Patch(ctx, "dory", types.ApplyPatchType, []byte(`{"apiVersion":"example.com/v1","kind":"Boat","spec":{"oars":1}}`), metav1.PatchOptions{FieldManager: "one"})
	if err == nil || !strings.Contains(err.Error(), ".spec.oars: field not declared in schema") {
		t.Errorf("apply of an unknown field: %v", err)
	}
}

// What a manager applied in a version that is served no more is still its own: a field that it applies no longer goes.
func TestFieldsOfAVersionThatIsServedNoMore(t *testing.T) {
	const cards = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: cards.example.com}
spec:
  group: example.com
  names: {plural: cards, kind: Card}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: &schema {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {suit: {type: string}, rank: {type: string}}}}}}}
  - {name: v1beta1, served: true, storage: false, schema: *schema}
`
	s := start(t, nil)
	s.define(t, cards)
	of := func(version string) dynamic.ResourceInterface {
		return s.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "cards"}).Namespace("default")
	}
	apply := func(version, spec string) *unstructured.Unstructured {
		t.Helper()
		patch := `{"apiVersion":"example.com/` + version + `","kind":"Card","metadata":{"name":"ace"},"spec":` + spec + `}`
		got, err := of(version).Patch(t.Context(), "ace", types.ApplyPatchType, []byte(patch), metav1.PatchOptions{FieldManager: "dealer"})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	apply("v1beta1", `{"suit":"spades","rank":"ace"}`)
	unserve := `[{"op":"replace","path":"/spec/versions/1/served","value":false}]`
	if _, err := s.Resource(definitions).Patch(t.Context(), "cards.example.com", types.JSONPatchType, []byte(unserve), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := of("v1beta1").Get(t.Context(), "ace", metav1.GetOptions{}); apierrors.IsNotFound(err) {
			break // the version is served no more
		} else if err != nil {
			t.Fatal(err)
		}
	}
	got := apply("v1", `{"suit":"spades"}`)
	if spec, _, _ := unstructured.NestedMap(got.Object, "spec"); len(spec) != 1 || spec["suit"] != "spades" {
		t.Errorf("after the rank is applied no longer the card is %v", spec)
	}
}

// TestDeletedDefinition: objects go first, held ones when they are let go, and
// none can be made meanwhile.
func TestDeletedDefinition(t *testing.T) {
	s := start(t, nil)
	s.define(t, boatDefinition)
	ctx, fleet := t.Context(), s.Resource(boats).Namespace("default")
	held := boat(t, "held", "{}")
	held.SetFinalizers([]string{"example.com/anchor"})
	for _, b := range []*unstructured.Unstructured{held, boat(t, "free", "{}")} {
		if _, err := fleet.Create(ctx, b, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Resource(definitions).Delete(ctx, "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "boats.example.com", func(d *unstructured.Unstructured) bool {
		return conditionOf(d, "Terminating")["reason"] == "InstanceDeletionInProgress"
	})
	_, err := fleet.Create(ctx, boat(t, "late", "{}"), metav1.CreateOptions{})
	if want := `boats.example.com "late" is forbidden: create not allowed while custom resource definition is terminating`; err == nil || err.Error() != want {
		t.Errorf("create while it goes: %v, want %s", err, want)
	}
	if _, err := fleet.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "boats.example.com", nil)
	s.define(t, boatDefinition)
	if list, err := fleet.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("defined again there are %v, %v; want none", list, err)
	}
}

// TestUnservedDefinitionIsDeleted: the objects of a definition that is served in no version go with it.
func TestUnservedDefinitionIsDeleted(t *testing.T) {
	s := start(t, nil)
	s.define(t, boatDefinition)
	ctx, fleet := t.Context(), s.Resource(boats).Namespace("default")
	if _, err := fleet.Create(ctx, boat(t, "dory", "{}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	unserve := `[{"op":"replace","path":"/spec/versions/0/served","value":false},{"op":"replace","path":"/spec/versions/1/served","value":false}]`
	if _, err := s.Resource(definitions).Patch(ctx, "boats.example.com", types.JSONPatchType, []byte(unserve), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := fleet.Get(ctx, "dory", metav1.GetOptions{}); apierrors.IsNotFound(err) {
			break // it is served no more
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Resource(definitions).Delete(ctx, "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "boats.example.com", nil)
	s.define(t, boatDefinition)
	if list, err := fleet.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("defined again there are %v, %v; want none", list, err)
	}
}

// TestNameConflicts: a name is whose it was first, and free when that goes.
func TestNameConflicts(t *testing.T) {
	s := start(t, nil)
	s.define(t, boatDefinition)
	ctx := t.Context()
	other := strings.NewReplacer("boats", "ships", "[fleet]", "[]").Replace(boatDefinition)
	if _, err := s.Resource(definitions).Create(ctx, parse(t, other), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := s.await(t, "ships.example.com", func(d *unstructured.Unstructured) bool { return conditionOf(d, "NamesAccepted") != nil })
	if c := conditionOf(d, "NamesAccepted"); c["status"] != "False" || c["reason"] != "ListKindConflict" || c["message"] != `"BoatList" is already in use` {
		t.Errorf("condition NamesAccepted: %v", c)
	}
	if c := conditionOf(d, "Established"); c["status"] != "False" || c["reason"] != "NotAccepted" {
		t.Errorf("condition Established: %v", c)
	}
	if err := s.Resource(definitions).Delete(ctx, "boats.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "ships.example.com", func(d *unstructured.Unstructured) bool { return conditionOf(d, "Established")["status"] == "True" })
}

// TestRestart: what is defined is served again as soon as the server is ready.
func TestRestart(t *testing.T) {
	var o apiserver.Options
	first := start(t, func(options *apiserver.Options) { o = *options })
	first.define(t, boatDefinition)
	if _, err := first.Resource(boats).Namespace("default").Create(t.Context(), boat(t, "dory", "{}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := apiserver.Standard(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := dynamic.NewForConfigOrDie(apiservertest.Config(s, "admin")).Resource(boats).Namespace("default").Get(t.Context(), "dory", metav1.GetOptions{})
	if err != nil || got.GetName() != "dory" {
		t.Errorf("after a restart dory is %v, %v", got, err)
	}
	cancel()
	s.Close()
}

// A kind is served some moments before its definition says so. Who deletes the
// definition in between deletes what was made meanwhile, too: here a server
// starts on what such a moment left.
func TestObjectsGoWithADefinitionThatWasNeverEstablished(t *testing.T) {
	definition := parse(t, boatDefinition)
	definition.SetUID("d")
	definition.SetFinalizers([]string{"customresourcecleanup.apiextensions.k8s.io"})
	now := metav1.Now()
	definition.SetDeletionTimestamp(&now)
	boat := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Boat", "spec": map[string]any{}}}
	boat.SetName("nina")
	boat.SetNamespace("default")
	boat.SetUID("b")
	stored := memory.New()
	t.Cleanup(func() { stored.Close() })
	for key, obj := range map[string]*unstructured.Unstructured{
		"/registry/apiextensions.k8s.io/customresourcedefinitions/boats.example.com": definition,
		"/registry/example.com/boats/default/nina":                                   boat,
	} {
		value, err := json.Marshal(obj.Object)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stored.Put(t.Context(), key, value, backend.Absent, 0); err != nil {
			t.Fatal(err)
		}
	}
	apiservertest.Start(t, func(o *apiserver.Options) { o.Backend = stored })
	gone := make(map[string]bool)
	for change, err := range stored.Watch(t.Context(), "/registry/", 2) {
		if err != nil {
			t.Fatal(err)
		}
		if change.Value == nil {
			gone[change.Key] = true
		}
		if gone["/registry/apiextensions.k8s.io/customresourcedefinitions/boats.example.com"] {
			break
		}
	}
	if !gone["/registry/example.com/boats/default/nina"] {
		t.Error("the definition is gone, its object is still in the storage")
	}
}
