package openapi

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/builtin/authentication"
	"github.com/skiff-k8s/skiff/apiserver/builtin/authorization"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// described are all built-in kinds. They are only described: none of what they
// depend on is asked.
func described() []*resource.Resource {
	return builtin.Resources(builtin.Deps{
		Tokens: authenticator.TokenFunc(nil), Issuer: struct{ authentication.Issuer }{}, Authorizer: struct{ authorization.Authorizer }{},
	})
}

// standard serves the built-in kinds.
func standard(t *testing.T) (*Handler, []*resource.Resource) {
	t.Helper()
	h, rows := New(), described()
	h.Publish(rows)
	return h, rows
}

// get asks h for a URL with headers given as pairs.
func get(t *testing.T, h http.Handler, url string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func content(t *testing.T, r *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// read gets a JSON document.
func read[T any](t *testing.T, h http.Handler, url string) T {
	t.Helper()
	r := get(t, h, url)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", url, r.Status)
	}
	var v T
	if err := json.Unmarshal(content(t, r), &v); err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return v
}

type index struct {
	Paths map[string]struct{ ServerRelativeURL string }
}

func TestNegotiation(t *testing.T) {
	h, _ := standard(t)
	const proto2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	const proto3 = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	for _, c := range []struct{ name, url, accept, want string }{
		{"version 2 without Accept", PathV2, "", "application/json"},
		{"version 2 in JSON", PathV2, "application/json", "application/json"},
		{"version 2 in protobuf", PathV2, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", proto2},
		{"version 2 in protobuf by the name of the answer", PathV2, proto2, proto2},
		{"version 2 as version 3", PathV2, "application/com.github.proto-openapi.spec.v3@v1.0+protobuf", "406"},
		{"version 2 as a page", PathV2, "text/html", "406"},
		{"version 3 without Accept", PathV3 + "/api/v1", "", "application/json"},
		{"version 3 as anything", PathV3 + "/api/v1", "*/*", "application/json"},
		{"version 3 in protobuf", PathV3 + "/api/v1", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf", proto3},
		{"version 3 in the better type", PathV3 + "/api/v1", "text/html;q=0.9, application/json;q=0.8", "application/json"},
		{"version 3 as an unknown type", PathV3 + "/api/v1", "application/vnd.foo", "406"},
		{"index as anything at all", PathV3, "text/html", "application/json"},
		{"group version that is not served", PathV3 + "/apis/nobody/v1", "", "404"},
		{"index with a slash", PathV3 + "/", "", "404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := get(t, h, c.url, "Accept", c.accept)
			got := r.Header.Get("Content-Type")
			if r.StatusCode != http.StatusOK {
				got, _, _ = strings.Cut(r.Status, " ")
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if vary := r.Header.Values("Vary"); c.want != "404" && !slices.Contains(vary, "Accept-Encoding") {
				t.Errorf("Vary: got %q, want Accept-Encoding in it", vary)
			}
		})
	}
}

func TestCaching(t *testing.T) {
	h, _ := standard(t)
	at := read[index](t, h, PathV3).Paths["apis/apps/v1"].ServerRelativeURL
	path, hash, ok := strings.Cut(at, "?hash=")
	if !ok || path != PathV3+"/apis/apps/v1" {
		t.Fatalf("index: got %q, want %s/apis/apps/v1 with a hash", at, PathV3)
	}
	etag := `"` + hash + `"`
	for _, c := range []struct {
		name, url, match string
		status           int
		cache, location  string
	}{
		{"the right hash", at, "", 200, "public, immutable", ""},
		{"no hash", path, "", 200, "", ""},
		{"another hash", path + "?hash=ABC", "", 301, "", at},
		{"what the client has", path, etag, 304, "", ""},
		{"what the client has, with hash", at, etag, 304, "public, immutable", ""},
		{"something older than the client has", path, `"ABC"`, 200, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := get(t, h, c.url, "If-None-Match", c.match)
			if r.StatusCode != c.status || r.Header.Get("Cache-Control") != c.cache || r.Header.Get("Location") != c.location {
				t.Errorf("got %d, cache %q, location %q; want %d, %q, %q", r.StatusCode, r.Header.Get("Cache-Control"),
					r.Header.Get("Location"), c.status, c.cache, c.location)
			}
			if r.Header.Get("ETag") != etag {
				t.Errorf("ETag: got %s, want %s", r.Header.Get("ETag"), etag)
			}
		})
	}
	r := get(t, h, PathV2)
	if again := get(t, h, PathV2, "If-None-Match", r.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
		t.Errorf("version 2 with its ETag: got %s, want 304", again.Status)
	}
}

func TestCompressed(t *testing.T) {
	h, _ := standard(t)
	r := get(t, h, PathV2, "Accept-Encoding", "gzip")
	if got := r.Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding: got %q, want gzip", got)
	}
	plain, err := expand(content(t, r))
	if err != nil {
		t.Fatal(err)
	}
	if want := content(t, get(t, h, PathV2)); string(plain) != string(want) {
		t.Errorf("compressed: got %d bytes, want the %d bytes of the plain answer", len(plain), len(want))
	}
}

func TestProtobuf(t *testing.T) {
	h, _ := standard(t)
	var v2 openapiv2.Document
	if err := proto.Unmarshal(content(t, get(t, h, PathV2, "Accept", typesV2[1].name)), &v2); err != nil {
		t.Fatal(err)
	}
	var v3 openapiv3.Document
	if err := proto.Unmarshal(content(t, get(t, h, PathV3+"/apis/apps/v1", "Accept", typesV3[1].name)), &v3); err != nil {
		t.Fatal(err)
	}
	const deployment = "io.k8s.api.apps.v1.Deployment"
	in2 := slices.ContainsFunc(v2.GetDefinitions().GetAdditionalProperties(), func(n *openapiv2.NamedSchema) bool { return n.GetName() == deployment })
	in3 := slices.ContainsFunc(v3.GetComponents().GetSchemas().GetAdditionalProperties(), func(n *openapiv3.NamedSchemaOrReference) bool {
		return n.GetName() == deployment
	})
	if !in2 || !in3 {
		t.Errorf("%s: in version 2 %v, in version 3 %v; want both", deployment, in2, in3)
	}
}

// TestStable makes all documents twice: their hashes must not depend on the
// order of maps.
func TestStable(t *testing.T) {
	one, rows := standard(t)
	slices.Reverse(rows)
	two := New()
	two.Publish(rows)
	for _, path := range []string{PathV3, PathV2} {
		if a, b := get(t, one, path).Header.Get("ETag"), get(t, two, path).Header.Get("ETag"); a != b {
			t.Errorf("%s: got ETag %s, then %s", path, a, b)
		}
	}
}

// TestNothingEarly: what nobody asked for must not have been made.
func TestNothingEarly(t *testing.T) {
	h, _ := standard(t)
	get(t, h, PathV3+"/apis/apps/v1")
	for path, d := range h.published.Load().v3 {
		if made := d.json != nil; made != (path == "apis/apps/v1") {
			t.Errorf("%s: made %v", path, made)
		}
	}
}

func TestCustomResources(t *testing.T) {
	schemas := map[string]*spec.Schema{}
	h := New()
	builtins := described()
	h.Publish(builtins)
	kept := get(t, h, PathV3+"/apis/apps/v1").Header.Get("ETag")

	if err := json.Unmarshal([]byte(`{"type":"object","description":"A tab.","required":["spec"],"properties":{
		"spec":{"type":"object","properties":{
			"cron":{"type":"string","default":"* * * * *"},
			"limit":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]},
			"maybe":{"type":"object","nullable":true,"properties":{"a":{"type":"string"}}},
			"any":{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"a":{"type":"string"}}},
			"pod":{"type":"object","x-kubernetes-embedded-resource":true}}}}}`), decodeTo(schemas, "CronTab")); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{"type":"object","description":"Anything.","x-kubernetes-preserve-unknown-fields":true}`), decodeTo(schemas, "Any")); err != nil {
		t.Fatal(err)
	}
	custom := func(kind, plural string) *resource.Resource {
		return &resource.Resource{Group: "stable.example.com", Version: "v1", Kind: kind, ListKind: kind + "List", Plural: plural, Verbs: resource.AllVerbs,
			Custom: &resource.Custom{Schema: func() *spec.Schema { return schemas[kind] }}}
	}
	h.Publish(append(slices.Clone(builtins), custom("CronTab", "crontabs"), custom("Any", "anys")))
	type document struct {
		Paths       map[string]map[string]json.RawMessage
		Components  struct{ Schemas map[string]spec.Schema }
		Definitions map[string]spec.Schema
	}
	v3, v2 := read[document](t, h, PathV3+"/apis/stable.example.com/v1"), read[document](t, h, PathV2)
	const name, path = "com.example.stable.v1.CronTab", "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"
	if patch := string(v3.Paths[path]["patch"]); !strings.Contains(patch, `"fieldValidation"`) || strings.Contains(patch, "strategic") {
		t.Errorf("patch of a custom resource: got %s; want the fieldValidation parameter and no strategic merge patch", patch)
	}
	for _, c := range []struct{ name, got, want string }{
		{"kind in version 3", text(t, v3.Components.Schemas[name].Extensions[extensionGVK]), `[{"group":"stable.example.com","kind":"CronTab","version":"v1"}]`},
		{"default in version 3", text(t, v3.Components.Schemas[name].Properties["spec"].Properties["cron"]), `{"type":"string","default":"* * * * *"}`},
		{"default in version 2", text(t, v2.Definitions[name].Properties["spec"].Properties["cron"]), `{"type":"string"}`},
		{"int or string in version 2", text(t, v2.Definitions[name].Properties["spec"].Properties["limit"]), `{"x-kubernetes-int-or-string":true}`},
		{"nullable in version 2", text(t, v2.Definitions[name].Properties["spec"].Properties["maybe"]), `{}`},
		{"unknown fields in version 2", text(t, v2.Definitions[name].Properties["spec"].Properties["any"]), `{"x-kubernetes-preserve-unknown-fields":true}`},
		{"what holds anything in version 2", text(t, v2.Definitions["com.example.stable.v1.Any"]),
			`{"type":"object","x-kubernetes-group-version-kind":[{"group":"stable.example.com","kind":"Any","version":"v1"}]}`},
		{"int or string in version 3", text(t, v3.Components.Schemas[name].Properties["spec"].Properties["limit"].AnyOf), `[{"type":"integer"},{"type":"string"}]`},
		{"embedded object in version 3", text(t, v3.Components.Schemas[name].Properties["spec"].Properties["pod"].Required), `["apiVersion","kind"]`},
		{"items of the list", text(t, v3.Components.Schemas[name+"List"].Properties["items"].Items), `{"$ref":"#/components/schemas/` + name + `"}`},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, c.got, c.want)
		}
	}
	if metadata := v3.Components.Schemas[name].Properties["metadata"]; len(metadata.AllOf) != 1 || !strings.HasPrefix(metadata.Description, "Standard object's metadata") {
		t.Errorf("metadata: got %s, want a reference to ObjectMeta", text(t, metadata))
	}

	h.Publish(builtins)
	if r := get(t, h, PathV3+"/apis/stable.example.com/v1"); r.StatusCode != http.StatusNotFound {
		t.Errorf("removed custom resource: got %s, want 404", r.Status)
	}
	if read[document](t, h, PathV2).Definitions[name].Type != nil {
		t.Errorf("removed custom resource is still in version 2")
	}
	if h.published.Load().v3["apis/apps/v1"].json == nil {
		t.Errorf("apps/v1 was forgotten though nothing in it changed")
	}
	if got := get(t, h, PathV3+"/apis/apps/v1").Header.Get("ETag"); got != kept {
		t.Errorf("apps/v1: got ETag %s, want %s as before", got, kept)
	}
}

func decodeTo(schemas map[string]*spec.Schema, kind string) *spec.Schema {
	schemas[kind] = new(spec.Schema)
	return schemas[kind]
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A cluster may have thousands of custom kinds. The index names their documents
// without making them, by what they are made of.
func TestIndexMakesNoDocumentsOfCustomResources(t *testing.T) {
	h := New()
	publish := func(revision string) {
		h.Publish([]*resource.Resource{{Group: "stable.example.com", Version: "v1", Kind: "Tab", ListKind: "TabList", Plural: "tabs", Verbs: resource.AllVerbs,
			Custom: &resource.Custom{Schema: func() *spec.Schema { return &spec.Schema{} }, Revision: revision}}})
	}
	const path = "apis/stable.example.com/v1"
	index := func() string {
		type document struct {
			Paths map[string]struct{ ServerRelativeURL string }
		}
		return read[document](t, h, PathV3).Paths[path].ServerRelativeURL
	}
	publish("1")
	first := index()
	if h.published.Load().v3[path].json != nil {
		t.Error("the index made the document")
	}
	if r := get(t, h, first); r.StatusCode != http.StatusOK || !strings.Contains(first, strings.Trim(r.Header.Get("ETag"), `"`)) {
		t.Errorf("%s: got %s with ETag %s, want 200 and the hash of the index", first, r.Status, r.Header.Get("ETag"))
	}
	publish("1")
	if again := index(); again != first {
		t.Errorf("a row of the same revision: got %s, want %s", again, first)
	}
	publish("2")
	if changed := index(); changed == first {
		t.Errorf("a changed row: got %s, as before", changed)
	}
}
