package encryption

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/skiff-k8s/skiff/apiserver/store"
)

// transformer encrypts values and decrypts them.
type transformer interface {
	// encrypt appends what is to be stored of value to out.
	encrypt(ctx context.Context, at place, out, value []byte) ([]byte, error)
	// decrypt returns the value, and whether encrypt would use another key now. It
	// does not change stored.
	decrypt(ctx context.Context, at place, stored []byte) (value []byte, stale bool, err error)
}

// place is where a value is stored. Its key is authenticated, so that what was
// stored somewhere else is not read there.
type place struct {
	resource schema.GroupResource
	key      string
}

// identity stores values as they are. It does not take what is encrypted for a
// value.
type identity struct{ store.Unencrypted }

func (identity) encrypt(_ context.Context, _ place, out, value []byte) ([]byte, error) {
	if out == nil {
		return value, nil
	}
	return append(out, value...), nil
}

func (i identity) decrypt(ctx context.Context, at place, stored []byte) ([]byte, bool, error) {
	return i.Decrypt(ctx, at.resource, at.key, stored)
}

// prefixed is a transformer, and what values begin with that are its own.
type prefixed struct {
	prefix string
	with   transformer
}

// chain is a list of which the first writes, and all read what begins with
// their prefixes.
type chain struct {
	list    []prefixed
	none    error // of what none of them knows
	metrics *metrics
}

func (c *chain) encrypt(ctx context.Context, at place, out, value []byte) ([]byte, error) {
	first, began := c.list[0], time.Now()
	if out == nil && first.prefix != "" {
		out = make([]byte, 0, len(value)+len(first.prefix)+overhead)
	}
	if first.prefix != "" {
		out = append(out, first.prefix...)
	}
	result, err := first.with.encrypt(ctx, at, out, value)
	c.metrics.transformed(at.resource, toStorage, first.prefix, time.Since(began), err)
	return result, err
}

// overhead is enough for what most providers add to a value.
const overhead = 128

func (c *chain) decrypt(ctx context.Context, at place, stored []byte) ([]byte, bool, error) {
	began := time.Now()
	var failed []error
	for i, p := range c.list {
		if len(stored) < len(p.prefix) || string(stored[:len(p.prefix)]) != p.prefix {
			continue
		}
		value, stale, err := p.with.decrypt(ctx, at, stored[len(p.prefix):])
		if err != nil && p.prefix == "" {
			continue // it is encrypted: one that follows may know how
		}
		c.metrics.transformed(at.resource, fromStorage, prefixLabel(p.prefix), time.Since(began), err)
		if err != nil {
			// The same kind of provider may follow with another key of that name.
			failed = append(failed, err)
			continue
		}
		return value, stale || i > 0, nil
	}
	if len(failed) > 0 {
		return nil, false, joined(failed)
	}
	c.metrics.transformed(at.resource, fromStorage, "unknown", time.Since(began), c.none)
	return nil, false, c.none
}

func prefixLabel(prefix string) string {
	if prefix == "" {
		return "identity"
	}
	return prefix
}

// joined is one error, in one line, that says each thing once.
func joined(list []error) error { return utilerrors.Reduce(utilerrors.NewAggregate(list)) }
