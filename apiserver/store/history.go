package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/guard"
)

// historyKey is where all servers of a backend agree on what has expired. It
// is outside of what objects are stored under. Writing it makes a revision, so
// that old continue tokens expire and give new revisions on an idle cluster
// too.
const historyKey = "/skiff/history"

// maxReplay is how many changes a start replays at most to have the history
// that was there before it.
const maxReplay = 20_000

// history says which revision the backend was at when, oldest first, and what
// has been compacted.
type history struct {
	Compacted int64   `json:"compacted"`
	Points    []point `json:"points"`
}

// point is when a history was written and the revision that gave. The last
// point of a history does not know its own revision yet: 0.
type point struct {
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
}

// plan adds the present to h, which was written at a revision, and moves what
// is older than keep out. Any number of servers may do so at any times.
func (h history) plan(now time.Time, revision int64, keep time.Duration, age func(point) time.Duration) history {
	next := history{Compacted: h.Compacted}
	for _, p := range h.Points {
		if p.Revision == 0 {
			p.Revision = revision
		}
		if age(p) >= keep {
			next.Compacted = max(next.Compacted, p.Revision)
			continue
		}
		next.Points = append(next.Points, p)
	}
	next.Points = append(next.Points, point{Time: now})
	return next
}

// firstRevision is where a start begins to follow: as far back as history goes
// if that is not too much, else the newest revision.
func (s *Store) firstRevision(ctx context.Context, newest int64) int64 {
	h, _, err := s.readHistory(ctx)
	if err != nil {
		slog.Warn("Reading how far storage history goes back", "error", err)
		return newest
	}
	s.compacted = h.Compacted
	if newest-h.Compacted > maxReplay || newest == 0 {
		return newest
	}
	// The backend may have been compacted further by others, or filled with less
	// history than there was. Nothing can be listed at 0.
	if _, err := s.backend.List(ctx, historyKey, "", 1, max(h.Compacted, 1)); err != nil {
		return newest
	}
	return h.Compacted
}

func (s *Store) readHistory(ctx context.Context) (h history, revision int64, err error) {
	entry, _, err := s.backend.Get(ctx, historyKey)
	if errors.Is(err, backend.ErrNotFound) {
		return history{}, backend.Absent, nil
	}
	if err != nil {
		return history{}, 0, err
	}
	if err := json.Unmarshal(entry.Value, &h); err != nil {
		return history{}, 0, fmt.Errorf("decode %s: %w", historyKey, err)
	}
	return h, entry.Revision, nil
}

// keepHistory compacts the backend, a fifth of the history at a time, until
// ctx ends. Of several servers, one does it.
func (s *Store) keepHistory(ctx context.Context) {
	ticker := time.NewTicker(s.history / 5)
	defer ticker.Stop()
	began := time.Now()
	var known ages
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			if err := guard.Call("history of the store", func() error { return s.compact(ctx, now, now.Sub(began), &known) }); err != nil && ctx.Err() == nil && !errors.Is(err, backend.ErrClosed) {
				slog.Error("Compacting storage", "error", err)
			}
		}
	}
}

// compact does so at a time by the clock on the wall, which may have been set,
// and by that of the process, which cannot.
func (s *Store) compact(ctx context.Context, wall time.Time, own time.Duration, known *ages) error {
	h, revision, err := s.readHistory(ctx)
	if err != nil {
		return err
	}
	age := known.look(h, wall, own)
	if n := len(h.Points); n > 0 && age(h.Points[n-1]) < s.history/10 {
		return nil // another server has just done it
	}
	next := h.plan(wall, revision, s.history, age)
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if _, err := s.backend.Put(ctx, historyKey, value, revision, 0); errors.Is(err, backend.ErrConflict) {
		return nil
	} else if err != nil {
		return err
	}
	return s.backend.Compact(ctx, next.Compacted)
}

// historyChanged lets go of what has expired.
func (s *Store) historyChanged(value []byte) {
	var h history
	if err := json.Unmarshal(value, &h); err != nil {
		slog.Error("Unreadable storage history", "error", err)
		return
	}
	s.mu.Lock()
	s.compacted = max(s.compacted, h.Compacted)
	s.mu.Unlock()
	for _, k := range s.all() {
		k.feed.truncate(h.Compacted)
		k.forget(h.Compacted)
	}
}
