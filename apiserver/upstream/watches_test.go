package upstream

import (
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
)

// watches are the open watches of an adapter. Some functions of the contract
// give an event 150 ms from its write on, which is not enough where the machine
// has other work. So a pod counts as created when who watches it has been told.
type watches struct {
	mu    sync.Mutex
	moved *sync.Cond // with mu: something has changed
	open  map[*stream]bool
}

func (w *watches) add(s *stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = make(map[*stream]bool)
	}
	w.open[s] = true
}

func (w *watches) remove(s *stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, s)
	w.moved.Broadcast()
}

// note says what s has received, or that its client reads no more for now.
func (w *watches) note(s *stream, revision int64, full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.seen, s.full = max(s.seen, revision), full
	w.moved.Broadcast()
}

// wait returns when those who watch a pod, and read, know of its creation; or
// when the contract would give up.
func (w *watches) wait(key string, pod runtime.Object, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	over := false
	giveUp := time.AfterFunc(wait.ForeverTestTimeout, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		over = true
		w.moved.Broadcast()
	})
	defer giveUp.Stop()
	for !over && w.untold(key, pod, revision) {
		w.moved.Wait()
	}
}

func (w *watches) untold(key string, pod runtime.Object, revision int64) bool {
	for s := range w.open {
		if s.seen >= revision || s.full || s.ctx.Err() != nil || !s.covers(key) {
			continue
		}
		if matches, err := s.predicate.Matches(pod); err == nil && matches {
			return true
		}
	}
	return false
}

// covers reports whether a key is among those of the watch.
func (s *stream) covers(key string) bool {
	if !s.recursive {
		return key == s.key
	}
	return strings.HasPrefix(key, strings.TrimSuffix(s.key, "/")+"/")
}
