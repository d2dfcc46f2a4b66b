package store_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

var configMaps = resource.Define[corev1.ConfigMapList](resource.Definition[corev1.ConfigMap]{
	Version: "v1", Kind: "ConfigMap", Plural: "configmaps",
	Default: func(c *corev1.ConfigMap) {
		if c.Immutable == nil {
			c.Immutable = new(bool)
		}
	},
})

var pods = resource.Define[corev1.PodList](resource.Definition[corev1.Pod]{
	Version: "v1", Kind: "Pod", Plural: "pods",
	Fields:  map[string]func(*corev1.Pod) string{"spec.nodeName": func(p *corev1.Pod) string { return p.Spec.NodeName }},
	IndexBy: "spec.nodeName",
})

func open(t testing.TB) *store.Store {
	t.Helper()
	return openOn(t, memory.New(), 0)
}

func openOn(t testing.TB, b backend.Backend, history time.Duration) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), store.Config{Backend: b, Resources: []*resource.Resource{configMaps, pods}, History: history})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		b.Close()
	})
	return s
}

func configMap(namespace, name, data string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Data:       map[string]string{"data": data},
	}
}

func create(t testing.TB, s *store.Store, namespace, name, data string) *store.Item {
	t.Helper()
	item, err := s.Create(t.Context(), configMaps, configMap(namespace, name, data), false)
	if err != nil {
		t.Fatalf("create %s/%s: %v", namespace, name, err)
	}
	return item
}

func update(t testing.TB, s *store.Store, namespace, name, data string) *store.Item {
	t.Helper()
	item, err := s.Update(t.Context(), configMaps, namespace, name, false, setData(data))
	if err != nil {
		t.Fatalf("update %s/%s: %v", namespace, name, err)
	}
	return item
}

func setData(data string) func(*store.Item) (resource.Object, error) {
	return func(current *store.Item) (resource.Object, error) {
		c := current.Object().DeepCopyObject().(*corev1.ConfigMap)
		c.Data["data"] = data
		return c, nil
	}
}

func remove(t testing.TB, s *store.Store, item *store.Item) *store.Item {
	t.Helper()
	deleted, err := s.Delete(t.Context(), configMaps, item, false)
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	return deleted
}

func dataOf(item *store.Item) string { return item.Object().(*corev1.ConfigMap).Data["data"] }

