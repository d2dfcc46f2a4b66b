package store

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// inRequest is the newest revision that a request has asked for; 0 if it has to ask.
type inRequest struct{ newest atomic.Int64 }

type inRequestKey struct{}

// InRequest returns a context for the work of one request. The reads under it ask the backend once which revision is the
// newest, rather than each: what had been written when the request began is in all of them, and more need not be. Over
// a network a write would else wait for its admission to ask again and again.
//
// A write under it that meets what this server had not seen makes the next read ask again, as Anew does.
func InRequest(ctx context.Context) context.Context {
	return context.WithValue(ctx, inRequestKey{}, new(inRequest))
}

// Anew lets the next read of a request ask again, after somebody else had a say who may have written: a webhook.
func Anew(ctx context.Context) {
	if r, ok := ctx.Value(inRequestKey{}).(*inRequest); ok {
		r.newest.Store(0)
	}
}

// met lets a read after err see what the write that failed with it has met.
func met(ctx context.Context, err error) {
	if errors.Is(err, backend.ErrConflict) {
		Anew(ctx)
	}
}

// newest is the newest revision of the backend, as of the beginning of the request of ctx or later.
func (s *Store) newest(ctx context.Context) (int64, error) {
	r, ok := ctx.Value(inRequestKey{}).(*inRequest)
	if !ok {
		return s.backend.Revision(ctx)
	}
	if known := r.newest.Load(); known > 0 {
		return known, nil
	}
	revision, err := s.backend.Revision(ctx)
	if err == nil {
		r.newest.Store(revision)
	}
	return revision, err
}
