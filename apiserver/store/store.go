// Package store keeps API objects in a backend and serves them from memory.
//
// A single follower reads the backend's changes, in order, into a cache and a
// feed per kind. Reads come from the cache; a consistent read waits until the
// cache has reached the newest revision of the backend. Watchers are cursors
// into the feed. Items and events are immutable and shared. An item keeps what
// is stored; its object and its encoded forms are made when somebody asks, and
// shared for as long as they are used.
package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/guard"
)

// Config of Open.
type Config struct {
	Backend backend.Backend
	// Resources are the kinds to load; only their storage versions count.
	Resources []*resource.Resource
	// Encryption is what objects are encrypted by; nil means Unencrypted.
	Encryption Encryption
	// History is how long watches can be resumed and continue tokens stay good;
	// 0 means five minutes.
	History time.Duration
	// Changed, if not nil, is called with what differs of objects that readers of the
	// cache have changed, which nobody may. It is for tests: it takes a copy of every
	// object.
	Changed func(difference string)
}

// Store is a set of kinds kept in one backend. Its methods may be called
// concurrently. All take any version of a resource and work on the stored one.
type Store struct {
	backend    backend.Backend
	encryption Encryption
	history    time.Duration
	progress   progress
	pending    pendings
	forms      forms
	detector   *detector
	end        context.CancelFunc
	running    guard.Group // what uses the backend without being called

	// order is held by the follower while it applies a change, and by Add and
	// Remove, which must not see half of one.
	order sync.Mutex

	mu        sync.RWMutex
	kinds     map[id]*kind
	prefixes  map[string]*kind // the same, by what their keys begin with
	compacted int64            // lists of older revisions have expired
}

// Open loads all resources from the backend, unless ctx ends meanwhile, and
// follows it until Close: requests that are let finish still need it when a
// server is told to end. When Open returns, the cache holds everything that was
// stored before the call. The store must be closed, before the backend is.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{
		backend:    c.Backend,
		encryption: c.Encryption,
		history:    c.History,
		pending:    pendings{writes: make(map[string][]*pending)},
		progress:   progress{end: make(chan struct{})},
		kinds:      make(map[id]*kind),
		prefixes:   make(map[string]*kind),
	}
	if c.Changed != nil {
		s.detector = &detector{changed: c.Changed}
	}
	if s.encryption == nil {
		s.encryption = Unencrypted{}
	}
	if s.history == 0 {
		s.history = 5 * time.Minute
	}
	moved, err := s.move(ctx, c.Resources)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	newest, err := s.backend.Revision(ctx)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	start := newest
	if !moved { // else watches would be told that everything is new
		start = s.firstRevision(ctx, newest)
	}
	for _, r := range c.Resources {
		if s.kinds[idOf(r)] != nil {
			continue // another version of the same kind
		}
		k, err := s.load(ctx, r.Stored, start)
		if err != nil {
			return nil, err
		}
		s.serve(k)
	}
	s.progress.advance(start)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	s.end = end
	s.running.Go("store", func() { s.follow(life) })
	s.running.Go("history of the store", func() { s.keepHistory(life) })
	if s.encryption != (Unencrypted{}) {
		s.running.Go("encryption of the store", func() { s.decryptLater(life) })
	}
	if err := s.progress.wait(ctx, newest); err != nil {
		s.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// Close ends all watches and what the store does by itself, and waits for it.
func (s *Store) Close() {
	s.end()
	s.running.Wait()
	s.detector.check()
}

// Add starts to serve a resource that was not among those of Open. If it is
// known already, its objects are decoded anew by r, and watches of it end so
// that clients resume them under r.
func (s *Store) Add(ctx context.Context, r *resource.Resource) error {
	s.order.Lock()
	defer s.order.Unlock()
	k, err := s.load(ctx, r.Stored, s.progress.reached.Load())
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.kinds[idOf(r)]; old != nil {
		k.feed.inherit(old.feed)
		old.end()
	}
	s.serve(k)
	return nil
}

// serve makes k the kind that is served under its names. The caller holds mu.
func (s *Store) serve(k *kind) {
	s.kinds[idOf(k.r)], s.prefixes[k.prefix] = k, k
}

// Remove stops serving a resource; its watches end. What is stored stays.
func (s *Store) Remove(r *resource.Resource) {
	s.order.Lock()
	defer s.order.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.kinds[idOf(r)]; k != nil {
		delete(s.kinds, idOf(r))
		delete(s.prefixes, k.prefix)
		k.end()
	}
}

// load makes a kind with what is stored at a revision; 0 is before the first
// write.
func (s *Store) load(ctx context.Context, r *resource.Resource, revision int64) (*kind, error) {
	k := newKind(newShape(r, &s.forms, s.detector), s.encryption, revision)
	if revision == 0 {
		return k, nil
	}
	page, err := s.backend.List(ctx, k.prefix, "", 0, revision)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", k.prefix, err)
	}
	for _, entry := range page.Entries {
		item := k.decode(ctx, entry.Key, entry.Value, entry.Revision)
		k.items.share(item)
		k.items.put(item)
	}
	return k, nil
}

// decode makes an item of stored bytes. Where they cannot be decoded, the item
// stands for the object all the same: reads that would include it must fail. To
// leave it out would be to say that it is gone, upon which controllers would
// delete what it owns and make another one.
func (k *kind) decode(ctx context.Context, key string, stored []byte, revision int64) *Item {
	short := strings.TrimPrefix(key, k.prefix)
	value, _, err := k.decrypt(ctx, key, stored)
	if err != nil {
		k.locked.Store(true)
	}
	var obj resource.Object
	if err == nil {
		obj, err = decode(k.r, value)
	}
	if err != nil {
		slog.Error("Stored object is unreadable; reads that include it fail", "key", key, "revision", revision, "error", err)
		return &Item{broken: &UnreadableError{key, err}, revision: revision, key: short, size: len(stored)}
	}
	return k.item(obj, revision, short, value)
}

// item makes an item of the cache.
func (k *kind) item(obj resource.Object, revision int64, key string, value []byte) *Item {
	item := newItem(obj, revision, key, value)
	k.shape.keep(item, value)
	return item
}

// id is what the versions of a kind have in common.
type id struct{ group, plural string }

func idOf(r *resource.Resource) id { return id{r.Stored.Group, r.Stored.Plural} }

func (s *Store) kind(r *resource.Resource) (*kind, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	k := s.kinds[idOf(r)]
	if k == nil {
		return nil, fmt.Errorf("%s: %w", r.GR(), ErrUnknownResource)
	}
	return k, nil
}

// kindOf finds the kind a key of the backend belongs to; nil if it is not
// served.
func (s *Store) kindOf(key string) *kind {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return kindAmong(s.prefixes, key)
}

// kindAmong finds the kind a key belongs to among kinds by their prefixes.
func kindAmong(prefixes map[string]*kind, key string) *kind {
	below, ok := strings.CutPrefix(key, resource.Registry)
	if !ok {
		return nil
	}
	first, rest, _ := strings.Cut(below, "/")
	second, _, _ := strings.Cut(rest, "/")
	// Prefixes have one part or two, and none begins with another.
	if k := prefixes[resource.Registry+first+"/"]; k != nil {
		return k
	}
	return prefixes[resource.Registry+first+"/"+second+"/"]
}
