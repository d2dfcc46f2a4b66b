package upstream

import (
	"context"
	encoding "encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// adapter is the contract's view of a server: what it writes goes to the store,
// what it reads and watches is asked of the handler of requests (ask.go).
type adapter struct {
	t          testing.TB
	backend    backend.Backend
	form       form
	row        *resource.Resource
	encryption *encryption
	lifetimes  sync.Map // seconds, by "namespace/name"
	requests   sync.WaitGroup
	watches    watches

	mu     sync.RWMutex
	server *server
}

// server is a store and what serves requests from it.
type server struct {
	store   *store.Store
	handler *rest.Handler
}

var (
	_ storagetesting.InterfaceWithPrefixTransformer  = (*adapter)(nil)
	_ storagetesting.InterfaceWithCorruptTransformer = (*adapter)(nil)
)

// prefix is what the values of the contract begin with when they are encrypted.
const prefix = "test!"

func newAdapter(t testing.TB, b backend.Backend, f form, clusterScoped bool) *adapter {
	a := &adapter{
		t: t, backend: b, form: f,
		encryption: &encryption{transformer: storagetesting.NewPrefixTransformer([]byte(prefix), false)},
	}
	a.watches.moved = sync.NewCond(&a.watches.mu)
	a.row = row(f, clusterScoped, a.lifetime)
	a.begin()
	a.start()
	t.Cleanup(func() {
		a.now().store.Close()
		a.requests.Wait()
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return a
}

// begin makes the first revision, which the contract expects to be of no object,
// as in an etcd.
func (a *adapter) begin() {
	revision, err := a.backend.Revision(context.Background())
	if err == nil && revision == 0 {
		_, err = a.backend.Put(context.Background(), "/other", []byte("x"), backend.Absent, 0)
	}
	if err != nil {
		a.t.Fatalf("begin: %v", err)
	}
}

// leastLifetime is in seconds. The contract reads what has a second to live, for
// which a machine with other work may need more.
const leastLifetime = 5

func (a *adapter) lifetime(namespace, name string) uint64 {
	seconds, _ := a.lifetimes.Load(namespace + "/" + name)
	n, _ := seconds.(uint64)
	if n > 0 {
		return max(n, leastLifetime)
	}
	return 0
}

// start opens a store on what the backend holds.
func (a *adapter) start() {
	s, err := store.Open(context.Background(), store.Config{Backend: a.backend, Resources: []*resource.Resource{a.row}, Encryption: a.encryption})
	if err != nil {
		a.t.Fatalf("open the store: %v", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = &server{s, newHandler(s, a.row)}
}

func (a *adapter) now() *server {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.server
}

// useTransformer starts the server anew with another encryption, so that it has
// to read what is stored.
func (a *adapter) useTransformer(t value.Transformer) {
	a.now().store.Close()
	a.encryption.use(t)
	a.start()
}

// UpdatePrefixTransformer is of storagetesting.InterfaceWithPrefixTransformer.
func (a *adapter) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) (revert func()) {
	original := a.encryption.now()
	changed := *original.(*storagetesting.PrefixTransformer)
	a.useTransformer(modify(&changed))
	return func() { a.useTransformer(original) }
}

// CorruptTransformer is of storagetesting.InterfaceWithCorruptTransformer.
func (a *adapter) CorruptTransformer() (revert func()) {
	original := a.encryption.now()
	a.useTransformer(corrupt{original})
	return func() { a.useTransformer(original) }
}

// corrupt reads nothing.
type corrupt struct{ value.Transformer }

func (corrupt) TransformFromStorage(context.Context, []byte, value.Context) ([]byte, bool, error) {
	return nil, false, errors.New("bits flipped")
}

// encryption is a transformer of the contract.
type encryption struct {
	mu          sync.RWMutex
	transformer value.Transformer
}

func (e *encryption) now() value.Transformer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.transformer
}

func (e *encryption) use(t value.Transformer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.transformer = t
}

func (e *encryption) Encrypt(ctx context.Context, _ schema.GroupResource, key string, value []byte) ([]byte, error) {
	return e.now().TransformToStorage(ctx, value, keyContext(key))
}

func (e *encryption) Decrypt(ctx context.Context, _ schema.GroupResource, key string, stored []byte) ([]byte, bool, error) {
	return e.now().TransformFromStorage(ctx, stored, keyContext(key))
}

func (e *encryption) Changed() <-chan struct{} { return nil }

func keyContext(key string) value.Context { return value.DefaultContext(key) }

// place is the object or the collection that a key of the contract stands for.
func place(key string) (namespace, name string, err error) {
	below, ok := strings.CutPrefix(key, "/pods/")
	if !ok {
		return "", "", fmt.Errorf("%q is no key of a pod", key)
	}
	if i := strings.LastIndex(below, "/"); i >= 0 {
		return below[:i], below[i+1:], nil
	}
	return "", below, nil
}

// meaning gives an error of the store the type that the contract has for it.
func meaning(err error, key string) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return storage.NewKeyNotFoundError(key, 0)
	case errors.Is(err, store.ErrExists):
		return storage.NewKeyExistsError(key, 0)
	case errors.Is(err, store.ErrUnreadable):
		return storage.NewInternalError(err)
	}
	return err
}

func (a *adapter) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if obj.(*example.Pod).ResourceVersion != "" {
		return storage.ErrResourceVersionSetOnCreate
	}
	item, err := a.create(ctx, key, obj, ttl)
	if err != nil {
		return meaning(err, key)
	}
	a.watches.wait(key, obj, item.Revision())
	return put(item, out)
}

