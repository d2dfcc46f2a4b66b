package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// wrapping puts values behind a key's name, the number of the write, and the
// place of the value. It reads what any of its keys wrote.
type wrapping struct {
	mu      sync.Mutex
	keys    []string // the first writes
	writes  int
	reads   int
	changed chan struct{}
}

func newWrapping(keys ...string) *wrapping {
	return &wrapping{keys: keys, changed: make(chan struct{})}
}

func (w *wrapping) set(keys ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys = keys
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *wrapping) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *wrapping) Encrypt(_ context.Context, r schema.GroupResource, key string, value []byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.keys) == 0 {
		return nil, errors.New("no key")
	}
	w.writes++
	return fmt.Appendf(nil, "k8s:enc:%s:%09d:%s:%s:%s", w.keys[0], w.writes, r, key, value), nil
}

func (w *wrapping) Decrypt(_ context.Context, r schema.GroupResource, key string, stored []byte) ([]byte, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads++
	for i, name := range w.keys {
		rest, ok := bytes.CutPrefix(stored, []byte("k8s:enc:"+name+":"))
		if !ok {
			continue
		}
		value, ok := bytes.CutPrefix(rest[10:], fmt.Appendf(nil, "%s:%s:", r, key))
		if !ok {
			return nil, false, errors.New("not of this place")
		}
		return value, i > 0, nil
	}
	return nil, false, errors.New("no key fits")
}

func openEncrypted(t *testing.T, b backend.Backend, e store.Encryption) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Backend: b, Resources: []*resource.Resource{configMaps}, Encryption: e})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// encryptedMap is stored as it is: no default is missing.
func encryptedMap(name, data string) *corev1.ConfigMap {
	m := configMap("a", name, data)
	m.Immutable = new(bool)
	return m
}

// put stores data in a ConfigMap a/name and returns its revision.
func put(t *testing.T, s *store.Store, name, data string) int64 {
	t.Helper()
	item, err := s.Update(t.Context(), configMaps, "a", name, false, func(current *store.Item) (resource.Object, error) {
		next := current.Object().DeepCopyObject().(*corev1.ConfigMap)
		next.Data = map[string]string{"data": data}
		return next, nil
	})
	if err != nil {
		t.Fatalf("update %s: %v", name, err)
	}
	return item.Revision()
}

func stored(t *testing.T, b backend.Backend, name string) string {
	t.Helper()
	entry, _, err := b.Get(t.Context(), configMaps.Key("a", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(entry.Value)
}

// An update that changes nothing is written all the same if the stored bytes are
// of a key that is to be replaced, and only then.
func TestUpdateReplacesTheKey(t *testing.T) {
	b := memory.New()
	defer b.Close()
	e := newWrapping("old")
	s := openEncrypted(t, b, e)
	item, err := s.Create(t.Context(), configMaps, encryptedMap("x", "1"), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := put(t, s, "x", "1"); got != item.Revision() {
		t.Errorf("an update that changes nothing made revision %d of %d", got, item.Revision())
	}
	e.set("new", "old")
	moved := put(t, s, "x", "1")
	if moved == item.Revision() {
		t.Error("an update after a change of keys was not written")
	}
	if value := stored(t, b, "x"); !strings.HasPrefix(value, "k8s:enc:new:") {
		t.Errorf("stored %.40q after a change of keys", value)
	}
	if got := put(t, s, "x", "1"); got != moved {
		t.Error("what is of the first key was written again")
	}
	// The key is gone, but the object is known: it is saved.
	e.set("newest")
	if got := put(t, s, "x", "1"); got == moved {
		t.Error("what only the memory knows was not written")
	}
	if value := stored(t, b, "x"); !strings.HasPrefix(value, "k8s:enc:newest:") {
		t.Errorf("stored %.40q", value)
	}
}

// The limit is about what is stored.
func TestLimitCountsWhatIsStored(t *testing.T) {
	b := memory.New()
	defer b.Close()
	name := strings.Repeat("k", 1000)
	s := openEncrypted(t, b, newWrapping(name))
	data := strings.Repeat("x", backend.MaxValue-1200)
	if _, err := s.Create(t.Context(), configMaps, encryptedMap("x", data), false); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("create of %d bytes, encrypted with %d more: %v", len(data), len(name), err)
	}
	if _, err := s.Create(t.Context(), configMaps, encryptedMap("x", data[:len(data)-1000]), false); err != nil {
		t.Errorf("create: %v", err)
	}
}

// Nothing is read again that this process wrote.
func TestOwnWritesAreNotDecrypted(t *testing.T) {
	b := memory.New()
	defer b.Close()
	e := newWrapping("key")
	s := openEncrypted(t, b, e)
	if _, err := s.Create(t.Context(), configMaps, encryptedMap("x", "1"), false); err != nil {
		t.Fatal(err)
	}
	put(t, s, "x", "2")
	if e.reads != 0 {
		t.Errorf("%d values were decrypted", e.reads)
	}
}

func TestNothingIsWrittenWithoutKey(t *testing.T) {
	b := memory.New()
	defer b.Close()
	s := openEncrypted(t, b, newWrapping())
	var failed *store.EncryptError
	if _, err := s.Create(t.Context(), configMaps, encryptedMap("x", "1"), false); !errors.As(err, &failed) {
		t.Errorf("create: %v", err)
	}
	if page, err := b.List(t.Context(), "/registry/", "", 0, 0); err != nil || len(page.Entries) > 0 {
		t.Errorf("stored %v, %v", page.Entries, err)
	}
}

// Where encryption is off, encrypted objects are unreadable.
func TestEncryptedIsUnreadableUnencrypted(t *testing.T) {
	b := memory.New()
	defer b.Close()
	func() {
		s := openEncrypted(t, b, newWrapping("key"))
		if _, err := s.Create(t.Context(), configMaps, encryptedMap("x", "1"), false); err != nil {
			t.Fatal(err)
		}
	}()
	s := openEncrypted(t, b, nil)
	_, err := s.Get(t.Context(), configMaps, "a", "x")
	if !errors.Is(err, store.ErrUnreadable) || !strings.Contains(err.Error(), "identity transformer tried to read encrypted data") {
		t.Errorf("get: %v", err)
	}
	if err := s.DeleteUnreadable(t.Context(), configMaps, "a", "x"); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// What cannot be decrypted at the start is read as soon as its key is there, or
// a while later when whoever has the key answers again; watches go on from then.
func TestDecryptedLater(t *testing.T) {
	for name, back := range map[string]func(*wrapping){
		"told":     func(e *wrapping) { e.set("key") },
		"not told": func(e *wrapping) { e.mu.Lock(); e.keys = []string{"key"}; e.mu.Unlock() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testDecryptedLater(t, back) })
		})
	}
}

