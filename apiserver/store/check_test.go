package store

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var checked = resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{Version: "v1", Kind: "ConfigMap", Plural: "configmaps"})

func stored(t *testing.T, name, uid string) []byte {
	t.Helper()
	value, err := encode(checked, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(uid)}})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func write(t *testing.T, b backend.Backend, key string, value []byte) {
	t.Helper()
	if _, err := b.Put(t.Context(), key, value, backend.Absent, 0); err != nil {
		t.Fatal(err)
	}
}

func untold(int, int) {}

// Each thing that can be wrong with what is stored is found, alone.
func TestCheck(t *testing.T) {
	custom := func(uid string) []byte {
		return []byte(`{"apiVersion":"g/v1","kind":"Thing","metadata":{"name":"a","namespace":"n","uid":"` + uid + `"}}`)
	}
	for _, c := range []struct {
		name, key string
		value     []byte
		want      string // part of the problem; empty: there is none
	}{
		{"sound", "/registry/configmaps/n/b", stored(t, "b", "2"), ""},
		{"bytes", "/registry/configmaps/n/b", []byte("k8s\x00\xff\xff"), "/registry/configmaps/n/b: decode stored ConfigMap"},
		{"empty", "/registry/configmaps/n/b", nil, "/registry/configmaps/n/b: decode stored ConfigMap"},
		{"another name", "/registry/configmaps/n/c", stored(t, "b", "2"), "named as what belongs at /registry/configmaps/n/b"},
		{"another namespace", "/registry/configmaps/m/b", stored(t, "b", "2"), "named as what belongs at /registry/configmaps/n/b"},
		{"same uid", "/registry/configmaps/n/b", stored(t, "b", "1"), "/registry/configmaps/n/b: has the uid of /registry/configmaps/n/a"},
		{"no uid", "/registry/configmaps/n/b", stored(t, "b", ""), "has no uid"},
		{"version", "/registry/configmaps/n/b", []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","namespace":"n","uid":"2","resourceVersion":"7"}}`), `resourceVersion "7"`},
		{"custom", "/registry/g/things/n/a", custom("2"), ""},
		{"custom with the uid of another", "/registry/g/things/n/a", custom("1"), "has the uid of"},
		{"custom elsewhere", "/registry/g/things/m/a", custom("2"), "named as what belongs at /registry/g/things/n/a"},
		{"custom bytes", "/registry/g/things/n/a", []byte("{"), "/registry/g/things/n/a: "},
		{"custom nothing", "/registry/g/things/n/a", []byte("{}"), "is no object of the API"},
		{"of others", "/registry/ranges/serviceips", []byte("k8s\x00"), ""},
		{"history", historyKey, []byte("{"), historyKey},
		{"history of the future", historyKey, []byte(`{"compacted":100}`), "100 has been compacted, the newest revision is 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := memory.New()
			defer b.Close()
			write(t, b, "/registry/configmaps/n/a", stored(t, "a", "1"))
			write(t, b, c.key, c.value)
			report, err := Check(t.Context(), Config{Backend: b, Resources: []*resource.Resource{checked}}, untold)
			if err != nil {
				t.Fatal(err)
			}
			if report.Entries != 2 || report.Revision != 2 || report.Found != len(report.Problems) {
				t.Errorf("the report is %+v", report)
			}
			if c.want == "" && report.Found == 0 {
				return
			}
			if report.Found != 1 || !strings.Contains(report.Problems[0], c.want) || c.want == "" {
				t.Errorf("the problems are %q, want %q", report.Problems, c.want)
			}
		})
	}
}

// lying lists entries that no backend would have.
type lying struct {
	backend.Backend
	entries []backend.Entry
}

func (l lying) List(context.Context, string, string, int, int64) (backend.Page, error) {
	return backend.Page{Entries: l.entries, Revision: 2}, nil
}

func TestCheckFindsInconsistentRevisions(t *testing.T) {
	b := memory.New()
	defer b.Close()
	write(t, b, "/1", nil)
	write(t, b, "/2", nil)
	report, err := Check(t.Context(), Config{Backend: lying{b, []backend.Entry{{Key: "/a", Revision: 1}, {Key: "/c", Revision: 1}, {Key: "/b", Revision: 3}, {Key: "/d"}}}}, untold)
	want := []string{"/c: has the revision 1 of /a", "/b: is listed after /c", "/b: is at revision 3, the newest is 2", "/d: is at revision 0, the newest is 2"}
	if err != nil || !slices.Equal(report.Problems, want) {
		t.Errorf("the problems are %q, %v, want %q", report.Problems, err, want)
	}
}

// Problems are counted, but not all named.
func TestCheckOfMany(t *testing.T) {
	b := memory.New()
	defer b.Close()
	for i := range 3 * mostProblems {
		write(t, b, "/registry/configmaps/n/"+strings.Repeat("a", i+1), nil)
	}
	report, err := Check(t.Context(), Config{Backend: b, Resources: []*resource.Resource{checked}}, untold)
	if err != nil || report.Found != 3*mostProblems || len(report.Problems) != mostProblems {
		t.Errorf("%d problems, %d named, %v", report.Found, len(report.Problems), err)
	}
}

// A cache that is not what is stored is found, and one that is, while others
// write.
func TestCheckComparesTheCache(t *testing.T) {
	b := memory.New()
	defer b.Close()
	for name, uid := range map[string]string{"a": "1", "b": "2", "c": "3"} {
		write(t, b, "/registry/configmaps/n/"+name, stored(t, name, uid))
	}
	s, err := Open(t.Context(), Config{Backend: b, Resources: []*resource.Resource{checked}, History: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "busy", UID: "4"}}
		_, err := s.Create(context.Background(), checked, obj, false)
		for n := 0; err == nil && ctx.Err() == nil; n++ {
			_, err = s.Update(context.Background(), checked, "n", "busy", false, func(current *Item) (resource.Object, error) {
				obj := current.Object().DeepCopyObject().(*corev1.ConfigMap)
				obj.Data = map[string]string{"n": time.Now().String()}
				return obj, nil
			})
		}
		done <- err
	}()
	for range 20 {
		if report, err := s.Check(t.Context()); err != nil || report.Found > 0 || report.Compared < 3 {
			t.Fatalf("check while others write: %+v, %v", report, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	k, err := s.kind(checked)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	a, _ := k.items.get("n/a")
	value := bytes.Clone(a.kept.value())
	value[len(value)-5] ^= 1 // of the same size
	other := a.Object().DeepCopyObject().(resource.Object)
	k.items.put(k.item(other, a.revision, "n/a", value))
	k.items.remove("n/b")
	k.items.put(k.item(other, a.revision, "n/x", value))
	k.snapshot = nil
	k.mu.Unlock()
	report, err := s.Check(t.Context())
	if err != nil || report.Found != 3 {
		t.Fatalf("check of a wrong cache: %+v, %v", report, err)
	}
	for i, want := range []string{"/registry/configmaps/n/a: is stored", "/registry/configmaps/n/b: is stored", "has 1 objects that are not stored"} {
		if !strings.Contains(report.Problems[i], want) {
			t.Errorf("problem %d is %q, want %q", i, report.Problems[i], want)
		}
	}
	if _, err := json.Marshal(report); err != nil {
		t.Error(err)
	}
}
