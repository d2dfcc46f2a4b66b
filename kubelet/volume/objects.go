package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/guard"
)

const (
	// syncTimeout is how long get waits for the first answer of the API server.
	syncTimeout = 10 * time.Second
	// firstRetry and lastRetry bound the wait after an error of the API server. The first one is short, as
	// the node authorizer may refuse an object in the moment before it saw the pod that refers to it.
	firstRetry, lastRetry = 100 * time.Millisecond, 15 * time.Second
)

// objects watches single ConfigMaps or Secrets, each as long as a pod refers to it.
type objects[T metav1.Object] struct {
	kind    string // as messages write it, "configmap"
	access  source[T]
	changed func([]types.UID) // told which pods refer to a changed object; must not call back

	ctx  context.Context // of all watches
	stop context.CancelFunc
	done guard.Group

	mu   sync.Mutex
	held map[types.NamespacedName]*object[T]
}

// source lists and watches the objects of a namespace that options choose.
type source[T any] struct {
	list  func(ctx context.Context, namespace string, options metav1.ListOptions) (items []T, resourceVersion string, err error)
	watch func(ctx context.Context, namespace string, options metav1.ListOptions) (watch.Interface, error)
	final func(T) bool // whether the object can never change again
}

// object is one watched object. Its fields are guarded by objects.mu.
type object[T any] struct {
	users  map[types.UID]bool
	cancel context.CancelFunc

	known   chan struct{} // closed when the first answer is there
	current T
	exists  bool
	err     error // of the last try, while nothing is known
}

func newObjects[T metav1.Object](kind string, a source[T], changed func([]types.UID)) *objects[T] {
	ctx, stop := context.WithCancel(context.Background())
	return &objects[T]{kind: kind, access: a, changed: changed, ctx: ctx, stop: stop, held: map[types.NamespacedName]*object[T]{}}
}

// close ends all watches and waits for them.
func (o *objects[T]) close() {
	o.stop()
	o.done.Wait()
}

// refer notes that a pod uses an object, and starts to watch it if nobody did.
func (o *objects[T]) refer(pod *v1.Pod, name string) *object[T] {
	key := types.NamespacedName{Namespace: pod.Namespace, Name: name}
	o.mu.Lock()
	defer o.mu.Unlock()
	held := o.held[key]
	if held == nil {
		ctx, cancel := context.WithCancel(o.ctx)
		held = &object[T]{users: map[types.UID]bool{}, cancel: cancel, known: make(chan struct{})}
		o.held[key] = held
		o.done.Go("volumes", func() {
			_ = guard.Keep(ctx, "volumes", func(ctx context.Context) error { o.follow(ctx, key, held); return nil })
		})
	}
	held.users[pod.UID] = true
	return held
}

// release drops all references of a pod, and the watches that nobody needs then.
func (o *objects[T]) release(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, held := range o.held {
		delete(held.users, uid)
		if len(held.users) == 0 {
			held.cancel()
			delete(o.held, key)
		}
	}
}

// get returns an object as the watch last saw it, and waits for the first answer as long as ctx lets it.
func (o *objects[T]) get(ctx context.Context, pod *v1.Pod, name string) (T, error) {
	var none T
	held := o.refer(pod, name)
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	select {
	case <-held.known:
	case <-o.ctx.Done():
		return none, o.ctx.Err()
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return none, ctx.Err()
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if held.err != nil {
			return none, fmt.Errorf("failed to sync %s cache: %w", o.kind, held.err)
		}
		return none, fmt.Errorf("failed to sync %s cache: timed out waiting for the condition", o.kind)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !held.exists {
		return none, apierrors.NewNotFound(v1.Resource(o.kind), name)
	}
	return held.current, nil
}

// follow keeps an object current until ctx ends.
func (o *objects[T]) follow(ctx context.Context, key types.NamespacedName, held *object[T]) {
	retry := firstRetry
	for ctx.Err() == nil {
		started := time.Now()
		err := o.listAndWatch(ctx, key, held)
		if err == nil {
			if o.isFinal(held) {
				return
			}
			if time.Since(started) > time.Second {
				retry = firstRetry
				continue // a watch came to its ordinary end
			}
		} else if ctx.Err() == nil {
			slog.Debug("watch "+o.kind, "object", key, "error", err)
			o.mu.Lock()
			held.err = err
			o.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, lastRetry)
	}
}

// listAndWatch returns nil when the watch ended and it is time to start over.
func (o *objects[T]) listAndWatch(ctx context.Context, key types.NamespacedName, held *object[T]) error {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, key.Name).String()}
	items, rv, err := o.access.list(ctx, key.Namespace, options)
	if err != nil {
		return err
	}
	var current T
	i := slices.IndexFunc(items, func(item T) bool { return item.GetName() == key.Name })
	if i >= 0 {
		current = items[i]
	}
	o.set(held, current, i >= 0)
	if o.isFinal(held) {
		return nil
	}

	options.ResourceVersion = rv
	options.AllowWatchBookmarks = true
	w, err := o.access.watch(ctx, key.Namespace, options)
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, open := <-w.ResultChan():
			if !open {
				return nil
			}
			final, err := o.take(held, key.Name, event)
			if final || err != nil {
				return err
			}
		}
	}
}

