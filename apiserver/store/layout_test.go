package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// Kinds that the first layout had elsewhere, with what their keys began with then.
var moved = []struct {
	first string
	row   *resource.Resource
}{
	{"/registry/nodes/", resource.Define[corev1.NodeList](resource.Definition[corev1.Node]{
		Version: "v1", Kind: "Node", Plural: "nodes", Prefix: "minions", ClusterScoped: true})},
	{"/registry/services/", resource.Define[corev1.ServiceList](resource.Definition[corev1.Service]{
		Version: "v1", Kind: "Service", Plural: "services", Prefix: "services/specs"})},
	{"/registry/endpoints/", resource.Define[corev1.EndpointsList](resource.Definition[corev1.Endpoints]{
		Version: "v1", Kind: "Endpoints", Plural: "endpoints", Prefix: "services/endpoints"})},
	{"/registry/networking.k8s.io/ingresses/", resource.Define[networkingv1.IngressList](resource.Definition[networkingv1.Ingress]{
		Group: "networking.k8s.io", Version: "v1", Kind: "Ingress", Plural: "ingresses", Prefix: "ingress"})},
}

// failing is a backend that takes a number of writes and then no more.
type failing struct {
	backend.Backend
	left int
}

var errKilled = errors.New("killed")

func (b *failing) Put(ctx context.Context, key string, value []byte, expected int64, lifetime time.Duration) (int64, error) {
	if b.left--; b.left < 0 {
		return 0, errKilled
	}
	return b.Backend.Put(ctx, key, value, expected, lifetime)
}

func (b *failing) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	if b.left--; b.left < 0 {
		return 0, errKilled
	}
	return b.Backend.Delete(ctx, key, expected)
}

// A store of the first layout is moved when it is opened, whatever number of writes the starts before came to.
func TestMove(t *testing.T) {
	rows := []*resource.Resource{configMaps}
	for _, m := range moved {
		rows = append(rows, m.row)
	}
	for killed := 0; ; killed++ {
		b := memory.New()
		objects := 0
		for _, m := range moved {
			for _, namespace := range []string{"a", "specs", "endpoints"} {
				key, value := m.first, fmt.Sprintf(`{"metadata":{"name":"x","namespace":%q}}`, namespace)
				if !m.row.ClusterScoped {
					key += namespace + "/"
				} else if namespace != "a" {
					continue
				}
				if _, err := b.Put(t.Context(), key+"x", []byte(value), backend.Absent, 0); err != nil {
					t.Fatal(err)
				}
				objects++
			}
		}
		first, err := store.Open(t.Context(), store.Config{Backend: &failing{b, killed}, Resources: rows})
		done := err == nil
		if done {
			first.Close()
		} else if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		s, err := store.Open(t.Context(), store.Config{Backend: b, Resources: rows})
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, m := range moved {
			items, _, err := s.Snapshot(t.Context(), m.row, store.Match{}, -1)
			if err != nil {
				t.Fatal(err)
			}
			found += len(items)
			for _, item := range items {
				key := m.row.Key(item.Object().GetNamespace(), "x")
				if m.row.ClusterScoped {
					key = m.row.Key("", "x")
				}
				if _, _, err := b.Get(t.Context(), key); err != nil {
					t.Errorf("%s: %v", key, err)
				}
			}
		}
		page, err := b.List(t.Context(), "/registry/", "", 0, 0)
		if err != nil || found != objects || len(page.Entries) != objects {
			t.Errorf("killed after %d writes, then opened: %d objects are served and %d keys are there, %v; want %d", killed, found, len(page.Entries), err, objects)
		}
		s.Close()
		b.Close()
		if done {
			break
		}
	}
}

// What is moved ends when it would have ended.
func TestMoveKeepsLifetimes(t *testing.T) {
	b := memory.New()
	defer b.Close()
	row := moved[0].row
	for name, lifetime := range map[string]time.Duration{"x": time.Hour, "y": 0} {
		if _, err := b.Put(t.Context(), moved[0].first+name, fmt.Appendf(nil, `{"metadata":{"name":%q}}`, name), backend.Absent, lifetime); err != nil {
			t.Fatal(err)
		}
	}
	before, _, err := b.Get(t.Context(), moved[0].first+"x")
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{Backend: b, Resources: []*resource.Resource{row}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	after, _, err := b.Get(t.Context(), row.Key("", "x"))
	if err != nil || after.End.Sub(before.End).Abs() > time.Second {
		t.Errorf("what ended at %v ends at %v now, %v", before.End, after.End, err)
	}
	if forEver, _, err := b.Get(t.Context(), row.Key("", "y")); err != nil || !forEver.End.IsZero() {
		t.Errorf("what ended never ends at %v now, %v", forEver.End, err)
	}
}