// One object through its life: what each call returns is what readers get.
func TestLife(t *testing.T) {
	s := open(t)
	created := create(t, s, "a", "x", "1")
	c := created.Object().(*corev1.ConfigMap)
	if got, want := c.ResourceVersion, strconv.FormatInt(created.Revision(), 10); got != want || created.Revision() == 0 {
		t.Errorf("resourceVersion = %q, want %q", got, want)
	}
	if c.Immutable == nil || c.Kind != "ConfigMap" || c.APIVersion != "v1" {
		t.Errorf("created object lacks defaults or its kind: %v", c)
	}
	if _, err := s.Create(t.Context(), configMaps, configMap("a", "x", "2"), false); !errors.Is(err, store.ErrExists) {
		t.Errorf("second create: got %v, want ErrExists", err)
	}
	if got, err := s.Get(t.Context(), configMaps, "a", "x"); got != created || err != nil {
		t.Errorf("get after create = %p, %v, want the created item %p", got, err, created)
	}
	updated := update(t, s, "a", "x", "2")
	if updated.Revision() <= created.Revision() || dataOf(updated) != "2" {
		t.Errorf("update gave revision %d with %q, want more than %d with \"2\"", updated.Revision(), dataOf(updated), created.Revision())
	}
	if same := update(t, s, "a", "x", "2"); same != updated {
		t.Errorf("update without a change wrote revision %d, want nothing written since %d", same.Revision(), updated.Revision())
	}
	if _, err := s.Delete(t.Context(), configMaps, created, false); !errors.Is(err, store.ErrConflict) {
		t.Errorf("delete of an old revision: got %v, want ErrConflict", err)
	}
	deleted := remove(t, s, updated)
	if deleted.Revision() <= updated.Revision() || deleted.Object().GetResourceVersion() != strconv.FormatInt(deleted.Revision(), 10) {
		t.Errorf("deleted object is at %s, want the revision of the delete %d", deleted.Object().GetResourceVersion(), deleted.Revision())
	}
	if _, err := s.Get(t.Context(), configMaps, "a", "x"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("get after delete: got %v, want ErrNotFound", err)
	}
	if _, err := s.Update(t.Context(), configMaps, "a", "x", false, setData("3")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("update after delete: got %v, want ErrNotFound", err)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	s := open(t)
	item := create(t, s, "a", "x", "1")
	before, _ := s.Revision(t.Context())
	if got, err := s.Create(t.Context(), configMaps, configMap("a", "y", "1"), true); err != nil || got.Object().GetResourceVersion() != "" {
		t.Errorf("dry create = %v, %v, want an object without resourceVersion", got, err)
	}
	if _, err := s.Create(t.Context(), configMaps, configMap("a", "x", "1"), true); !errors.Is(err, store.ErrExists) {
		t.Errorf("dry create of an existing name: got %v, want ErrExists", err)
	}
	got, err := s.Update(t.Context(), configMaps, "a", "x", true, setData("2"))
	if err != nil || dataOf(got) != "2" || got.Revision() != item.Revision() {
		t.Errorf("dry update = %v, %v, want the change at the old revision", got, err)
	}
	if got, err := s.Delete(t.Context(), configMaps, item, true); err != nil || got != item {
		t.Errorf("dry delete = %v, %v, want the current item", got, err)
	}
	if after, _ := s.Revision(t.Context()); after != before {
		t.Errorf("revision went from %d to %d", before, after)
	}
	if got, _ := s.Get(t.Context(), configMaps, "a", "x"); got != item {
		t.Errorf("the object was changed to %v", got.Object())
	}
}

// Writers of one object must not lose each other's updates.
func TestConcurrentUpdates(t *testing.T) {
	s := open(t)
	create(t, s, "a", "x", "0")
	const writers, each = 8, 25
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				_, err := s.Update(t.Context(), configMaps, "a", "x", false, func(current *store.Item) (resource.Object, error) {
					n, _ := strconv.Atoi(dataOf(current))
					return setData(strconv.Itoa(n + 1))(current)
				})
				if err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	item, err := s.Get(t.Context(), configMaps, "a", "x")
	if err != nil || dataOf(item) != strconv.Itoa(writers*each) {
		t.Errorf("counter = %v, %v, want %d", dataOf(item), err, writers*each)
	}
}

func TestEncodedOnce(t *testing.T) {
	s := open(t)
	item := create(t, s, "a", "x", "1")
	calls := 0
	encode := func(form any) string {
		b, err := item.Encoded(form, func(obj resource.Object) ([]byte, error) {
			calls++
			return fmt.Appendf(nil, "%v %s %d", form, obj.GetName(), calls), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, want := range []string{"json x 1", "json x 1"} {
		if got := encode("json"); got != want {
			t.Errorf("encoded = %q, want %q", got, want)
		}
	}
	if got, want := encode("protobuf"), "protobuf x 2"; got != want {
		t.Errorf("encoded = %q, want %q", got, want)
	}
}

// Reads that include an object that cannot be decoded fail and name it; all
// others go on. What becomes readable again, or is removed, is no obstacle.
func TestUnreadable(t *testing.T) {
	b := memory.New()
	s := openOn(t, b, 0)
	create(t, s, "a", "x", "1")
	good := create(t, s, "b", "y", "1")
	spoil := func(key string, expected int64) int64 {
		revision, err := b.Put(t.Context(), key, []byte("\x01\x02"), expected, 0)
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	spoilt := spoil("/registry/configmaps/b/y", good.Revision())
	none := func(resource.Object) bool { return false }
	check := func(name string, err error, want bool) {
		t.Helper()
		var unreadable *store.UnreadableError
		if got := errors.As(err, &unreadable); got != want || !got && err != nil || got && unreadable.Key != "/registry/configmaps/b/y" {
			t.Errorf("%s: got error %v, want one that names the unreadable object: %t", name, err, want)
		}
	}
	list := func(o store.ListOptions) error {
		_, err := s.List(t.Context(), configMaps, o)
		return err
	}
	_, err := s.Get(t.Context(), configMaps, "b", "y")
	check("get", err, true)
	_, err = s.Get(t.Context(), configMaps, "a", "x")
	check("get of another", err, false)
	check("list", list(store.ListOptions{}), true)
	check("list by a selector, which may match", list(store.ListOptions{Match: store.Match{Select: none}}), true)
	check("list of its name", list(store.ListOptions{Match: store.Match{Namespace: "b", Name: "y"}}), true)
	check("list of another namespace", list(store.ListOptions{Match: store.Match{Namespace: "a"}}), false)
	check("page before it", list(store.ListOptions{Limit: 1}), false)
	check("list of when it was good", list(store.ListOptions{ResourceVersion: version(good.Revision()), ResourceVersionMatch: metav1.ResourceVersionMatchExact}), false)
	_, _, err = s.Snapshot(t.Context(), configMaps, store.Match{}, -1)
	check("snapshot", err, true)
	_, err = s.Update(t.Context(), configMaps, "b", "y", false, setData("2"))
	check("update", err, true)
	if _, err := s.Create(t.Context(), configMaps, configMap("b", "y", "2"), false); !errors.Is(err, store.ErrExists) {
		t.Errorf("create in its place: got %v, want ErrExists", err)
	}
	if got, _, err := s.Snapshot(t.Context(), configMaps, store.Match{Readable: true}, -1); err != nil || names(got) != "a/x=1" {
		t.Errorf("snapshot of what is readable: got %s, %v; want a/x=1", names(got), err)
	}
	left := watch(t, s, configMaps, store.Match{Readable: true}, good.Revision(), 1)[0]
	if left.Event.Old != good || !left.Was || left.Is {
		t.Errorf("watch of what is readable: got %+v, want that the good object left", left)
	}
	for step, err := range s.Watch(t.Context(), configMaps, store.Match{Select: none}, good.Revision()) {
		check("watch", err, true)
		if step.Event != nil {
			t.Errorf("watch yielded revision %d, want the error alone", step.Revision)
		}
	}
	if err := s.DeleteUnreadable(t.Context(), configMaps, "a", "x"); !errors.Is(err, store.ErrConflict) {
		t.Errorf("removing a readable object as unreadable: got %v, want ErrConflict", err)
	}
	if err := s.DeleteUnreadable(t.Context(), configMaps, "b", "y"); err != nil {
		t.Errorf("removing it: %v", err)
	}
	check("list after it was removed", list(store.ListOptions{}), false)
	removed, err := s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for step, err := range s.Watch(t.Context(), configMaps, store.Match{}, spoilt) {
		check("watch of its removal", err, true)
		if step.Event != nil {
			t.Errorf("watch yielded revision %d, want the error alone", step.Revision)
		}
	}
	create(t, s, "b", "y", "3")
	if got, want := describeAll(watch(t, s, configMaps, store.Match{}, removed, 1)), "b/y -→3"; got != want {
		t.Errorf("watch after it was removed: got %s, want %s", got, want)
	}
}

// Who watches by a value of the index is told of what is unreadable, as it may
// have that value: that it became so, and that it is gone. So is who began to
// watch before, and who resumes.
func TestUnreadableByIndex(t *testing.T) {
	b := memory.New()
	s := openOn(t, b, 0)
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Spec: corev1.PodSpec{NodeName: "node"}}
	}
	good, err := s.Create(t.Context(), pods, pod("x"), false)
	if err != nil {
		t.Fatal(err)
	}
	of := store.Match{IndexValue: "node"}
	first := make(chan error, 1)
	ticks := make(chan time.Time)
	go func() {
		for step, err := range s.WatchTicks(t.Context(), pods, of, good.Revision(), ticks) {
			if step.Event != nil || err != nil {
				first <- err
				return
			}
		}
	}()
	ticks <- time.Time{} // it watches
	spoilt, err := b.Put(t.Context(), "/registry/pods/a/x", []byte("\x01"), good.Revision(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-first; !errors.Is(err, store.ErrUnreadable) {
		t.Errorf("who watched before: got %v, want ErrUnreadable", err)
	}
	if err := s.DeleteUnreadable(t.Context(), pods, "a", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), pods, pod("y"), false); err != nil {
		t.Fatal(err)
	}
	for what, after := range map[string]int64{"that it became unreadable": good.Revision(), "that it is gone": spoilt} {
		for step, err := range s.Watch(t.Context(), pods, of, after) {
			if !errors.Is(err, store.ErrUnreadable) {
				t.Errorf("%s: got %+v, %v, want ErrUnreadable", what, step, err)
			}
			break
		}
	}
}

// An unreadable object is known as such to a store that finds it when it is
// opened.
func TestUnreadableAtStart(t *testing.T) {
	b := memory.New()
	if _, err := b.Put(t.Context(), "/registry/pods/a/x", []byte("{"), 0, 0); err != nil {
		t.Fatal(err)
	}
	s := openOn(t, b, 0)
	if _, err := s.Get(t.Context(), pods, "a", "x"); !errors.Is(err, store.ErrUnreadable) {
		t.Errorf("get: got %v, want ErrUnreadable", err)
	}
	if err := s.DeleteUnreadable(t.Context(), pods, "a", "x"); err != nil {
		t.Errorf("removing it: %v", err)
	}
	if _, err := s.Get(t.Context(), pods, "a", "x"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("get after that: got %v, want ErrNotFound", err)
	}
}
