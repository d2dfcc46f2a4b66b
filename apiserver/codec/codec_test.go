package codec

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var configMaps = resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{Version: "v1", Kind: "ConfigMap", Plural: "configmaps"})

// item encodes anew each time it is asked.
type item struct{ object resource.Object }

func (i item) Object() resource.Object { return i.object }

func (i item) Encoded(_ any, make func(resource.Object) ([]byte, error)) ([]byte, error) {
	return make(i.object)
}

func object(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", Labels: map[string]string{"a": "b"}},
		Data:       map[string]string{"k": "<v>"},
	}
}

// decode reads protobuf with upstream's decoder, which knows nothing of ours.
func decode(t *testing.T, data []byte) runtime.Object {
	t.Helper()
	obj, _, err := protobuf.NewSerializer(Scheme, Scheme).Decode(data, nil, nil)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	return obj
}

func TestListsAreWhatTheTypeWouldEncode(t *testing.T) {
	remaining := int64(7)
	meta := metav1.ListMeta{ResourceVersion: "12", Continue: "token", RemainingItemCount: &remaining}
	for _, names := range [][]string{nil, {"one"}, {"one", "two", "three"}} {
		want := &corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{Kind: "ConfigMapList", APIVersion: "v1"}, ListMeta: meta, Items: []corev1.ConfigMap{}}
		var items []item
		for _, name := range names {
			items = append(items, item{object(name)})
			plain := *object(name)
			plain.TypeMeta = metav1.TypeMeta{} // items of a list do not say what they are
			want.Items = append(want.Items, plain)
		}
		body, err := EncodeList(Output{Media: JSON}, items, configMaps, meta, TableOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wantJSON, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(wantJSON)+"\n", string(bytes.Join(body, nil))); diff != "" {
			t.Errorf("JSON list of %v: -want +got\n%s", names, diff)
		}
		body, err = EncodeList(Output{Media: Protobuf}, items, configMaps, meta, TableOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := decode(t, bytes.Join(body, nil))
		if !equality.Semantic.DeepEqual(want, got) {
			t.Errorf("protobuf list of %v: -want +got\n%s", names, cmp.Diff(want, got))
		}
	}
}

