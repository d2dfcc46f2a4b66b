package reconcile

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Writes remembers the versions that a loop has written, so that it can tell when its cache is behind its own
// writes. A loop that keeps counters in a status must not act on an older one. Safe for concurrent use.
type Writes struct {
	mu       sync.Mutex
	versions map[types.UID]string
}

// NewWrites returns an empty memory.
func NewWrites() *Writes {
	return &Writes{versions: map[types.UID]string{}}
}

// Note remembers an object as a write returned it.
func (w *Writes) Note(written metav1.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.versions[written.GetUID()] = written.GetResourceVersion()
}

// Seen tells whether a cached object is at least as new as what was last written. If it is not, the cache will
// bring the newer one, and wake the loop with it.
func (w *Writes) Seen(cached metav1.Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	written, ok := w.versions[cached.GetUID()]
	if !ok {
		return true
	}
	if order, err := resourceversion.CompareResourceVersion(cached.GetResourceVersion(), written); err == nil && order < 0 {
		return false
	}
	delete(w.versions, cached.GetUID())
	return true
}

// Forget drops what is known of an object that is gone.
func (w *Writes) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, uid)
}
