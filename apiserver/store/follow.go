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

// ended says that nothing follows any more.
func (s *Store) ended() {
	close(s.progress.end)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range s.prefixes {
		k.feed.wakeReaders()
	}
}

// follow applies the backend's changes until ctx ends.
func (s *Store) follow(ctx context.Context) {
	defer s.ended()
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
	var together []backend.Change // of one revision
	for change, err := range s.backend.Watch(ctx, "", s.progress.reached.Load()) {
		if err != nil {
			return err
		}
		if together = append(together, change); change.More {
			continue
		}
		s.apply(ctx, together)
		clear(together)
		together = together[:0]
	}
	return nil
}

// apply applies the changes of a revision. Of each kind readers see all or none.
func (s *Store) apply(ctx context.Context, changes []backend.Change) {
	s.order.Lock()
	defer s.order.Unlock()
	for len(changes) > 0 {
		n, k := 1, s.kindOf(changes[0].Key)
		for k != nil && n < len(changes) && s.kindOf(changes[n].Key) == k {
			n++
		}
		switch c := changes[0]; {
		case k != nil:
			s.applyTo(ctx, k, changes[:n])
		case c.Key == historyKey:
			s.historyChanged(c.Value)
		}
		if n == len(changes) {
			s.progress.advance(changes[0].Revision)
		}
		changes = changes[n:]
	}
}

func (s *Store) applyTo(ctx context.Context, k *kind, changes []backend.Change) {
	steps, writes := make([]step, len(changes)), make([]*pending, len(changes))
	for i, c := range changes {
		w := s.pending.take(c.Key, c.Value)
		steps[i] = step{key: strings.TrimPrefix(c.Key, k.prefix), revision: c.Revision}
		switch {
		case c.Value == nil:
		case w != nil && w.kind == k:
			steps[i].item = k.written(w, c.Revision)
		default:
			steps[i].item = k.decode(ctx, c.Key, c.Value, c.Revision)
		}
		writes[i] = w
	}
	for i, event := range k.apply(steps) {
		if w := writes[i]; w != nil {
			w.event.Store(event)
		}
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
		if err := s.loadAgain(ctx, k, revision); err != nil {
			return err
		}
	}
	s.progress.advance(revision)
	return nil
}

// loadAgain replaces what a kind holds by what the backend held at a revision.
// s.order is held.
func (s *Store) loadAgain(ctx context.Context, k *kind, revision int64) error {
	fresh, err := s.load(ctx, k.r, revision)
	if err != nil {
		return err
	}
	if fresh.locked.Load() {
		k.locked.Store(true)
	}
	k.mu.Lock()
	k.items, k.snapshot, k.past, k.last = fresh.items, nil, nil, revision
	k.mu.Unlock()
	k.feed.reset(revision)
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