func TestItems(t *testing.T) {
	want := object("x")
	body, err := Output{Media: Protobuf}.EncodeItem(item{want}, configMaps, TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := decode(t, bytes.Join(body, nil)); !equality.Semantic.DeepEqual(want, got) {
		t.Errorf("protobuf: -want +got\n%s", cmp.Diff(runtime.Object(want), got))
	}
	for name, c := range map[string]struct {
		out  Output
		want string
	}{
		"JSON": {Output{Media: JSON}, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","namespace":"n","labels":{"a":"b"}},"data":{"k":"\u003cv\u003e"}}` + "\n"},
		"pretty": {Output{Media: JSON, Pretty: true}, "{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"name\": \"x\",\n    \"namespace\": \"n\",\n" +
			"    \"labels\": {\n      \"a\": \"b\"\n    }\n  },\n  \"data\": {\n    \"k\": \"\\u003cv\\u003e\"\n  }\n}"},
		"YAML":    {Output{Media: YAML}, "apiVersion: v1\ndata:\n  k: <v>\nkind: ConfigMap\nmetadata:\n  labels:\n    a: b\n  name: x\n  namespace: \"n\"\n"},
		"partial": {Output{Media: JSON, As: metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata")}, `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"x","namespace":"n","labels":{"a":"b"}}}` + "\n"},
	} {
		body, err := c.out.EncodeItem(item{want}, configMaps, TableOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, string(bytes.Join(body, nil))); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

func TestFrames(t *testing.T) {
	f := Framer{Output: Output{Media: JSON}, Resource: configMaps}
	frame, err := f.Bookmark(12, true)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}}}}` + "\n"
	if diff := cmp.Diff(want, string(frame)); diff != "" {
		t.Errorf("bookmark: -want +got\n%s", diff)
	}
	f.Media = Protobuf
	frame, err = f.Item(watch.Added, item{object("x")})
	if err != nil {
		t.Fatal(err)
	}
	if got := binary.BigEndian.Uint32(frame); int(got) != len(frame)-4 {
		t.Errorf("frame says it has %d bytes, has %d", got, len(frame)-4)
	}
	event := &metav1.WatchEvent{}
	if err := event.Unmarshal(frame[4:]); err != nil {
		t.Fatal(err)
	}
	if event.Type != "ADDED" || !equality.Semantic.DeepEqual(decode(t, event.Object.Raw), object("x")) {
		t.Errorf("event = %s of %v, want ADDED of %v", event.Type, decode(t, event.Object.Raw), object("x"))
	}
}

func TestTables(t *testing.T) {
	out := Output{Media: JSON, As: metav1.SchemeGroupVersion.WithKind("Table")}
	f := Framer{Output: out, Resource: configMaps}
	for n, want := range []int{2, 0} { // columns are told once
		frame, err := f.Object(watch.Added, object("x"))
		if err != nil {
			t.Fatal(err)
		}
		var event struct{ Object metav1.Table }
		if err := json.Unmarshal(frame, &event); err != nil {
			t.Fatal(err)
		}
		if got := len(event.Object.ColumnDefinitions); got != want || len(event.Object.Rows) != 1 || event.Object.Rows[0].Cells[0] != "x" {
			t.Errorf("event %d has %d columns and rows %v, want %d and one of x", n, got, event.Object.Rows, want)
		}
	}
}

// kept is an item that keeps what was made of it.
type kept struct {
	object resource.Object
	forms  map[any][]byte
}

func (k kept) Object() resource.Object { return k.object }

func (k kept) Encoded(form any, make func(resource.Object) ([]byte, error)) (data []byte, err error) {
	if k.forms[form] == nil {
		k.forms[form], err = make(k.object)
	}
	return k.forms[form], err
}

// Rows that are kept are those that are made anew, at any time.
func TestRowsAreWhatATableWouldBe(t *testing.T) {
	maps := resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{Version: "v1", Kind: "ConfigMap", Plural: "configmaps",
		Columns: []resource.Column[*corev1.ConfigMap]{
			resource.NameColumn[*corev1.ConfigMap](),
			{Name: "Size", Type: "integer", Value: func(c *corev1.ConfigMap) any { return len(c.Data) }},
			{Name: "Nothing", Type: "string", Value: func(c *corev1.ConfigMap) any { return nil }},
			{Name: "Touched", Type: "string", Value: func(c *corev1.ConfigMap) any {
				return resource.Since{Before: `"<1> (`, Time: c.CreationTimestamp.Time, After: " ago)"}
			}},
			resource.AgeColumn[*corev1.ConfigMap](),
		}})
	synctest.Test(t, func(t *testing.T) {
		var items []kept
		var objects []resource.Object
		for i, created := range []metav1.Time{{}, metav1.Now(), metav1.NewTime(time.Now().Add(time.Hour)), metav1.NewTime(time.Now().Add(-1000 * time.Hour))} {
			obj := object(fmt.Sprint(i))
			obj.CreationTimestamp = created
			items, objects = append(items, kept{obj, make(map[any][]byte)}), append(objects, obj)
		}
		for range 3 {
			for _, include := range []metav1.IncludeObjectPolicy{"", metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject} {
				for n := range len(items) + 1 {
					out, meta := Output{Media: JSON, As: metav1.SchemeGroupVersion.WithKind("Table")}, metav1.ListMeta{ResourceVersion: "7"}
					options := TableOptions{Include: include, NoHeaders: n == 1}
					table, err := newTable(maps, objects[:n], meta, metav1.SchemeGroupVersion, options)
					if err != nil {
						t.Fatal(err)
					}
					want, err := out.Encode(table)
					if err != nil {
						t.Fatal(err)
					}
					got, err := EncodeList(out, items[:n], maps, meta, options)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(string(bytes.Join(want, nil)), string(bytes.Join(got, nil))); diff != "" {
						t.Errorf("%d rows with %q: -want +got\n%s", n, include, diff)
					}
				}
			}
			time.Sleep(50 * time.Minute)
		}
	})
}

