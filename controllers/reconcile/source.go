package reconcile

import (
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/guard/clientgo"
)

// Source turns changes of objects into keys.
type Source struct {
	// start's synced is nil if there is nothing to wait for.
	start func(enqueue func(Key)) (stop func(), synced cache.DoneChecker, err error)
}

// On calls keys for every change an informer sees: old is nil when the object is new, changed is nil when it is
// gone. It runs on the informer's goroutine and must not block.
func On[T interface {
	comparable
	metav1.Object
}](informer cache.SharedIndexInformer, keys func(old, changed T) []Key) Source {
	return Source{func(enqueue func(Key)) (func(), cache.DoneChecker, error) {
		wake := func(old, changed T) {
			for _, key := range keys(old, changed) {
				enqueue(key)
			}
		}
		var none T
		registration, err := informer.AddEventHandler(clientgo.Handler("controllers' events", cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { wake(none, obj.(T)) },
			UpdateFunc: func(before, after any) {
				old, changed := before.(T), after.(T)
				if old.GetResourceVersion() == changed.GetResourceVersion() {
					return // a relist repeats what is known
				}
				if old.GetUID() != changed.GetUID() {
					wake(old, none) // two events in one: the name was reused
					wake(none, changed)
					return
				}
				wake(old, changed)
			},
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				if old, ok := obj.(T); ok {
					wake(old, none)
				}
			},
		}))
		switch {
		case err != nil && informer.IsStopped():
			// The program ends before the loop has begun: it waits for its own end, too.
			return func() {}, never{}, nil
		case err != nil:
			return nil, nil, fmt.Errorf("watch: %w", err)
		}
		return func() { _ = informer.RemoveEventHandler(registration) }, registration.HasSyncedChecker(), nil
	}}
}

// Self gives the key of the changed object.
func Self(informer cache.SharedIndexInformer) Source {
	return On(informer, func(old, changed metav1.Object) []Key {
		if changed == nil {
			changed = old
		}
		return []Key{KeyOf(changed)}
	})
}

// never is a cache that will not be filled.
type never struct{}

func (never) Name() string          { return "stopped informer" }
func (never) Done() <-chan struct{} { return nil }

// Synced wakes nobody; it makes the loop wait until a cache it reads is filled.
func Synced(informer cache.SharedIndexInformer) Source {
	return Source{func(func(Key)) (func(), cache.DoneChecker, error) {
		return func() {}, informer.HasSyncedChecker(), nil
	}}
}

// Own runs an informer that no factory runs, for as long as the loop runs. It wakes nobody by itself.
func Own(informer cache.SharedIndexInformer) Source {
	return Source{func(func(Key)) (func(), cache.DoneChecker, error) {
		done := make(chan struct{})
		var running guard.Group
		running.Go("controllers' informer", func() { informer.Run(done) })
		stop := func() { close(done); running.Wait() }
		return stop, informer.HasSyncedChecker(), nil
	}}
}

// Feed is a source that the program itself feeds. What is added before the loop runs waits for it.
type Feed struct {
	mu      sync.Mutex
	enqueue func(Key)
	waiting []Key
}

// Add gives a key to the loop. It does not block.
func (f *Feed) Add(key Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.enqueue == nil {
		f.waiting = append(f.waiting, key)
		return
	}
	f.enqueue(key)
}

// Source returns the feed as a source, for one loop.
func (f *Feed) Source() Source {
	return Source{func(enqueue func(Key)) (func(), cache.DoneChecker, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.enqueue = enqueue
		for _, key := range f.waiting {
			enqueue(key)
		}
		f.waiting = nil
		stop := func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.enqueue = nil
		}
		return stop, nil, nil
	}}
}

// KeyOf returns the key of an object.
func KeyOf(obj metav1.Object) Key {
	return Key{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// ParseKey reads the form "namespace/name", or only a name.
func ParseKey(text string) (Key, error) { return cache.ParseObjectName(text) }