// take takes in what a watch says, and says whether the object can change no more.
func (o *objects[T]) take(held *object[T], name string, event watch.Event) (final bool, err error) {
	current, ok := event.Object.(T)
	switch {
	case event.Type == watch.Error:
		return false, apierrors.FromObject(event.Object)
	case event.Type == watch.Bookmark || !ok || current.GetName() != name:
		return false, nil
	}
	o.set(held, current, event.Type != watch.Deleted)
	return o.isFinal(held), nil
}

// set takes the object's new state and tells the pods that use it.
func (o *objects[T]) set(held *object[T], current T, exists bool) {
	o.mu.Lock()
	first := false
	select {
	case <-held.known:
	default:
		first = true
		close(held.known)
	}
	unchanged := !first && held.exists == exists &&
		(!exists || held.current.GetResourceVersion() == current.GetResourceVersion())
	held.current, held.exists, held.err = current, exists, nil
	users := slices.Collect(maps.Keys(held.users))
	o.mu.Unlock()
	if !unchanged && !first {
		o.changed(users)
	}
}

// isFinal says that the object need not be watched any longer: it is immutable.
func (o *objects[T]) isFinal(held *object[T]) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return held.exists && o.access.final(held.current)
}

func watchConfigMaps(client kubernetes.Interface) source[*v1.ConfigMap] {
	return source[*v1.ConfigMap]{
		list: func(ctx context.Context, namespace string, options metav1.ListOptions) ([]*v1.ConfigMap, string, error) {
			l, err := client.CoreV1().ConfigMaps(namespace).List(ctx, options)
			if err != nil {
				return nil, "", err
			}
			return pointers(l.Items), l.ResourceVersion, nil
		},
		watch: func(ctx context.Context, namespace string, options metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().ConfigMaps(namespace).Watch(ctx, options)
		},
		final: func(c *v1.ConfigMap) bool { return isTrue(c.Immutable) },
	}
}

func watchSecrets(client kubernetes.Interface) source[*v1.Secret] {
	return source[*v1.Secret]{
		list: func(ctx context.Context, namespace string, options metav1.ListOptions) ([]*v1.Secret, string, error) {
			l, err := client.CoreV1().Secrets(namespace).List(ctx, options)
			if err != nil {
				return nil, "", err
			}
			return pointers(l.Items), l.ResourceVersion, nil
		},
		watch: func(ctx context.Context, namespace string, options metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().Secrets(namespace).Watch(ctx, options)
		},
		final: func(s *v1.Secret) bool { return isTrue(s.Immutable) },
	}
}

func pointers[T any](items []T) []*T {
	all := make([]*T, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	return all
}

// refer starts the watches of everything the pod's volumes get their contents from.
func (m *Manager) refer(pod *v1.Pod) {
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			m.configMaps.refer(pod, v.ConfigMap.Name)
		case v.Secret != nil:
			m.secrets.refer(pod, v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					m.configMaps.refer(pod, s.ConfigMap.Name)
				}
				if s.Secret != nil {
					m.secrets.refer(pod, s.Secret.Name)
				}
			}
		}
	}
}
