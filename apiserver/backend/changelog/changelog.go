// Package changelog is what engines that hand out every revision exactly once
// (memory, file, relational) share: the recent changes, in memory, with watchers as
// cursors. Nobody is called back and nothing is buffered per watcher, so a
// slow watcher holds up nobody.
package changelog

import (
	"context"
	"iter"
	"strings"
	"sync"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// batch is how many changes a watcher takes from the log at a time.
const batch = 256

// Log holds the changes after some revision up to the newest, one for every
// revision. Its methods may be called concurrently.
type Log struct {
	mu      sync.RWMutex
	changes []backend.Change
	last    int64
	bytes   int           // that the changes take
	limit   int           // of bytes; 0: none
	wake    chan struct{} // closed by the next Append; nil while nobody waits
	closed  bool
}

// New returns a log that knows the changes after revision: none so far. It
// drops the oldest when all take more than limit bytes; 0 means that the engine
// calls Forget.
func New(revision int64, limit int) *Log { return &Log{last: revision, limit: limit} }

// Last is the newest revision.
func (l *Log) Last() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last
}

// Append adds changes. Their revisions must follow Last without a gap.
func (l *Log) Append(changes ...backend.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range changes {
		l.changes = append(l.changes, c)
		l.bytes += size(c)
		l.last = c.Revision
	}
	if l.limit > 0 {
		l.trim()
	}
	l.wakeAll()
}

// Forget drops the changes up to and including revision.
func (l *Log) Forget(revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(max(0, int(revision-l.floor())))
}

// Reset gives up the changes before a revision, which becomes the newest:
// watchers that have not reached it ask the engine. An older revision than Last
// is left alone.
func (l *Log) Reset(revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if revision <= l.last {
		return
	}
	l.forget(len(l.changes))
	l.last = revision
	l.wakeAll()
}

// trim drops the oldest changes, and the newest too if it is too large alone:
// watchers ask the engine for it.
func (l *Log) trim() {
	n, left := 0, l.bytes
	for n < len(l.changes) && left > l.limit {
		left -= size(l.changes[n])
		n++
	}
	l.forget(n)
}

// Close ends all watches with ErrClosed.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.wakeAll()
}

// Watch yields the changes below prefix after a revision. gone is asked for
// changes the log has dropped: it returns some of those after a revision, in
// order and without a gap, or an error.
func (l *Log) Watch(ctx context.Context, prefix string, after int64,
	gone func(after int64) ([]backend.Change, error)) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		seen := after // the newest revision the watcher knows it has reached
		for {
			changes, err := l.next(ctx, after, gone)
			if err != nil {
				yield(backend.Change{}, err)
				return
			}
			for _, c := range changes {
				after = c.Revision
				if !strings.HasPrefix(c.Key, prefix) {
					continue
				}
				if !yield(c, nil) {
					return
				}
				seen = after
			}
			if seen < after && after == l.Last() {
				if !yield(backend.Change{Revision: after}, nil) {
					return
				}
				seen = after
			}
		}
	}
}

// next waits for changes after a revision.
func (l *Log) next(ctx context.Context, after int64, gone func(int64) ([]backend.Change, error)) ([]backend.Change, error) {
	for {
		changes, known, wake, err := l.after(after)
		switch {
		case err != nil:
			return nil, err
		case !known:
			return gone(after)
		case len(changes) > 0:
			return changes, ctx.Err()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wake:
		}
	}
}

// after returns a batch of changes after a revision and, if there is none yet,
// the channel that is closed when there is.
func (l *Log) after(revision int64) (changes []backend.Change, known bool, wake <-chan struct{}, err error) {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return nil, false, nil, backend.ErrClosed
	}
	if revision < l.last {
		defer l.mu.RUnlock()
		from := revision - l.floor()
		if from < 0 {
			return nil, false, nil, nil
		}
		rest := l.changes[from:]
		return append(changes, rest[:min(batch, len(rest))]...), true, nil, nil
	}
	l.mu.RUnlock()
	return l.waiter(revision)
}

// waiter is after for a watcher that had seen everything a moment ago.
func (l *Log) waiter(revision int64) ([]backend.Change, bool, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if revision < l.last || l.closed {
		return nil, true, closed, nil
	}
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	return nil, true, l.wake, nil
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// floor is the revision after which the log knows all changes.
func (l *Log) floor() int64 { return l.last - int64(len(l.changes)) }

func (l *Log) forget(n int) {
	n = min(n, len(l.changes))
	for _, c := range l.changes[:n] {
		l.bytes -= size(c)
	}
	clear(l.changes[:n]) // so that the values can go before the slice is grown again
	l.changes = l.changes[n:]
}

func (l *Log) wakeAll() {
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// size is what a change takes in memory, with its place in the log.
func size(c backend.Change) int { return len(c.Key) + len(c.Value) + 64 }