func (a *adapter) create(ctx context.Context, key string, obj runtime.Object, ttl uint64) (*store.Item, error) {
	namespace, name, err := place(key)
	if err != nil {
		return nil, err
	}
	pod, err := stored(a.form, obj)
	if err != nil {
		return nil, err
	}
	// The store places objects by their names. What the contract would put
	// elsewhere gets the names of that place.
	pod.SetNamespace(namespace)
	pod.SetName(name)
	a.lifetimes.Store(namespace+"/"+name, ttl)
	return a.now().store.Create(ctx, a.row, pod, false)
}

// put copies an item to where the contract wants it.
func put(item *store.Item, out runtime.Object) error {
	if out == nil {
		return nil
	}
	pod, err := read(item.Object())
	if err != nil {
		return err
	}
	*out.(*example.Pod) = *pod
	return nil
}

func (a *adapter) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, o storage.DeleteOptions) error {
	namespace, name, err := place(key)
	if err != nil {
		return err
	}
	for {
		item, err := a.now().store.Get(ctx, a.row, namespace, name)
		if errors.Is(err, store.ErrUnreadable) && o.IgnoreStoreReadError {
			return a.now().store.DeleteUnreadable(ctx, a.row, namespace, name)
		}
		if err != nil {
			return meaning(err, key)
		}
		pod, err := read(item.Object())
		if err != nil {
			return err
		}
		if err := preconditions.Check(key, pod); err != nil {
			return err
		}
		if err := validate(ctx, pod); err != nil {
			return err
		}
		deleted, err := a.now().store.Delete(ctx, a.row, item, false)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return meaning(err, key)
		}
		return put(deleted, out)
	}
}

func (a *adapter) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, try storage.UpdateFunc, _ runtime.Object) error {
	namespace, name, err := place(key)
	if err != nil {
		return err
	}
	for {
		item, err := a.now().store.Update(ctx, a.row, namespace, name, false, func(current *store.Item) (resource.Object, error) {
			pod, err := read(current.Object())
			if err != nil {
				return nil, err
			}
			if err := preconditions.Check(key, pod); err != nil {
				return nil, err
			}
			next, ttl, err := try(pod, storage.ResponseMeta{ResourceVersion: uint64(current.Revision())})
			if err != nil {
				return nil, err
			}
			if ttl != nil {
				a.lifetimes.Store(namespace+"/"+name, *ttl)
			}
			return stored(a.form, next)
		})
		if errors.Is(err, store.ErrNotFound) && ignoreNotFound {
			item, err = a.createBy(ctx, key, try)
		}
		if errors.Is(err, store.ErrExists) {
			continue
		}
		if err != nil {
			return meaning(err, key)
		}
		return put(item, out)
	}
}

