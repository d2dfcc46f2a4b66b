package store

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/guard"
)

// Encryption makes of the bytes of objects those that are stored, and back. Its
// methods may be called concurrently; they do not change the bytes they are
// given, and may return the same.
type Encryption interface {
	// Encrypt makes what is to be stored under key of the backend.
	Encrypt(ctx context.Context, r schema.GroupResource, key string, value []byte) ([]byte, error)
	// Decrypt is the opposite. stale says that Encrypt would not make of the
	// value what is stored, but for chance: it should be written anew.
	Decrypt(ctx context.Context, r schema.GroupResource, key string, stored []byte) (value []byte, stale bool, err error)
	// Changed is closed when Decrypt may read what it could not read before the
	// call.
	Changed() <-chan struct{}
}

// Unencrypted stores the bytes of objects as they are.
type Unencrypted struct{}

// encrypted is what values begin with that somebody has encrypted.
var encrypted = []byte("k8s:enc:")

// errEncrypted has the words of Kubernetes.
var errEncrypted = errors.New("identity transformer tried to read encrypted data")

// Encrypt returns value.
func (Unencrypted) Encrypt(_ context.Context, _ schema.GroupResource, _ string, value []byte) ([]byte, error) {
	return value, nil
}

// Decrypt returns stored, and fails if that is encrypted.
func (Unencrypted) Decrypt(_ context.Context, _ schema.GroupResource, _ string, stored []byte) ([]byte, bool, error) {
	if bytes.HasPrefix(stored, encrypted) {
		return nil, false, errEncrypted
	}
	return stored, false, nil
}

// Changed never happens.
func (Unencrypted) Changed() <-chan struct{} { return nil }

// DecryptError says why a stored value could not be decrypted. Later it may be:
// when a key is there again, or whoever has it.
type DecryptError struct{ Cause error }

func (e *DecryptError) Error() string { return e.Cause.Error() }

func (e *DecryptError) Unwrap() error { return e.Cause }

// EncryptError says why an object could not be written.
type EncryptError struct{ Cause error }

func (e *EncryptError) Error() string { return e.Cause.Error() }

func (e *EncryptError) Unwrap() error { return e.Cause }

// encrypt makes what is to be stored of an encoded object. All objects that are
// written pass here.
func (k *kind) encrypt(ctx context.Context, key string, value []byte) ([]byte, error) {
	stored, err := k.encryption.Encrypt(ctx, k.r.GR(), key, value)
	if err != nil {
		return nil, &EncryptError{err}
	}
	return stored, nil
}

// decrypt is the opposite. All objects that are read from the backend pass here.
func (k *kind) decrypt(ctx context.Context, key string, stored []byte) (value []byte, stale bool, err error) {
	value, stale, err = k.encryption.Decrypt(ctx, k.r.GR(), key, stored)
	if err != nil {
		return nil, false, &DecryptError{err}
	}
	return value, stale, nil
}

// stale reports whether what is stored of current has to be written anew though
// the object stays the same. backend.ErrConflict if current is not what is
// stored any more.
func (s *Store) stale(ctx context.Context, k *kind, current *Item) (bool, error) {
	if k.encryption == (Unencrypted{}) {
		return false, nil
	}
	entry, _, err := s.backend.Get(ctx, k.prefix+current.key)
	switch {
	case errors.Is(err, backend.ErrNotFound) || err == nil && entry.Revision != current.revision:
		return false, backend.ErrConflict
	case err != nil:
		return false, err
	}
	_, stale, err := k.decrypt(ctx, entry.Key, entry.Value)
	// What is known here and cannot be read from storage any more, as its key is
	// not configured now, has to be written anew all the more.
	return stale || err != nil, nil
}

// decryptEvery is how often what could not be decrypted is tried again.
const decryptEvery = 10 * time.Second

// decryptLater tries again what could not be decrypted until ctx ends: now and
// then, and when the encryption has changed.
func (s *Store) decryptLater(ctx context.Context) {
	for {
		changed := s.encryption.Changed() // before trying, so that nothing is missed
		for _, k := range s.all() {
			err := guard.Call("encryption of the store", func() error { return s.decryptAgain(ctx, k) })
			if err != nil && ctx.Err() == nil {
				slog.Error("Reading again what could not be decrypted", "prefix", k.prefix, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(decryptEvery):
		}
	}
}

// decryptAgain loads a kind anew if more of it can be decrypted than was when it
// was loaded. Its watchers have to begin anew too: they may not pass what could
// not be decrypted.
func (s *Store) decryptAgain(ctx context.Context, k *kind) error {
	if !k.locked.Swap(false) {
		return nil
	}
	left, opened := 0, 0
	for _, item := range k.undecrypted() {
		// Whoever has the keys is asked here, and not when all readers wait.
		if s.opens(ctx, k, item) {
			opened++
		} else {
			left++
		}
	}
	if opened == 0 { // nothing to load: what is not there any more was deleted
		if left > 0 {
			k.locked.Store(true)
		}
		return nil
	}
	s.order.Lock()
	defer s.order.Unlock()
	err := s.loadAgain(ctx, k, s.progress.reached.Load())
	if err != nil || left > 0 {
		k.locked.Store(true)
	}
	return err
}

// opens reports whether the stored value of an unreadable item can be decrypted
// now, or is not there any more.
func (s *Store) opens(ctx context.Context, k *kind, item *Item) bool {
	entry, _, err := s.backend.Get(ctx, k.prefix+item.key)
	if err != nil {
		return errors.Is(err, backend.ErrNotFound)
	}
	_, _, err = k.decrypt(ctx, entry.Key, entry.Value)
	return err == nil
}

// undecrypted are the items that could not be decrypted.
func (k *kind) undecrypted() (items []*Item) {
	k.now(0).items.byKey.Ascend(func(item *Item) bool {
		if item.undecrypted() {
			items = append(items, item)
		}
		return true
	})
	return items
}

func (i *Item) undecrypted() bool {
	var failed *DecryptError
	return i.broken != nil && errors.As(i.broken, &failed)
}
