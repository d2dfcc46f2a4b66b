package discovery_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/discovery"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

func get(h http.Handler, path string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.Header = header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func accept(media string) http.Header {
	if media == "" {
		return http.Header{}
	}
	return http.Header{"Accept": {media}}
}

func builtins(t *testing.T) *discovery.Handler {
	h := discovery.New("192.0.2.1:6443")
	h.Publish(apiservertest.Start(t, nil).Resources())
	return h
}

// TestDocuments compares with what kube-apiserver 1.36 answers (testdata).
func TestDocuments(t *testing.T) {
	h := builtins(t)
	for _, c := range []struct{ path, media, file string }{
		{"/api", "", "api"},
		{"/api/", "", "api"},
		{"/api", aggregated, "api-aggregated"},
		{"/api/v1", "", "api-v1"},
		{"/apis/apps", "", "apps"},
		{"/apis/apps/v1", "", "apps-v1"},
		{"/apis/apps/v1/", "", "apps-v1"},
		{"/apis/autoscaling", "", "autoscaling"},
		{"/apis/autoscaling/v1", "", "autoscaling-v1"},
		{"/apis/authorization.k8s.io/v1", "", "authorization-v1"},
		{"/apis/batch/v1", "", "batch-v1"},
	} {
		t.Run(c.file, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", c.file+".json"))
			if err != nil {
				t.Fatal(err)
			}
			w := get(h, c.path, accept(c.media))
			var want, got any
			if err := json.Unmarshal(data, &want); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatalf("%v in:\n%s", err, w.Body)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (- want, + got):\n%s", c.path, diff)
			}
		})
	}
}

func TestNegotiation(t *testing.T) {
	h := builtins(t)
	const protobuf = "application/vnd.kubernetes.protobuf"
	const all = protobuf + ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList," + aggregated + ",application/json"
	for _, c := range []struct {
		name, path, accept string
		code               int
		media              string
	}{
		{"none", "/apis", "", 200, "application/json"},
		{"anything", "/apis", "*/*", 200, "application/json"},
		{"YAML", "/apis", "application/yaml", 200, "application/yaml"},
		{"protobuf", "/apis", protobuf, 200, protobuf},
		{"aggregated", "/apis", aggregated, 200, aggregated},
		{"what client-go asks for", "/apis", all, 200, protobuf + ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"},
		{"a version that is gone, or plain", "/apis", strings.ReplaceAll(aggregated, "v2", "v2beta1") + ",application/json", 200, "application/json"},
		{"a version that is gone", "/apis", strings.ReplaceAll(aggregated, "v2", "v2beta1"), 406, "application/json"},
		{"aggregated below the roots", "/apis/apps", aggregated, 406, "application/json"},
		{"by weight", "/apis", "application/json;q=0.5, application/yaml", 200, "application/yaml"},
		{"text", "/apis", "text/plain", 406, "application/json"},
		{"a range of types", "/apis", "application/*", 200, "application/json"},
		{"a range of types for a group", "/apis/apps", "application/*", 200, "application/json"},
		{"a range of types for a group version", "/apis/apps/v1", "application/*", 406, "application/json"},
		{"a range of types for the core versions", "/api", "application/*", 406, "application/json"},
		{"unknown group", "/apis/nope", "", 404, "text/plain; charset=utf-8"},
		{"unknown version", "/apis/apps/v9", "", 404, "application/json"},
		{"unknown core version", "/api/v2", "", 404, "application/json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := get(h, c.path, accept(c.accept))
			if got := w.Header().Get("Content-Type"); w.Code != c.code || got != c.media {
				t.Errorf("got %d %s, want %d %s", w.Code, got, c.code, c.media)
			}
		})
	}
}

func TestProtobuf(t *testing.T) {
	w := get(builtins(t), "/api", accept("application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"))
	raw, ok := strings.CutPrefix(w.Body.String(), "k8s\x00")
	if !ok {
		t.Fatalf("the answer does not begin as protobuf: %q", w.Body.String()[:20])
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal([]byte(raw)); err != nil {
		t.Fatal(err)
	}
	var list apidiscovery.APIGroupDiscoveryList
	if err := list.Unmarshal(envelope.Raw); err != nil {
		t.Fatal(err)
	}
	if envelope.Kind != "APIGroupDiscoveryList" || len(list.Items) != 1 || len(list.Items[0].Versions[0].Resources) == 0 {
		t.Errorf("got %s with %v, want the core group", envelope.Kind, list.Items)
	}
}

// TestETag checks that a client that has the document is told so, until the
// resources change.
func TestETag(t *testing.T) {
	h := discovery.New("192.0.2.1:6443")
	things := &resource.Resource{Group: "example.com", Version: "v1", Kind: "Thing", Plural: "things", Singular: "thing", Verbs: resource.AllVerbs}
	things.Stored = things
	h.Publish([]*resource.Resource{things})
	first := get(h, "/apis", accept(aggregated))
	tag := first.Header().Get("ETag")
	again := func() *httptest.ResponseRecorder {
		return get(h, "/apis", http.Header{"Accept": {aggregated}, "If-None-Match": {tag}})
	}
	if w := again(); w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("with its ETag: got %d and %d bytes, want 304 and none", w.Code, w.Body.Len())
	}
	other := *things
	other.Plural, other.Stored = "others", &other
	h.Publish([]*resource.Resource{things, &other})
	if w := again(); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "others") {
		t.Errorf("after a change: got %d, want 200 with the new resource", w.Code)
	}
}

// TestOrder checks that custom groups follow the built-in ones by name, and
// that newer and more stable versions come first.
func TestOrder(t *testing.T) {
	var all []*resource.Resource
	for _, gv := range []string{"zoo.example.com/v1", "acme.example.com/v1beta1", "acme.example.com/v2", "acme.example.com/v1", "acme.example.com/v10", "batch/v1", "apps/v1"} {
		group, version, _ := strings.Cut(gv, "/")
		r := &resource.Resource{Group: group, Version: version, Kind: "K", Plural: "ks", Verbs: resource.AllVerbs}
		r.Stored = r
		all = append(all, r)
	}
	h := discovery.New("")
	h.Publish(all)
	var list struct {
		Groups []struct {
			Name     string
			Versions []struct{ Version string }
		}
	}
	if err := json.Unmarshal(get(h, "/apis", accept("")).Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range list.Groups {
		for _, v := range g.Versions {
			got = append(got, g.Name+"/"+v.Version)
		}
	}
	want := []string{"apps/v1", "batch/v1", "acme.example.com/v10", "acme.example.com/v2", "acme.example.com/v1", "acme.example.com/v1beta1", "zoo.example.com/v1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
