package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Create stores obj, of the stored version, which it takes over: the caller
// uses the item returned. ErrExists if there is one of its name, ErrTooLarge,
// which leaves obj to the caller. A dry run checks the name and returns an item
// without a resourceVersion.
func (s *Store) Create(ctx context.Context, r *resource.Resource, obj resource.Object, dryRun bool) (*Item, error) {
	k, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	w, err := k.prepare(k.key(obj.GetNamespace(), obj.GetName()), obj)
	if err != nil {
		return nil, err
	}
	if dryRun {
		if _, err := s.get(ctx, k, w.key); err == nil {
			return nil, ErrExists
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		return k.rehearsed(w, 0)
	}
	item, err := s.put(ctx, k, w, nil)
	if errors.Is(err, backend.ErrConflict) {
		return nil, ErrExists
	}
	return item, err
}

// Update stores what change makes of the current object. change gets the
// current item and returns a new object (it must copy, not change, the
// current one), which the store takes over; its error is returned as it is. It
// is called again when somebody else changed the object in between. When the
// result is stored as the same bytes nothing is written and the current item
// is returned, unless these are encrypted by a key that is to be replaced. A dry
// run returns an item at the current revision. ErrNotFound, ErrUnreadable,
// ErrTooLarge.
func (s *Store) Update(ctx context.Context, r *resource.Resource, namespace, name string, dryRun bool,
	change func(current *Item) (resource.Object, error)) (*Item, error) {
	k, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	for {
		current, err := s.get(ctx, k, k.key(namespace, name))
		if err != nil {
			return nil, err
		}
		item, err := s.update(ctx, k, current, dryRun, change)
		if !errors.Is(err, backend.ErrConflict) {
			return item, err
		}
	}
}

func (s *Store) update(ctx context.Context, k *kind, current *Item, dryRun bool, change func(*Item) (resource.Object, error)) (*Item, error) {
	obj, err := change(current)
	if err != nil {
		return nil, err
	}
	if obj == current.Object() {
		return current, nil
	}
	w, err := k.prepare(current.key, obj)
	if err != nil {
		return nil, err
	}
	if same(current, w.value) {
		if stale, err := s.stale(ctx, k, current); err != nil || !stale {
			return current, err
		}
	}
	if dryRun {
		return k.rehearsed(w, current.revision)
	}
	return s.put(ctx, k, w, current)
}

// Delete removes the object if current still is; else ErrConflict (also when
// the object is gone). It returns the object at the revision of the delete; a
// dry run returns current.
func (s *Store) Delete(ctx context.Context, r *resource.Resource, current *Item, dryRun bool) (*Item, error) {
	k, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	if dryRun {
		now, err := s.get(ctx, k, current.key)
		if errors.Is(err, ErrNotFound) || err == nil && now.revision != current.revision {
			return nil, ErrConflict
		}
		return current, err
	}
	w := &pending{kind: k, key: current.key}
	s.pending.add(k.prefix+w.key, w)
	defer s.pending.remove(k.prefix+w.key, w)
	revision, err := s.delete(ctx, k, current)
	if err != nil {
		return nil, err
	}
	if event := s.await(ctx, w, revision); event != nil {
		return event.Last(), nil
	}
	return (&Event{Old: current, Revision: revision}).Last(), nil
}

func (s *Store) delete(ctx context.Context, k *kind, current *Item) (revision int64, err error) {
	revision, err = s.backend.Delete(ctx, k.prefix+current.key, current.revision)
	met(ctx, err)
	switch {
	case errors.Is(err, backend.ErrConflict):
		return 0, ErrConflict
	case err != nil:
		return 0, fmt.Errorf("delete %s: %w", k.prefix+current.key, err)
	}
	return revision, nil
}

// DeleteUnreadable removes an object that cannot be decoded. ErrConflict if
// there is none or it can be.
func (s *Store) DeleteUnreadable(ctx context.Context, r *resource.Resource, namespace, name string) error {
	k, err := s.kind(r)
	if err != nil {
		return err
	}
	current, ok := k.get(k.key(namespace, name))
	if !ok || current.broken == nil {
		return ErrConflict
	}
	revision, err := s.delete(ctx, k, current)
	if err != nil {
		return err
	}
	// It is gone whether or not the caller waits until readers see it.
	_ = s.progress.wait(ctx, revision)
	return nil
}

// prepare encodes obj. What readers get is what the bytes say, whether the
// follower takes it from here or reads the backend: of most kinds somebody
// decodes them who wants the object, of the others it is done here.
func (k *kind) prepare(key string, obj resource.Object) (*pending, error) {
	later := k.decodesLater(obj)
	if later {
		k.r.Default(obj) // as it is when it is read: it may have been converted since
	}
	value, err := encode(k.r, obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", k.r.Kind, key, err)
	}
	if !later {
		if obj, err = decode(k.r, value); err != nil {
			return nil, err
		}
	}
	return &pending{kind: k, key: key, value: value, obj: obj, later: later}, nil
}

// decodesLater reports whether what is made of obj can be decoded, and gives nothing else than obj: kinds without a Go type
// have rules of their own, and a row may fill in something when it reads.
func (k *kind) decodesLater(obj resource.Object) bool {
	_, typed := obj.(runtime.ProtobufMarshaller)
	return typed && k.r.Custom == nil && k.r.Read == nil && !k.r.Packed
}

// written makes an item of the cache of a write of this process.
func (k *kind) written(w *pending, revision int64) *Item {
	if !w.later {
		return k.item(w.obj, revision, w.key, w.value)
	}
	item := &Item{revision: revision, key: w.key, size: len(w.value)}
	k.shape.keepWritten(item, w.obj, w.value)
	return item
}

// rehearsed is the item that a write would have made that was for show.
func (k *kind) rehearsed(w *pending, revision int64) (*Item, error) {
	obj, err := decode(k.r, w.value)
	if err != nil {
		return nil, err
	}
	return newItem(obj, revision, w.key, w.value), nil
}

// put writes w in place of current (nil: there is none) and waits until the
// follower has applied it, so that the writer finds its write in the cache.
// backend.ErrConflict is passed on. All objects are written here.
func (s *Store) put(ctx context.Context, k *kind, w *pending, current *Item) (*Item, error) {
	key, expected := k.prefix+w.key, backend.Absent
	if current != nil {
		expected = current.revision
	}
	var err error
	if w.stored, err = k.encrypt(ctx, key, w.value); err != nil {
		return nil, fmt.Errorf("encrypt %s: %w", key, err)
	}
	if !fits(key, w, current) {
		return nil, ErrTooLarge
	}
	lifetime := time.Duration(k.r.TTL(w.obj)) * time.Second
	s.pending.add(key, w)
	defer s.pending.remove(key, w)
	revision, err := s.backend.Put(ctx, key, w.stored, expected, lifetime)
	if err != nil {
		met(ctx, err)
		return nil, fmt.Errorf("write %s: %w", key, err)
	}
	if event := s.await(ctx, w, revision); event != nil {
		return event.New, nil
	}
	return k.rehearsed(w, revision) // the follower may have taken w.obj
}

// fits reports whether w may be stored under key. An object that is too large
// already (from before there was a limit) can still be made smaller, and its
// deletion can begin, which adds the time of it.
func fits(key string, w *pending, current *Item) bool {
	// What etcd adds to a value: the key up to three times, and some numbers.
	if size := len(w.stored) + 3*len(key) + 64; size <= backend.MaxValue {
		return true
	}
	if current == nil {
		return false
	}
	begins := current.Object().GetDeletionTimestamp() == nil && w.obj.GetDeletionTimestamp() != nil
	return begins || len(w.value) <= current.size
}

// await returns the event the follower made of a committed write; nil if it
// has not come to it when ctx ends, or has made it without w.
func (s *Store) await(ctx context.Context, w *pending, revision int64) *Event {
	if s.progress.wait(ctx, revision) != nil {
		return nil
	}
	if event := w.event.Load(); event != nil && event.Revision == revision {
		return event
	}
	return nil
}

// pendings are the writes of this process that are under way, so that the
// follower need not decode them again. A write is known by its key and bytes:
// equal bytes decode to equal objects, whoever wrote them.
type pendings struct {
	mu     sync.Mutex
	writes map[string][]*pending
}

func (p *pendings) add(key string, w *pending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes[key] = append(p.writes[key], w)
}

func (p *pendings) remove(key string, w *pending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rest := slices.DeleteFunc(p.writes[key], func(other *pending) bool { return other == w })
	if len(rest) == 0 {
		delete(p.writes, key)
		return
	}
	p.writes[key] = rest
}

// take finds the write that a change is of and marks it taken; nil if it is
// not of this process.
func (p *pendings) take(key string, stored []byte) *pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.writes[key] {
		if !w.taken && (w.stored == nil) == (stored == nil) && bytes.Equal(w.stored, stored) {
			w.taken = true
			return w
		}
	}
	return nil
}

// pending is a write under way.
type pending struct {
	kind   *kind
	key    string                // below the prefix of the kind
	value  []byte                // the encoded object
	stored []byte                // the same, encrypted; nil for a delete
	obj    resource.Object       // what the bytes say, or what they were made of
	later  bool                  // obj is what they were made of
	taken  bool                  // by the follower; guarded by pendings.mu
	event  atomic.Pointer[Event] // what the follower made of it
}
