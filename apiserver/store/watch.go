package store

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// tickEvery is how often a quiet Watch yields the revision it has reached.
const tickEvery = time.Minute

// Step is an event a watcher must know of, or (Event nil) only progress: all
// events up to Revision have been yielded. Was and Is tell whether Event.Old
// and Event.New match; at least one does.
type Step struct {
	Event    *Event
	Was, Is  bool
	Revision int64
	// More says that the next step is there already: what is sent of this one
	// need not be flushed alone.
	More bool
}

// Watch yields the matching events after a revision, once each and in order,
// and every minute the progress made. It ends without an error when ctx
// ends or the resource is removed or added anew, with ErrExpired when its place
// in the feed is gone, with ErrUnreadable at an object that may match, and with
// backend.ErrClosed when the store ends.
func (s *Store) Watch(ctx context.Context, r *resource.Resource, m Match, after int64) iter.Seq2[Step, error] {
	return s.WatchTicks(ctx, r, m, after, time.Tick(tickEvery))
}

// WatchTicks is Watch for who wants to know of progress at times of its own: a
// quiet watch yields it when something comes from ticks, which may be nil.
func (s *Store) WatchTicks(ctx context.Context, r *resource.Resource, m Match, after int64, ticks <-chan time.Time) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		k, err := s.kind(r)
		if err != nil {
			yield(Step{}, err)
			return
		}
		w := watcher{store: s, kind: k, match: k.matcher(m), ticks: ticks, after: after, reached: after}
		if w.cursor = k.feed.open(k.part(m), after); w.cursor == nil {
			yield(Step{}, ErrExpired)
			return
		}
		defer w.cursor.close()
		for w.step(ctx, yield) {
		}
	}
}

// part is the smallest part of the feed that holds all a match can select.
func (k *kind) part(m Match) part {
	match := k.matcher(m)
	switch {
	case match.key != "":
		return part{key: match.key}
	case m.IndexValue != "" && k.r.IndexBy != "":
		return part{value: m.IndexValue}
	case match.prefix != "":
		return part{namespace: m.Namespace}
	}
	return part{}
}

type watcher struct {
	store   *Store
	kind    *kind
	match   matcher
	cursor  *cursor
	ticks   <-chan time.Time
	buffer  []*Event
	after   int64 // where the watch began, which may be ahead of the cache
	reached int64
}

// step yields the next events or waits for them. It returns whether to go on.
func (w *watcher) step(ctx context.Context, yield func(Step, error) bool) bool {
	// Taken before reading: whatever is applied by now is in the feed.
	applied := w.store.progress.reached.Load()
	events, wake, known := w.cursor.read(w.buffer)
	if !known {
		yield(Step{}, ErrExpired)
		return false
	}
	if wake == nil {
		defer clear(events) // a quiet watcher must not hold on to what it saw last
		w.buffer = events
		return w.yield(events, yield)
	}
	w.reached = max(w.reached, applied)
	// Whoever says one of these wakes all afterwards. To wait for less costs each watcher less at each event.
	switch {
	case closed(w.kind.gone):
		return false
	case closed(w.store.progress.end):
		yield(Step{}, backend.ErrClosed)
		return false
	}
	select {
	case <-ctx.Done():
	case <-wake:
		return true
	case <-w.ticks:
		return yield(Step{Revision: w.reached}, nil)
	}
	return false
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// yield passes on what matches, each step when it is known whether more follow.
func (w *watcher) yield(events []*Event, yield func(Step, error) bool) bool {
	var last Step
	for _, e := range events {
		if e.Revision <= w.after {
			continue
		}
		w.reached = max(w.reached, e.Revision)
		step := Step{Event: e, Was: w.match.item(e.Old), Is: w.match.item(e.New), Revision: e.Revision}
		broken := w.unreadable(e)
		if !step.Was && !step.Is && broken == nil {
			continue
		}
		if last.Event != nil {
			last.More = true
			if !yield(last, nil) {
				return false
			}
		}
		if broken != nil {
			yield(Step{}, broken)
			return false
		}
		last = step
	}
	return last.Event == nil || yield(last, nil)
}

// unreadable is why nobody can tell what an event is to the watcher; nil if it
// can be told. That an unreadable object is gone cannot: the watcher may know
// the object from when it could be read.
func (w *watcher) unreadable(e *Event) error {
	switch {
	case w.match.unreadable(e.New):
		return e.New.broken
	case !w.match.unreadable(e.Old):
		return nil
	case e.New != nil:
		return e.Old.broken
	}
	return &UnreadableError{w.kind.prefix + e.Old.key, fmt.Errorf("saw a DELETED event, but object data is corrupt: %w", e.Old.broken)}
}
