package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// An object that was stored before there was a limit can be read, made smaller
// and deleted, but not made larger.
func TestTooLargeAlready(t *testing.T) {
	b := memory.New()
	defer b.Close()
	r := configMaps
	old := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x", Finalizers: []string{"one", "two"}},
		Data:       map[string]string{"data": strings.Repeat("x", 2*backend.MaxValue)},
	}
	value, err := encode(r, old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), r.Key("a", "x"), value, backend.Absent, 0); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{Backend: b, Resources: []*resource.Resource{r}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	change := func(what string, want error, f func(*corev1.ConfigMap)) {
		t.Helper()
		_, err := s.Update(context.Background(), r, "a", "x", false, func(current *Item) (resource.Object, error) {
			next := current.Object().DeepCopyObject().(*corev1.ConfigMap)
			f(next)
			return next, nil
		})
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	label := func(m *corev1.ConfigMap) { m.Labels = map[string]string{"a": "b"} }
	change("growing", ErrTooLarge, label)
	change("taking a finalizer away", nil, func(m *corev1.ConfigMap) { m.Finalizers = m.Finalizers[:1] })
	change("begin of the deletion", nil, func(m *corev1.ConfigMap) { m.DeletionTimestamp = &metav1.Time{Time: time.Now()} })
	change("growing while it is deleted", ErrTooLarge, label)
	change("shrinking below the limit", nil, func(m *corev1.ConfigMap) { m.Data["data"] = m.Data["data"][:backend.MaxValue-1000] })
	change("growing below the limit", nil, label)
	change("growing beyond it", ErrTooLarge, func(m *corev1.ConfigMap) { m.Data["data"] += strings.Repeat("x", 1000) })
	item, err := s.Get(t.Context(), r, "a", "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(t.Context(), r, item, false); err != nil {
		t.Errorf("delete: %v", err)
	}
}
