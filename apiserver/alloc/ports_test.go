package alloc

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// The note is made of what Services have when there is none, or it is of another range; what another server noted counts.
func TestPortsAreNotedForAll(t *testing.T) {
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	ctx := t.Context()
	_, _ = o.Create(ctx, o.Resource("", "services"), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "old"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{NodePort: 31003}}},
	})
	note := func() (n corev1.RangeAllocation, revision int64) {
		t.Helper()
		entry, _, err := b.Get(ctx, "/registry/ranges/servicenodeports")
		if err != nil {
			t.Fatal(err)
		}
		if err := store.DecodeNote(entry.Value, &n); err != nil {
			t.Fatal(err)
		}
		return n, entry.Revision
	}
	for _, ports := range []PortRange{{31000, 31099}, {31000, 31009}} {
		s := start(t, b, o, "10.9.0.0/24", ports)
		w := s.Begin(Owner{"ns", "new"}, false)
		if err := w.Port(ctx, 31003); !errors.Is(err, ErrPortTaken) {
			t.Errorf("%v: a port that a Service has: got %v, want %v", ports, err, ErrPortTaken)
		}
		if err := w.Port(ctx, 31001); err != nil {
			t.Errorf("%v: a free port: %v", ports, err)
		}
		n, revision := note()
		if !slices.Equal(n.Data, []byte{1<<3 | 1<<1}) || n.Range != s.keys.rangeText() {
			t.Errorf("%v: the note says %s %b", ports, n.Range, n.Data)
		}
		// Another server notes 31002.
		n.Data[0] |= 1 << 2
		value, err := store.EncodeNote(corev1.SchemeGroupVersion.WithKind("RangeAllocation"), &n)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Put(ctx, "/registry/ranges/servicenodeports", value, revision, 0); err != nil {
			t.Fatal(err)
		}
		if err := w.Port(ctx, 31002); !errors.Is(err, ErrPortTaken) {
			t.Errorf("%v: a port of another server: got %v, want %v", ports, err, ErrPortTaken)
		}
		w.End(false)
		if n, _ := note(); !slices.Equal(n.Data, []byte{1<<3 | 1<<2}) {
			t.Errorf("%v: after the write failed, the note says %b", ports, n.Data)
		}
	}
}

// The claims of the first layout go.
func TestFirstPortsAreDropped(t *testing.T) {
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	if _, err := b.Put(t.Context(), "/skiff/nodeports/31001", []byte("ns/old"), backend.Absent, 0); err != nil {
		t.Fatal(err)
	}
	s := start(t, b, o, "10.9.0.0/24", PortRange{31000, 31099})
	if err := s.keys.dropFirst(context.Background()); err != nil {
		t.Fatal(err)
	}
	if page, err := b.List(t.Context(), "/skiff/nodeports/", "", 0, 0); err != nil || len(page.Entries) != 0 {
		t.Errorf("left: %v, %v", page.Entries, err)
	}
}
