package store

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// keptRows are of a kind that is compressed, and of one that is not.
func keptRows() map[string]*resource.Resource {
	rows := make(map[string]*resource.Resource)
	for _, packed := range []bool{false, true} {
		rows[fmt.Sprint("packed ", packed)] = resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{
			Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Packed: packed,
			Fields: map[string]func(*corev1.ConfigMap) string{"data.k": func(c *corev1.ConfigMap) string { return c.Data["k"] }, "data.j": func(*corev1.ConfigMap) string { return "" }}})
	}
	return rows
}

// keptItem is an item whose object nobody holds, and who can tell whether there
// is one.
func keptItem(t *testing.T, row *resource.Resource) (k *kind, item *Item, value []byte) {
	t.Helper()
	k = newKind(newShape(row, new(forms), nil), Unencrypted{}, 0)
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x", Labels: map[string]string{"app": "web", "tier": ""}}, Data: map[string]string{"k": "v"}}
	value, err := encode(row, obj)
	if err != nil {
		t.Fatal(err)
	}
	item = k.item(obj, 7, "a/x", value)
	obj = nil
	item.letGo()
	return k, item, value
}

// letGo returns when nobody holds the object.
func (i *Item) letGo() {
	for i.kept.live() != nil {
		runtime.GC()
	}
}

// TestKeptObject: it is the same when it was made anew, and there is one as long
// as somebody has it.
func TestKeptObject(t *testing.T) {
	for name, row := range keptRows() {
		t.Run(name, func(t *testing.T) {
			_, item, value := keptItem(t, row)
			again := item.Object().(*corev1.ConfigMap)
			if again.Data["k"] != "v" || again.ResourceVersion != "7" || again.Kind != "ConfigMap" {
				t.Errorf("made anew it is %v", again)
			}
			runtime.GC()
			if item.Object() != again {
				t.Error("it was made anew while somebody had it")
			}
			if !same(item, value) {
				t.Error("the same bytes are taken for a change")
			}
			runtime.KeepAlive(again)
		})
	}
}

// TestOneObject: those who ask at once get the same.
func TestOneObject(t *testing.T) {
	_, item, _ := keptItem(t, configMaps)
	got := make([]resource.Object, 8)
	var asking sync.WaitGroup
	for i := range got {
		asking.Go(func() { got[i] = item.Object() })
	}
	asking.Wait()
	for _, obj := range got {
		if obj != got[0] {
			t.Fatal("there are two")
		}
	}
}

// TestKeptSelection: objects are selected by labels and fields without being made.
func TestKeptSelection(t *testing.T) {
	for name, row := range keptRows() {
		t.Run(name, func(t *testing.T) {
			k, item, _ := keptItem(t, row)
			for _, c := range []struct {
				labels, fields string
				want           bool
			}{
				{"app=web", "", true}, {"app=api", "", false}, {"app", "", true}, {"tier=", "", true}, {"!tier", "", false}, {"absent", "", false}, {"absent!=x", "", true}, {"app in (api, web),tier", "", true},
				{"", "data.k=v", true}, {"", "data.k=w", false}, {"", "data.k!=v", false}, {"", "data.k!=w", true}, {"", "data.j=", true}, {"", "data.j=v", false}, {"app=web", "data.k=v", true}, {"app=api", "data.k=v", false},
			} {
				m := Match{Namespace: "a"}
				if c.labels != "" {
					var err error
					if m.Labels, err = labels.Parse(c.labels); err != nil {
						t.Fatal(err)
					}
				}
				if c.fields != "" {
					m.Fields = fields.ParseSelectorOrDie(c.fields).Requirements()
				}
				if got := k.matcher(m).item(item); got != c.want || m.plain() {
					t.Errorf("%s and %s: selected %v, want %v", c.labels, c.fields, got, c.want)
				}
			}
			if item.kept.live() != nil {
				t.Error("the object was made")
			}
		})
	}
}

