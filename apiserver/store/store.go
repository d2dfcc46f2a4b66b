// Package store keeps API objects in a backend and serves them from memory.
//
// A single follower reads the backend's changes, in order, into a cache and a
// feed per kind. Reads come from the cache; a consistent read waits until the
// cache has reached the newest revision of the backend. Watchers are cursors
// into the feed. Items and events are immutable, shared, and encoded at most
// once per form.
package store

import (
	"context"
	"errors"
	"hash/maphash"
	"iter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Config of Open.
type Config struct {
	Backend backend.Backend
	// Resources are the kinds to load; only their storage versions count.
	Resources []*resource.Resource
	// History is how long watches can be resumed and continue tokens stay good;
	// 0 means five minutes.
	History time.Duration
}

// Store is a set of kinds kept in one backend.
type Store struct{}

// Match selects objects; zero fields match all. It is evaluated on objects of
// the stored version.
type Match struct {
	Namespace, Name string
	Select          func(resource.Object) bool
	// IndexValue is the value of the kind's IndexBy field where the selector
	// fixes it; Select must imply it.
	IndexValue string
}

// ListOptions are those of a list request; see the API documentation,
// "Resource versions", for what they mean together.
type ListOptions struct {
	Match
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	Limit                int64
	Continue             string
}

// Page is part of a list: its items in the order of keys, the revision the
// whole list is of, a token for the next page (empty on the last), and how many
// items follow (nil on the last page and where a selector makes it unknown).
type Page struct {
	Items     []*Item
	Revision  int64
	Continue  string
	Remaining *int64
}

// Step is an event a watcher must know of, or (Event nil) only progress: all
// events up to Revision have been yielded. Was and Is tell whether Event.Old
// and Event.New match; at least one does.
type Step struct {
	Event    *Event
	Was, Is  bool
	Revision int64
}

var errUnready = errors.New("store is not ready")

func checksum(b []byte) uint64 { return maphash.Bytes(seed, b) }

var seed = maphash.MakeSeed()

func Open(ctx context.Context, c Config) (*Store, error) { return nil, errUnready }
func (s *Store) Get(ctx context.Context, r *resource.Resource, namespace, name string) (*Item, error) {
	return nil, errUnready
}
func (s *Store) Cached(r *resource.Resource, namespace, name string) (*Item, bool) { return nil, false }
func (s *Store) List(ctx context.Context, r *resource.Resource, o ListOptions) (*Page, error) {
	return nil, errUnready
}
func (s *Store) Create(ctx context.Context, r *resource.Resource, obj resource.Object, dryRun bool) (*Item, error) {
	return nil, errUnready
}
func (s *Store) Update(ctx context.Context, r *resource.Resource, namespace, name string, dryRun bool, change func(current *Item) (resource.Object, error)) (*Item, error) {
	return nil, errUnready
}
func (s *Store) Delete(ctx context.Context, r *resource.Resource, current *Item, dryRun bool) (*Item, error) {
	return nil, errUnready
}
func (s *Store) Watch(ctx context.Context, r *resource.Resource, m Match, after int64) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) { yield(Step{}, errUnready) }
}
func (s *Store) Snapshot(ctx context.Context, r *resource.Resource, m Match, minRevision int64) ([]*Item, int64, error) {
	return nil, 0, errUnready
}
func (s *Store) Revision(ctx context.Context) (int64, error)         { return 0, errUnready }
func (s *Store) Add(ctx context.Context, r *resource.Resource) error { return errUnready }
func (s *Store) Remove(r *resource.Resource)                         {}
