package apiserver_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var boats = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "boats"}

// boat is a made-up kind without a Go type, as custom resources are.
func boat(verbs ...string) *resource.Resource {
	r := resource.Define[unstructured.UnstructuredList](resource.Definition[unstructured.Unstructured]{
		Group: boats.Group, Version: boats.Version, Kind: "Boat", Plural: boats.Resource, Verbs: verbs,
	})
	r.NewList = nil
	r.Custom = &resource.Custom{
		Prune:  func(resource.Object, bool) ([]string, error) { return nil, nil },
		Types:  func() (managedfields.TypeConverter, error) { return managedfields.NewDeducedTypeConverter(), nil },
		Schema: func() *spec.Schema { return nil },
	}
	r.New = func() resource.Object {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(r.GVK())
		return u
	}
	return r
}

func newBoat(name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"sails": int64(2)}}}
	u.SetGroupVersionKind(boats.GroupVersion().WithKind("Boat"))
	u.SetName(name)
	return u
}

// fleet is a server with clients that know of no kinds beforehand.
type fleet struct {
	*apiserver.Server
	dynamic   dynamic.ResourceInterface
	discovery *discovery.DiscoveryClient
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	s := apiservertest.Start(t, nil)
	config := apiservertest.Config(s, "admin")
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{s, d.Resource(boats).Namespace("default"), discovery.NewDiscoveryClientForConfigOrDie(config)}
}

// serve adds rows to the built-in kinds.
func (f *fleet) serve(t *testing.T, rows ...*resource.Resource) {
	t.Helper()
	builtin := slices.DeleteFunc(slices.Clone(f.Resources()), func(r *resource.Resource) bool { return r.Group == boats.Group })
	if err := f.SetResources(t.Context(), append(builtin, rows...)); err != nil {
		t.Fatal(err)
	}
}

// described reports whether discovery and both forms of OpenAPI know boats.
func (f *fleet) described(t *testing.T) (all, none bool) {
	t.Helper()
	_, err := f.discovery.ServerResourcesForGroupVersion("example.com/v1")
	known := []bool{err == nil}
	for path, name := range map[string]string{"/apis": `"example.com/v1"`, "/openapi/v3": "apis/example.com/v1", "/openapi/v2": "/apis/example.com/v1/"} {
		body, err := f.discovery.RESTClient().Get().AbsPath(path).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		known = append(known, strings.Contains(string(body), name))
	}
	return !slices.Contains(known, false), !slices.Contains(known, true)
}

func TestSetResources(t *testing.T) {
	f, ctx := newFleet(t), t.Context()
	if _, err := f.dynamic.Create(ctx, newBoat("early"), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("create before there are boats: %v, want not found", err)
	}

	row := boat()
	f.serve(t, row)
	made, err := f.dynamic.Create(ctx, newBoat("dory"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.GetUID() == "" || len(made.GetManagedFields()) != 1 {
		t.Errorf("created %v: incomplete", made)
	}
	patch := []byte(`{"apiVersion":"example.com/v1","kind":"Boat","spec":{"oars":4}}`)
	applied, err := f.dynamic.Patch(ctx, "dory", types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: "sailor"})
	if err != nil {
		t.Fatal(err)
	}
	if spec, _ := json.Marshal(applied.Object["spec"]); string(spec) != `{"oars":4,"sails":2}` {
		t.Errorf("after apply the spec is %s", spec)
	}
	if all, _ := f.described(t); !all {
		t.Error("the documents do not all know what is served")
	}

	f.serve(t)
	if _, err := f.dynamic.Get(ctx, "dory", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get of what is served no longer: %v, want not found", err)
	}
	if _, none := f.described(t); !none {
		t.Error("documents name what is served no longer")
	}

	f.serve(t, boat())
	if again, err := f.dynamic.Get(ctx, "dory", metav1.GetOptions{}); err != nil || again.GetUID() != made.GetUID() {
		t.Errorf("once boats are served again, dory is %v, %v; want what was stored", again, err)
	}
}

// TestReplacedResource: a changed kind is a new row. Watches end with the old
// one and go on under the new without a gap.
func TestReplacedResource(t *testing.T) {
	f, ctx := newFleet(t), t.Context()
	f.serve(t, boat())
	made, err := f.dynamic.Create(ctx, newBoat("dory"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := f.dynamic.Watch(ctx, metav1.ListOptions{ResourceVersion: made.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()

	f.serve(t, boat("get", "list", "watch", "create"))
	if e, open := <-w.ResultChan(); open {
		t.Errorf("watch of the old row gives %v, want its end", e)
	}
	if err := f.dynamic.Delete(ctx, "dory", metav1.DeleteOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("delete under a row without it: %v, want that there is no such method", err)
	}
	if _, err := f.dynamic.Create(ctx, newBoat("gig"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	resumed, err := f.dynamic.Watch(ctx, metav1.ListOptions{ResourceVersion: made.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer resumed.Stop()
	if e := <-resumed.ResultChan(); e.Type != watch.Added || e.Object.(*unstructured.Unstructured).GetName() != "gig" {
		t.Errorf("resumed watch begins with %v, want that gig was added", e)
	}
}

// TestBadResources: a list that makes no sense changes nothing.
func TestBadResources(t *testing.T) {
	f := newFleet(t)
	f.serve(t, boat())
	before := f.Resources()
	alone := boat()
	alone.Version = "v2"
	for name, list := range map[string][]*resource.Resource{
		"twice": append(slices.Clone(before), boat()), "stored in two ways": append(slices.Clone(before), alone),
	} {
		if err := f.SetResources(context.Background(), list); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if !slices.Equal(before, f.Resources()) {
		t.Error("what is served has changed")
	}
}

// TestIndexNamesWhatIsServed: the list of paths at the root follows.
func TestIndexNamesWhatIsServed(t *testing.T) {
	f := newFleet(t)
	f.serve(t, boat())
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://in-process/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := apiservertest.Config(f.Server, "admin").Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(body), `"/apis/example.com/v1"`) {
		t.Errorf("the index lacks what is served: %s", body)
	}
}
