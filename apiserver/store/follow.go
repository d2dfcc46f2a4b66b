package store

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/guard"
)

// retryAfter is how long the follower waits before it asks a backend again
// that gave an error.
const retryAfter = 200 * time.Millisecond

// follow applies the backend's changes until ctx ends.
func (s *Store) follow(ctx context.Context) {
	defer close(s.progress.end)
	for {
		err := guard.Call("store", func() error { return s.followOnce(ctx) })
		if ctx.Err() != nil || errors.Is(err, backend.ErrClosed) {
			return
		}
		if errors.Is(err, backend.ErrCompacted) {
			slog.Warn("Storage forgot changes before they were read; loading everything anew")
			err = s.reload(ctx)
		}
		if err != nil {
			slog.Error("Following the storage was interrupted", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryAfter):
		}
	}
}

func (s *Store) followOnce(ctx context.Context) error {
	for change, err := range s.backend.Watch(ctx, "", s.progress.reached.Load()) {
		if err != nil {
			return err
		}
		s.apply(change)
	}
	return nil
}

func (s *Store) apply(c backend.Change) {
	s.order.Lock()
	defer s.order.Unlock()
	switch {
	case c.Key == "": // progress
	case c.Key == historyKey:
		s.historyChanged(c.Value)
	case strings.HasPrefix(c.Key, registry):
		if k := s.kindOf(c.Key); k != nil {
			s.applyTo(k, c)
		}
	}
	s.progress.advance(c.Revision)
}

func (s *Store) applyTo(k *kind, c backend.Change) {
	w := s.pending.take(c.Key, c.Value)
	var item *Item
	switch {
	case c.Value == nil:
	case w != nil && w.kind == k:
		item = w.kind.item(w.obj, c.Revision, w.key, c.Value)
	default:
		item = k.decode(c.Key, c.Value, c.Revision)
	}
	event := k.apply(strings.TrimPrefix(c.Key, k.prefix), item, c.Revision)
	if w != nil && event != nil {
		w.event.Store(event)
	}
}

// reload replaces all kinds by what the backend holds now. Their watchers have
// missed something and are told so.
func (s *Store) reload(ctx context.Context) error {
	s.order.Lock()
	defer s.order.Unlock()
	revision, err := s.backend.Revision(ctx)
	if err != nil {
		return err
	}
	for _, k := range s.all() {
		fresh, err := s.load(ctx, k.r, revision)
		if err != nil {
			return err
		}
		k.mu.Lock()
		k.items, k.snapshot, k.past, k.last = fresh.items, nil, nil, revision
		k.mu.Unlock()
		k.feed.reset(revision)
	}
	s.progress.advance(revision)
	return nil
}

func (s *Store) all() []*kind {
	s.mu.RLock()
	defer s.mu.RUnlock()
	kinds := make([]*kind, 0, len(s.kinds))
	for _, k := range s.kinds {
		kinds = append(kinds, k)
	}
	return kinds
}
