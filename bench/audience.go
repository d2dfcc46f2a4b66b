package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/bench/wire"
	"github.com/skiff-k8s/skiff/guard"
)

// audience is watchers that note when they see which revision.
type audience struct {
	watchers []*watcher
	stop     context.CancelFunc
	all      sync.WaitGroup
}

// watcher follows one watch, and makes another one where it ends, as informers do.
type watcher struct {
	conn *wire.Conn
	path string // up to the resourceVersion

	mu     sync.Mutex
	last   int64 // revision that was seen
	seen   []answer
	broken int   // times that the watch ended
	failed error // why it ended last
}

// sight is what an audience saw of the changes it was due.
type sight struct {
	lags   []time.Duration // from the answer to the writer, ascending; 0 where the event came first
	due    int
	broken int // watches that ended and were resumed
}

// watchNamespaces gives each namespace a watcher, and returns when all watch.
func (t *traffic) watchNamespaces(ctx context.Context) (*audience, error) {
	return t.watch(ctx, func(n int) string {
		return "/api/v1/namespaces/" + string(appendPadded([]byte(spacePrefix), int64(n), spaceDigits)) + "/configmaps?watch=true"
	})
}

func (t *traffic) watch(ctx context.Context, path func(n int) string) (*audience, error) {
	status, list, err := t.writing[0].NewCaller().Do(ctx, http.MethodGet, "/api/v1/namespaces/default/configmaps?limit=1", nil)
	if err == nil && status != http.StatusOK {
		err = &wire.StatusError{Status: status, Body: string(list)}
	}
	if err != nil {
		return nil, err
	}
	revision, err := wire.RevisionOfList(list)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	a := &audience{stop: stop}
	began := make(chan struct{}, t.scale.watchers)
	late := time.After(untilWatching)
	for n := range t.scale.watchers {
		w := &watcher{conn: t.watching[n%len(t.watching)], path: path(n) + "&allowWatchBookmarks=true&resourceVersion=", last: revision}
		a.watchers = append(a.watchers, w)
		a.all.Add(1)
		guard.Go("watcher", func() {
			defer a.all.Done()
			w.follow(ctx, sync.OnceFunc(func() { began <- struct{}{} }))
		})
	}
	for range t.scale.watchers {
		select {
		case <-began:
		case <-late:
			err = errors.Join(fmt.Errorf("not all watch after %v", untilWatching), a.failure())
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			a.end()
			return nil, fmt.Errorf("watch: %w", err)
		}
	}
	return a, nil
}

// untilWatching is how long a server may take to begin all watches.
const untilWatching = time.Minute

// failure is why a watch ended last, of one that did.
func (a *audience) failure() error {
	for _, w := range a.watchers {
		w.mu.Lock()
		err := w.failed
		w.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// follow watches until ctx ends.
func (w *watcher) follow(ctx context.Context, began func()) {
	for ctx.Err() == nil {
		var events wire.Splitter
		var gone error
		attempt, stop := context.WithCancel(ctx)
		err := w.conn.Get(attempt, fmt.Sprint(w.path, w.reached()), func(piece []byte) {
			began()
			if gone == nil {
				if gone = events.Add(piece, w.note); gone != nil {
					stop()
				}
			}
		})
		stop()
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		w.broken++
		w.failed = errors.Join(gone, err)
		w.mu.Unlock()
		var status *wire.StatusError
		if errors.As(err, &status) && status.Status == http.StatusGone || errors.Is(gone, errGone) {
			w.startOver()
			continue
		}
		if pause(ctx, afterFailure) != nil {
			return
		}
	}
}

var errGone = errors.New("the server ended the watch with an error")

// note takes an event.
func (w *watcher) note(e wire.Event) error {
	if e.Type == "ERROR" {
		return errGone
	}
	revision, err := wire.Revision(e.Object)
	if err != nil {
		return err
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = revision
	if e.Type != "BOOKMARK" {
		w.seen = append(w.seen, answer{revision, now})
	}
	return nil
}

func (w *watcher) reached() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// startOver lets the watch go on at any state: what was between is missed.
func (w *watcher) startOver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = 0
}

func (a *audience) end() {
	a.stop()
	a.all.Wait()
}

// count is how many events all have seen.
func (a *audience) count() (n int) {
	for _, w := range a.watchers {
		w.mu.Lock()
		n += len(w.seen)
		w.mu.Unlock()
	}
	return n
}

// await waits until the changes have been seen, each by so many watchers, and says how late. If no event has come
// for the quiet time, it is over. Who knows of writes that failed, which may have been done all the same, always waits for that.
func (a *audience) await(ctx context.Context, changes []answer, failed, by int, quiet time.Duration) sight {
	due := len(changes) * by
	for last, since := a.count(), time.Now(); ; {
		now := a.count()
		if now != last {
			last, since = now, time.Now()
		}
		if now >= due && failed == 0 || time.Since(since) > quiet || pause(ctx, 20*time.Millisecond) != nil {
			return a.sight(changes, by)
		}
	}
}

// sight joins what was answered with what was seen, and forgets the latter.
func (a *audience) sight(changes []answer, by int) sight {
	s := sight{due: len(changes) * by}
	answered := make(map[int64]time.Time, len(changes))
	for _, c := range changes {
		answered[c.revision] = c.at
	}
	for _, w := range a.watchers {
		w.mu.Lock()
		told := make(map[int64]bool)
		for _, e := range w.seen {
			at, due := answered[e.revision]
			if due && !told[e.revision] {
				told[e.revision] = true
				s.lags = append(s.lags, max(0, e.at.Sub(at)))
			}
		}
		s.broken += w.broken
		w.seen, w.broken = nil, 0
		w.mu.Unlock()
	}
	slices.Sort(s.lags)
	return s
}

// watchOne lets all watch one object, which one client updates at a pace that leaves the server time.
func (t *traffic) watchOne(ctx context.Context) (sight, error) {
	object := t.objects.Add(1)
	caller, body := t.writing[0].NewCaller(), t.body.clone()
	put := func(k kind) (answer, error) {
		body.fill(t.space(object), object, t.contents.Add(1))
		status, reply, err := caller.Do(ctx, k.method, t.path(k.method, object), body.bytes)
		revision, err := revisionOf(k, status, reply, err)
		return answer{revision, time.Now()}, err
	}
	if _, err := put(kind{method: http.MethodPost, success: http.StatusCreated}); err != nil {
		return sight{}, err
	}
	path := fmt.Sprintf("/api/v1/namespaces/%s/configmaps?watch=true&fieldSelector=metadata.name%%3D%s",
		appendPadded([]byte(spacePrefix), t.space(object), spaceDigits), appendPadded([]byte(objectPrefix), object, objectDigits))
	a, err := t.watch(ctx, func(int) string { return path })
	if err != nil {
		return sight{}, err
	}
	defer a.end()
	var changes []answer
	for began, n := time.Now(), 0; n < t.scale.updates; n++ {
		if err := pause(ctx, time.Until(began.Add(time.Duration(n)*t.scale.pace))); err != nil {
			return sight{}, err
		}
		change, err := put(kind{method: http.MethodPut, success: http.StatusOK})
		if err != nil {
			return sight{}, err
		}
		changes = append(changes, change)
	}
	return a.await(ctx, changes, 0, len(a.watchers), t.scale.quiet), nil
}