// TestLast: a deleted object is shown at the revision of its delete.
func TestLast(t *testing.T) {
	_, item, _ := keptItem(t, configMaps)
	e := &Event{Old: item, Revision: 9}
	if last := e.Last(); last.Object().GetResourceVersion() != "9" || last.Object().GetName() != "x" || e.Last() != last {
		t.Errorf("it is %v", last.Object())
	}
	if got := item.Object().GetResourceVersion(); got != "7" {
		t.Errorf("the object before is at %s", got)
	}
}

// TestTooLargeAlreadyPacked: whether a deletion begins is told of objects that nobody has, too.
func TestTooLargeAlreadyPacked(t *testing.T) {
	for name, row := range keptRows() {
		t.Run(name, func(t *testing.T) {
			_, item, _ := keptItem(t, row)
			w := &pending{obj: item.Object().DeepCopyObject().(resource.Object), stored: make([]byte, 2<<20), value: make([]byte, 2<<20)}
			if fits("k", w, item) {
				t.Error("it fits and is larger than before")
			}
			w.obj.SetDeletionTimestamp(&metav1.Time{Time: time.Now()})
			if !fits("k", w, item) {
				t.Error("its deletion cannot begin")
			}
		})
	}
}

// TestFormsAreLetGo: those that nobody asks for, and no others.
func TestFormsAreLetGo(t *testing.T) {
	k, item, _ := keptItem(t, configMaps)
	made := 0
	get := func() {
		data, err := item.Encoded("json", func(resource.Object) ([]byte, error) { made++; return []byte("12345"), nil })
		if err != nil || string(data) != "12345" {
			t.Errorf("got %q, %v", data, err)
		}
	}
	f := k.shape.forms
	expect := func(after string, times int, bytes int64) {
		t.Helper()
		if made != times || f.bytes.Load() != bytes {
			t.Errorf("after %s it was made %d times, and %d bytes are kept; want %d and %d", after, made, f.bytes.Load(), times, bytes)
		}
	}
	get()
	get()
	expect("two questions", 1, 5)
	f.sweep()
	get()
	expect("a sweep and a question", 1, 5)
	f.sweep()
	expect("another sweep", 1, 5)
	f.sweep()
	expect("a sweep without a question", 1, 0)
	if item.encoded.head.Load() != nil || len(f.items) > 0 {
		t.Error("the form is there still")
	}
	get()
	expect("a late question", 2, 5)
	f.bytes.Store(formBytes)
	_, other, _ := keptItem(t, configMaps)
	other.kept.shape = k.shape
	for range 2 {
		if _, err := other.Encoded("json", func(resource.Object) ([]byte, error) { made++; return []byte("1"), nil }); err != nil {
			t.Error(err)
		}
	}
	expect("two questions when there are too many", 4, formBytes)
}

// TestDetector: who changes an object of the cache is found out, whether it is
// the one that was written or was made anew.
func TestDetector(t *testing.T) {
	for name, change := range map[string]func(*corev1.ConfigMap){
		"nothing":         func(*corev1.ConfigMap) {},
		"a map":           func(m *corev1.ConfigMap) { m.Data["k"] = "other" },
		"a field":         func(m *corev1.ConfigMap) { m.Name = "y" },
		"what is nothing": func(m *corev1.ConfigMap) { m.Annotations = map[string]string{} },
	} {
		t.Run(name, func(t *testing.T) {
			var found []string
			b := memory.New()
			defer b.Close()
			s, err := Open(t.Context(), Config{Backend: b, Resources: []*resource.Resource{configMaps}, Changed: func(d string) { found = append(found, d) }})
			if err != nil {
				t.Fatal(err)
			}
			item, err := s.Create(t.Context(), configMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}, Data: map[string]string{"k": "v"}}, false)
			if err != nil {
				t.Fatal(err)
			}
			change(item.Object().(*corev1.ConfigMap))
			s.Close()
			if name == "nothing" && len(found) != 0 || name != "nothing" && (len(found) != 1 || !strings.Contains(found[0], "ConfigMap a/x")) {
				t.Errorf("found %q", found)
			}
		})
	}
}