func testDecryptedLater(t *testing.T, back func(*wrapping)) {
	b := memory.New()
	defer b.Close()
	for i, key := range []string{"x", "y"} {
		value := fmt.Sprintf(`k8s:enc:key:%09d:configmaps:%s:{"kind":"ConfigMap","apiVersion":"v1","metadata":{"namespace":"a","name":%q}}`, i, configMaps.Key("a", key), key)
		if _, err := b.Put(t.Context(), configMaps.Key("a", key), []byte(value), backend.Absent, 0); err != nil {
			t.Fatal(err)
		}
	}
	// This one was moved here from somewhere else, and stays unreadable.
	if _, err := b.Put(t.Context(), configMaps.Key("a", "z"), []byte("k8s:enc:key:000000009:configmaps:/elsewhere:{}"), backend.Absent, 0); err != nil {
		t.Fatal(err)
	}
	e := newWrapping("other")
	s, err := store.Open(t.Context(), store.Config{Backend: b, Resources: []*resource.Resource{configMaps}, Encryption: e})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), configMaps, "a", "x"); !errors.Is(err, store.ErrUnreadable) {
		t.Fatalf("get without the key: %v", err)
	}
	synctest.Wait()
	back(e)
	time.Sleep(11 * time.Second) // of the clock of this test
	synctest.Wait()
	for _, name := range []string{"x", "y"} {
		if item, err := s.Get(t.Context(), configMaps, "a", name); err != nil || item.Object().GetName() != name {
			t.Errorf("get with the key: %v", err)
		}
	}
	if _, err := s.Get(t.Context(), configMaps, "a", "z"); !errors.Is(err, store.ErrUnreadable) {
		t.Errorf("get of what was moved: %v", err)
	}
	if err := s.DeleteUnreadable(t.Context(), configMaps, "a", "z"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(11 * time.Second)
	synctest.Wait()
	items, revision, err := s.Snapshot(t.Context(), configMaps, store.Match{}, 0)
	if err != nil || len(items) != 2 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for _, err := range s.Watch(t.Context(), configMaps, store.Match{}, 0) {
		if !errors.Is(err, store.ErrExpired) {
			t.Errorf("a watch over what could not be decrypted: %v", err)
		}
		break
	}
	put(t, s, "y", "new")
	for step, err := range s.Watch(t.Context(), configMaps, store.Match{}, revision) {
		if err != nil || step.Event.New.Object().GetName() != "y" {
			t.Errorf("a watch afterwards: %v", err)
		}
		break
	}
}