// Bodies of any pieces are written as they are.
func TestBodyIsWrittenWhole(t *testing.T) {
	for _, sizes := range [][]int{nil, {0}, {1}, {10, 20}, {40 << 10, 40 << 10}, {1, 64 << 10, 1}, {64 << 10, 64<<10 + 1}, {200 << 10, 1, 1, 30 << 10, 30 << 10, 30 << 10}} {
		var body Body
		for i, size := range sizes {
			body = append(body, bytes.Repeat([]byte{byte('a' + i)}, size))
		}
		w := httptest.NewRecorder()
		if err := body.Write(w, httptest.NewRequest(http.MethodGet, "/", nil), http.StatusOK, JSON); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytes.Join(body, nil), w.Body.Bytes()) {
			t.Errorf("pieces of %d bytes: %d were written, of %d", sizes, w.Body.Len(), body.Size())
		}
	}
}

func TestNegotiate(t *testing.T) {
	table := metav1.SchemeGroupVersion.WithKind("Table")
	all := Offer{Protobuf: true, Table: true, Partial: true}
	for _, c := range []struct {
		name, accept, agent, query string
		offer                      Offer
		want                       Output
		fails                      bool
	}{
		{"nothing asked", "", "", "", all, Output{Media: JSON}, false},
		{"anything", "*/*", "", "", all, Output{Media: JSON}, false},
		{"protobuf", "application/vnd.kubernetes.protobuf", "", "", all, Output{Media: Protobuf}, false},
		{"protobuf that is not there", "application/vnd.kubernetes.protobuf, */*", "", "", Offer{}, Output{Media: JSON}, false},
		{"only protobuf, not there", "application/vnd.kubernetes.protobuf", "", "", Offer{}, Output{}, true},
		{"quality decides", "application/json;q=0.1,application/yaml;q=0.5", "", "", all, Output{Media: YAML}, false},
		{"table as kubectl asks", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", "", "", all, Output{Media: JSON, As: table}, false},
		{"table not offered", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "", "", Offer{}, Output{Media: JSON}, false},
		{"only a table, not offered", "application/json;as=Table;v=v1;g=meta.k8s.io", "", "", Offer{}, Output{}, true},
		{"table in protobuf", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", "", "", all, Output{}, true},
		{"unknown view", "application/json;as=Foo;v=v1;g=meta.k8s.io", "", "", all, Output{}, true},
		{"pretty by parameter of the type", "application/json;pretty=1", "", "", all, Output{Media: JSON, Pretty: true}, false},
		{"pretty by query", "application/json", "", "pretty=true", all, Output{Media: JSON, Pretty: true}, false},
		{"pretty for people", "application/json", "curl/8.0", "", all, Output{Media: JSON, Pretty: true}, false},
		{"not pretty for people", "application/json", "curl/8.0", "pretty=0", all, Output{Media: JSON}, false},
		{"YAML is never pretty", "application/yaml", "curl/8.0", "", all, Output{Media: YAML}, false},
		{"unknown stream", "application/json;stream=foo", "", "", all, Output{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequest("GET", "https://host/?"+c.query, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept", c.accept)
			r.Header.Set("User-Agent", c.agent)
			got, err := Negotiate(r, c.offer)
			if (err != nil) != c.fails || got != c.want {
				t.Errorf("Negotiate = %+v, %v; want %+v, error %v", got, err, c.want, c.fails)
			}
		})
	}
}

func TestAsLeavesSharedObjectsAlone(t *testing.T) {
	shared := object("x")
	other := As(shared, schema.GroupVersionKind{Group: "g", Version: "v", Kind: "K"})
	if shared.Kind != "ConfigMap" || other.GetObjectKind().GroupVersionKind().Kind != "K" || other.(*corev1.ConfigMap).Data["k"] != "<v>" {
		t.Errorf("shared is a %s, other a %v of %v; want ConfigMap, K and the same data", shared.Kind, other.GetObjectKind(), other)
	}
}
