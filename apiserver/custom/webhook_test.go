package custom_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

const hostDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hosts.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: hosts, kind: Host}
  conversion:
    strategy: Webhook
    webhook: {conversionReviewVersions: [v1], clientConfig: {url: URL, caBundle: BUNDLE}}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {hostPort: {type: string}}}}}}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {host: {type: string}, port: {type: string}}}}}}
`

// converter is a conversion webhook. Its answers can be spoilt.
type converter struct {
	calls atomic.Int64
	spoil atomic.Pointer[func(objects []any) []any]
}

func (c *converter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.calls.Add(1)
	var review map[string]any
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	request := review["request"].(map[string]any)
	want := request["desiredAPIVersion"].(string)
	objects := request["objects"].([]any)
	for _, o := range objects {
		o := o.(map[string]any)
		spec, _ := o["spec"].(map[string]any)
		if o["apiVersion"] = want; strings.HasSuffix(want, "v2") {
			host, port, _ := strings.Cut(fmt.Sprint(spec["hostPort"]), ":")
			o["spec"] = map[string]any{"host": host, "port": port}
		} else {
			o["spec"] = map[string]any{"hostPort": fmt.Sprint(spec["host"], ":", spec["port"])}
		}
	}
	if spoil := c.spoil.Load(); spoil != nil {
		objects = (*spoil)(objects)
	}
	delete(review, "request")
	review["response"] = map[string]any{"uid": request["uid"], "convertedObjects": objects, "result": map[string]any{"status": "Success"}}
	json.NewEncoder(w).Encode(review) // an error here is the client's
}

func TestConversionWebhook(t *testing.T) {
	hook := &converter{}
	h := httptest.NewTLSServer(hook)
	defer h.Close()
	bundle := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	s := start(t, nil)
	s.define(t, strings.NewReplacer("URL", h.URL, "BUNDLE", bundle).Replace(hostDefinition))
	ctx := t.Context()
	in := func(version string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "hosts"}
	}
	v1, v2 := s.Resource(in("v1")).Namespace("default"), s.Resource(in("v2")).Namespace("default")
	create := func(version, name, spec string) {
		t.Helper()
		u := parse(t, "apiVersion: example.com/"+version+"\nkind: Host\nmetadata: {name: "+name+"}\nspec: "+spec)
		if _, err := s.Resource(in(version)).Namespace("default").Create(ctx, u, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("v1", "a", "{hostPort: 'x:1'}")
	create("v2", "b", "{host: q, port: '2'}")

	before := hook.calls.Load()
	list, err := v2.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if calls := hook.calls.Load() - before; calls != 1 {
		t.Errorf("a list took %d calls, want one for all its objects", calls)
	}
	if got := specs(list); got != `a {"host":"x","port":"1"} b {"host":"q","port":"2"} ` {
		t.Errorf("list as v2: %s", got)
	}
	if list, err = v1.List(ctx, metav1.ListOptions{}); err != nil || specs(list) != `a {"hostPort":"x:1"} b {"hostPort":"q:2"} ` {
		t.Errorf("list as v1: %s, %v", specs(list), err)
	}

	meta := func(name string, value any) func([]any) []any {
		return func(o []any) []any {
			o[0].(map[string]any)["metadata"].(map[string]any)[name] = value
			return o
		}
	}
	field := func(name string, value any) func([]any) []any {
		return func(o []any) []any { o[0].(map[string]any)[name] = value; return o }
	}
	for name, c := range map[string]struct {
		spoil func([]any) []any
		want  string
	}{
		"more":            {func(o []any) []any { return append(o, o[0]) }, "returned 2 objects, expected 1"},
		"none":            {func([]any) []any { return []any{nil} }, "returned invalid converted object at index 0"},
		"no object":       {func([]any) []any { return []any{"text"} }, "returned invalid converted object at index 0"},
		"another kind":    {field("kind", "Guest"), "must have the same kind: Host != Guest"},
		"another space":   {meta("namespace", "kube-system"), "must have the same namespace: default != kube-system"},
		"another uid":     {meta("uid", "1"), "must have the same UID: "},
		"no metadata":     {func(o []any) []any { delete(o[0].(map[string]any), "metadata"); return o }, "must have the same name: a != "},
		"text as labels":  {meta("labels", "text"), "invalid metadata.labels of type string in converted object"},
		"numbers as text": {meta("annotations", map[string]any{"a": 1}), "metadata.annotations[a] must be a string, but is int64 in converted object"},
		"bad labels":      {meta("labels", map[string]any{"a b": "c"}), "name part must consist of alphanumeric characters"},
		"too much":        {field("spec", map[string]any{"host": strings.Repeat("x", 65<<20)}), "the answer is larger than 67108864 bytes"},
		"lost":            {func([]any) []any { return nil }, "conversion webhook for example.com/v1, Kind=Host returned 0 objects, expected 1"},
		"other":           {func(o []any) []any { o[0].(map[string]any)["metadata"].(map[string]any)["name"] = "other"; return o }, "must have the same name: a != other"},
		"same":            {func(o []any) []any { o[0].(map[string]any)["apiVersion"] = "example.com/v3"; return o }, "invalid groupVersion (expected example.com/v2, received example.com/v3)"},
	} {
		hook.spoil.Store(&c.spoil)
		if _, err := v2.Get(ctx, "a", metav1.GetOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if list, err := v1.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 2 {
			t.Errorf("%s: what needs no conversion: %v, %v", name, list, err)
		}
	}
	// Two that change places are two that are not themselves.
	swap := func(o []any) []any { slices.Reverse(o); return o }
	hook.spoil.Store(&swap)
	if _, err := v2.List(ctx, metav1.ListOptions{}); err == nil || !strings.Contains(err.Error(), "must have the same name: a != b") {
		t.Errorf("swapped: %v", err)
	}
	// What is no label and no annotation is the server's.
	own := meta("finalizers", []any{"example.com/mine"})
	hook.spoil.Store(&own)
	if got, err := v2.Get(ctx, "a", metav1.GetOptions{}); err != nil || len(got.GetFinalizers()) > 0 {
		t.Errorf("finalizers of a webhook: %v, %v", got, err)
	}
	hook.spoil.Store(nil)
	if _, err := v2.Get(ctx, "a", metav1.GetOptions{}); err != nil {
		t.Errorf("the error of before is still there: %v", err)
	}

	// What was stored before the storage version changed is converted when it
	// is read, and stored anew when it is written.
	storage := `[{"op":"replace","path":"/spec/versions/0/storage","value":false},{"op":"replace","path":"/spec/versions/1/storage","value":true}]`
	changed, err := s.Resource(definitions).Patch(ctx, "hosts.example.com", types.JSONPatchType, []byte(storage), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := unstructured.NestedStringSlice(changed.Object, "status", "storedVersions"); len(got) != 2 {
		t.Errorf("stored versions %v, want both", got)
	}
	create("v2", "c", "{host: z, port: '3'}")
	if list, err = v2.List(ctx, metav1.ListOptions{}); err != nil || specs(list) != `a {"host":"x","port":"1"} b {"host":"q","port":"2"} c {"host":"z","port":"3"} ` {
		t.Errorf("list as v2 of both: %s, %v", specs(list), err)
	}
	if list, err = v1.List(ctx, metav1.ListOptions{}); err != nil || specs(list) != `a {"hostPort":"x:1"} b {"hostPort":"q:2"} c {"hostPort":"z:3"} ` {
		t.Errorf("list as v1 of both: %s, %v", specs(list), err)
	}
	patched, err := v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"hostPort":"w:9"}}`), metav1.PatchOptions{})
	if err != nil || patched.Object["spec"].(map[string]any)["hostPort"] != "w:9" {
		t.Errorf("patch of what is stored as the old version: %v, %v", patched, err)
	}
}

