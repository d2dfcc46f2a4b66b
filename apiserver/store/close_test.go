package store_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// slow is a backend whose compactions last until they are let go.
type slow struct {
	backend.Backend
	compacting, proceed chan struct{}
}

func (s *slow) Compact(ctx context.Context, revision int64) error {
	close(s.compacting)
	<-s.proceed
	return s.Backend.Compact(ctx, revision)
}

// When Close returns, the store has let go of the backend, which its owner may
// close then.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &slow{Backend: memory.New(), compacting: make(chan struct{}), proceed: make(chan struct{})}
		s := openOn(t, b, time.Minute)
		<-b.compacting
		closed := make(chan struct{})
		go func() {
			s.Close()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("the store was closed while it compacted the backend")
		default:
		}
		close(b.proceed)
		<-closed
	})
}

// The context of Open is that of opening: who is told to end, and lets requests
// finish, has the store until it closes it.
func TestOutlivesContext(t *testing.T) {
	b := memory.New()
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := store.Open(ctx, store.Config{Backend: b, Resources: []*resource.Resource{configMaps}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	for i := range 10 { // more than what the store may have been about to do
		if _, err := s.Create(t.Context(), configMaps, configMap("default", fmt.Sprint("c", i), "x"), false); err != nil {
			t.Fatalf("create after the end of the context: %v", err)
		}
		if _, err := s.Get(t.Context(), configMaps, "default", fmt.Sprint("c", i)); err != nil {
			t.Fatalf("get after the end of the context: %v", err)
		}
	}
}