func (a *adapter) createBy(ctx context.Context, key string, try storage.UpdateFunc) (*store.Item, error) {
	obj, ttl, err := try(new(example.Pod), storage.ResponseMeta{})
	if err != nil {
		return nil, err
	}
	if ttl == nil {
		ttl = new(uint64)
	}
	return a.create(ctx, key, obj, *ttl)
}

func (a *adapter) Versioner() storage.Versioner { return storage.APIObjectVersioner{} }

func (a *adapter) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	revision, err := a.now().store.Revision(ctx)
	return uint64(revision), err
}

// CompactRevision reads what servers agree on.
func (a *adapter) CompactRevision() int64 {
	note, _ := a.history(context.Background())
	return note.Compacted
}

func (a *adapter) history(ctx context.Context) (note struct {
	Compacted int64 `json:"compacted"`
}, revision int64) {
	entry, _, err := a.backend.Get(ctx, "/skiff/history")
	if err == nil {
		err = encoding.Unmarshal(entry.Value, &note)
	}
	if err != nil && !errors.Is(err, backend.ErrNotFound) {
		a.t.Errorf("read the history: %v", err)
	}
	return note, entry.Revision
}

// expire is what another server of the same storage does to forget history.
func (a *adapter) expire(ctx context.Context, t *testing.T, version string) {
	t.Helper()
	revision, err := a.Versioner().ParseResourceVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	_, expected := a.history(ctx)
	if _, err := a.backend.Put(ctx, "/skiff/history", fmt.Appendf(nil, `{"compacted":%d}`, revision), expected, 0); err != nil {
		t.Fatalf("write the history: %v", err)
	}
	a.catchUp(ctx, t)
}

// compact is expire, and compaction of the backend.
func (a *adapter) compact(ctx context.Context, t *testing.T, version string) {
	t.Helper()
	a.expire(ctx, t, version)
	if err := a.backend.Compact(ctx, a.CompactRevision()); err != nil {
		t.Fatalf("compact: %v", err)
	}
	a.catchUp(ctx, t)
}

// increase makes a revision that has nothing to do with pods.
func (a *adapter) increase(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	entry, _, err := a.backend.Get(ctx, "/other")
	if err != nil && !errors.Is(err, backend.ErrNotFound) {
		t.Fatal(err)
	}
	revision, err := a.backend.Put(ctx, "/other", []byte("x"), entry.Revision, 0)
	if err != nil {
		t.Fatal(err)
	}
	a.catchUp(ctx, t)
	return revision
}

// catchUp returns when readers see all that was written.
func (a *adapter) catchUp(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, err := a.now().store.Changed(ctx, a.row); err != nil {
		t.Fatal(err)
	}
}

// validate checks what is stored of a pod.
func (a *adapter) validate(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	namespace, name, err := place(key)
	if err != nil {
		t.Fatal(err)
	}
	entry, _, err := a.backend.Get(ctx, a.row.Key(namespace, name))
	if err != nil {
		t.Fatalf("what is stored at %s: %v", key, err)
	}
	pod := a.row.New()
	if err := store.DecodeNote([]byte(strings.TrimPrefix(string(entry.Value), prefix)), pod); err != nil {
		t.Fatalf("decode what is stored at %s: %v", key, err)
	}
	if pod.GetName() != name || pod.GetResourceVersion() != "" || pod.GetSelfLink() != "" {
		t.Errorf("at %s is stored %v", key, pod)
	}
}

// The rest of storage.Interface says how busy or how large etcd is, which
// nobody here asks.
func (a *adapter) Stats(context.Context) (storage.Stats, error) { return storage.Stats{}, errNotAsked }

func (a *adapter) ReadinessCheck() error { return errNotAsked }

func (a *adapter) RequestWatchProgress(context.Context) error { return errNotAsked }

func (a *adapter) EnableResourceSizeEstimation(storage.KeysFunc) error { return errNotAsked }

var errNotAsked = errors.New("not asked here")