// A conversion webhook cannot lead the server to what shows no certificate.
func TestConversionIsNotLedAstray(t *testing.T) {
	var reached atomic.Int64
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer plain.Close()
	h := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusTemporaryRedirect))
	defer h.Close()
	bundle := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	s := start(t, nil)
	s.define(t, strings.NewReplacer("URL", h.URL, "BUNDLE", bundle).Replace(hostDefinition))
	in := schema.GroupVersionResource{Group: "example.com", Version: "v2", Resource: "hosts"}
	_, err := s.Resource(in).Namespace("default").Create(t.Context(),
		parse(t, "apiVersion: example.com/v2\nkind: Host\nmetadata: {name: a}\nspec: {host: x}"), metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "a webhook may not lead to http") || reached.Load() > 0 {
		t.Errorf("got %v, the other server reached %d times", err, reached.Load())
	}
}

func specs(list *unstructured.UnstructuredList) string {
	if list == nil {
		return ""
	}
	var b strings.Builder
	for _, item := range list.Items {
		spec, _ := json.Marshal(item.Object["spec"])
		fmt.Fprintf(&b, "%s %s ", item.GetName(), spec)
	}
	return b.String()
}

// TestHangingConversion: while a conversion webhook does not answer, what needs no conversion is served, the same
// objects in the version they are stored in included.
func TestHangingConversion(t *testing.T) {
	hook := &converter{}
	arrived, goOn := make(chan bool), make(chan bool)
	h := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-goOn
		hook.ServeHTTP(w, r)
	}))
	defer h.Close()
	bundle := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	s := start(t, nil)
	s.define(t, strings.NewReplacer("URL", h.URL, "BUNDLE", bundle).Replace(hostDefinition))
	ctx := t.Context()
	in := func(version string) dynamic.ResourceInterface {
		return s.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "hosts"}).Namespace("default")
	}
	host := parse(t, "apiVersion: example.com/v1\nkind: Host\nmetadata: {name: a}\nspec: {hostPort: 'x:1'}")
	if _, err := in("v1").Create(ctx, host, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := in("v2").Get(ctx, "a", metav1.GetOptions{})
		answered <- err
	}()
	<-arrived
	for _, patch := range []string{"y:2", "z:3"} {
		if _, err := in("v1").Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"hostPort":"`+patch+`"}}`), metav1.PatchOptions{}); err != nil {
			t.Errorf("a write meanwhile: %v", err)
		}
	}
	if list, err := in("v1").List(ctx, metav1.ListOptions{}); err != nil || specs(list) != `a {"hostPort":"z:3"} ` {
		t.Errorf("a list meanwhile: %s, %v", specs(list), err)
	}
	s.define(t, boatDefinition)
	goOn <- true
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// TestBookmarksAreNotConverted: the bookmark that ends initial events says so whatever the webhook is like.
func TestBookmarksAreNotConverted(t *testing.T) {
	hook := &converter{}
	h := httptest.NewTLSServer(hook)
	defer h.Close()
	bundle := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	s := start(t, nil)
	s.define(t, strings.NewReplacer("URL", h.URL, "BUNDLE", bundle).Replace(hostDefinition))
	w, err := s.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v2", Resource: "hosts"}).Watch(t.Context(), metav1.ListOptions{
		SendInitialEvents: new(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	e := <-w.ResultChan()
	got, ok := e.Object.(*unstructured.Unstructured)
	if !ok || e.Type != watch.Bookmark || got.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" || got.GetAPIVersion() != "example.com/v2" || got.GetResourceVersion() == "" {
		t.Errorf("got %s %v", e.Type, e.Object)
	}
	if calls := hook.calls.Load(); calls != 0 {
		t.Errorf("the webhook was asked %d times", calls)
	}
}
