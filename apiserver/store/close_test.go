package store_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
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
