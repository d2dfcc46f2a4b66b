package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// watch serves GET of a collection with watch=1, and old paths below /watch.
func (h *Handler) watch(w http.ResponseWriter, r *http.Request, t *target) error {
	out, err := codec.NegotiateWatch(r, t.offer())
	if err != nil {
		return err
	}
	options, err := listOptions(r.URL.Query(), !h.NoWatchLists)
	if err != nil {
		return err
	}
	selected, err := match(t, options.LabelSelector, options.FieldSelector)
	if err != nil {
		return err
	}
	from, err := parseStart(options)
	if err != nil {
		return err
	}
	table, err := codec.ParseTableOptions(r, out)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.watchTime(options))
	defer cancel()
	s := &stream{
		handler: h, resource: t.resource, match: selected, start: from, bookmarks: options.AllowWatchBookmarks,
		framer: codec.Framer{Output: out, Resource: t.resource, Table: table},
	}
	err = s.prepare(ctx)
	if s.failed = err; err != nil && !errors.Is(err, store.ErrFuture) {
		return fromStore(err, t.resource, "")
	}
	if to := receiver(ctx); to != nil {
		return s.give(ctx, w, to)
	}
	if isWebSocket(r) {
		return s.serveWebSocket(ctx, w, r)
	}
	return s.serveHTTP(ctx, w)
}

// watchTime is how long a watch lasts. Without a wish of the client it is at
// random, so that watches that began together do not end together. A negative
// wish ends it at once.
func (h *Handler) watchTime(options *internalversion.ListOptions) time.Duration {
	if s := options.TimeoutSeconds; s != nil && *s != 0 {
		return time.Duration(*s) * time.Second
	}
	least := h.MinWatch
	if least == 0 {
		least = 30 * time.Minute
	}
	return least + rand.N(least)
}

// start is where a watch begins.
type start struct {
	initial bool // with an ADDED event for every object there is
	// announced: a bookmark says when the initial events are over.
	announced bool
	newest    bool  // at the newest revision of the backend
	after     int64 // else: after this revision; with initial, at least at it
}

func parseStart(o *internalversion.ListOptions) (start, error) {
	s := start{newest: o.ResourceVersion == ""}
	if !s.newest {
		var err error
		if s.after, err = store.ParseVersion(o.ResourceVersion); err != nil {
			return s, err // 500, as for get
		}
	}
	if o.SendInitialEvents != nil {
		s.initial, s.announced = *o.SendInitialEvents, *o.SendInitialEvents
	} else {
		s.initial = s.after == 0
	}
	return s, nil
}

// stream is one watch being served.
type stream struct {
	handler   *Handler
	resource  *resource.Resource
	match     store.Match
	start     start
	bookmarks bool
	framer    codec.Framer
	items     []*store.Item // the initial events
	failed    error         // why the watch cannot begin, told in an event
}

// prepare finds the revision the watch goes on from, and the initial events.
func (s *stream) prepare(ctx context.Context) error {
	least := s.start.after
	if s.start.newest {
		least = -1
	}
	if !s.start.initial {
		if s.start.newest || s.start.after == 0 {
			revision, err := s.handler.Store.Revision(ctx)
			s.start.after = revision
			return err
		}
		return nil
	}
	items, revision, err := s.handler.Store.Snapshot(ctx, s.resource, s.match, least)
	s.items, s.start.after = items, revision
	return err
}

// sink takes frames to the client.
type sink interface {
	io.Writer
	Flush() error
}

// run sends everything until ctx or the watch ends. Its error is the client's
// leaving.
func (s *stream) run(ctx context.Context, out sink) error {
	if s.failed != nil {
		return s.sendError(out, s.failed)
	}
	if err := s.sendInitial(out); err != nil {
		return err
	}
	var left error // why the client gets no more
	err := s.follow(ctx, func(step store.Step) error {
		frame, err := s.frame(step)
		if err != nil {
			return err
		}
		if _, left = out.Write(frame); left != nil || step.More {
			return left
		}
		left = out.Flush()
		return left
	})
	if err != nil && left == nil {
		return s.sendError(out, err)
	}
	return left
}

// follow calls f with each step until ctx or the watch ends, or f fails, whose
// error it returns as it does that of the watch.
func (s *stream) follow(ctx context.Context, f func(store.Step) error) error {
	due := time.NewTimer(s.nextBookmark(ctx))
	defer due.Stop()
	ticks := due.C
	if !s.bookmarks {
		ticks = nil
	}
	for step, err := range s.handler.Store.WatchTicks(ctx, s.resource, s.match, s.start.after, ticks) {
		if err != nil {
			return err
		}
		if step.Event == nil {
			due.Reset(s.nextBookmark(ctx))
		}
		if err := f(step); err != nil {
			return err
		}
	}
	return nil
}

// nextBookmark is how long the next bookmark is away.
func (s *stream) nextBookmark(ctx context.Context) time.Duration {
	every := s.handler.BookmarkEvery
	if every == 0 {
		every = time.Minute
	}
	deadline, _ := ctx.Deadline() // see Handler.watch
	return bookmarkAfter(every, time.Until(deadline))
}

// bookmarkAfter paces bookmarks: two and one second before the end of the watch,
// where they let the client resume at its last state, and regularly until then.
func bookmarkAfter(every, left time.Duration) time.Duration {
	switch before := left - 2*time.Second; {
	case before > 0:
		return min(every, before)
	case left > time.Second:
		return min(every, time.Second)
	case every < left:
		return every
	}
	return left + time.Minute // never: it must not race with the end
}

// sendInitial sends the objects there are, and a bookmark after them that
// says so.
func (s *stream) sendInitial(out sink) error {
	for _, item := range s.items {
		frame, err := s.framer.Item(watch.Added, item)
		if err != nil {
			return s.sendError(out, err)
		}
		if _, err := out.Write(frame); err != nil {
			return err
		}
	}
	s.items = nil
	if s.start.announced && s.bookmarks {
		frame, err := s.framer.Bookmark(s.start.after, true)
		if err != nil {
			return s.sendError(out, err)
		}
		if _, err := out.Write(frame); err != nil {
			return err
		}
	}
	return out.Flush()
}

// seen is what a step is to this client: an object that comes to match is new,
// and one that no longer does is gone, as it was when it did.
func (s *stream) seen(step store.Step) (watch.EventType, func() resource.Object) {
	e := step.Event
	last := func() resource.Object { return e.Last().Object() }
	switch {
	case !step.Is && e.New != nil:
		return watch.Deleted, func() resource.Object {
			left := e.Old.Object().DeepCopyObject().(resource.Object)
			left.SetResourceVersion(strconv.FormatInt(e.Revision, 10))
			return left
		}
	case !step.Is:
		return watch.Deleted, last
	case !step.Was:
		return watch.Added, last
	}
	return watch.Modified, last
}

// frame is what a step looks like to this client; progress is a bookmark.
func (s *stream) frame(step store.Step) ([]byte, error) {
	e := step.Event
	if e == nil {
		return s.framer.Bookmark(step.Revision, false)
	}
	t, obj := s.seen(step)
	make := func(e *store.Event) ([]byte, error) {
		if t == watch.Deleted && e.New != nil {
			return s.framer.Object(t, obj())
		}
		return s.framer.Item(t, e.Last())
	}
	if !s.framer.Shared() {
		return make(e)
	}
	return e.Frame(s.framer.Form(t), make)
}

// problem is what a client is told when the watch cannot go on. That its place
// in the history is gone is told in words that clients know.
func (s *stream) problem(err error) *metav1.Status {
	if errors.Is(err, store.ErrExpired) {
		err = apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", s.start.after, s.oldest()))
	}
	return ToStatus(fromStore(err, s.resource, ""))
}

// sendError ends a watch that cannot go on.
func (s *stream) sendError(out sink, err error) error {
	frame, encodeErr := s.framer.Error(s.problem(err))
	if encodeErr != nil {
		return encodeErr
	}
	if _, err := out.Write(frame); err != nil {
		return err
	}
	return out.Flush()
}

// oldest is a revision to tell the client whose own is too old.
func (s *stream) oldest() int64 {
	revision, err := s.handler.Store.Revision(context.Background())
	if err != nil {
		return 0
	}
	return revision
}

// serveHTTP streams frames in a chunked body.
func (s *stream) serveHTTP(ctx context.Context, w http.ResponseWriter) error {
	contentType := s.framer.Media.String()
	if s.framer.Media != codec.JSON {
		contentType += ";stream=watch"
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	s.run(ctx, httpSink{w, http.NewResponseController(w)}) // an error here is the client's leaving
	return nil
}

type httpSink struct {
	io.Writer
	controller *http.ResponseController
}

func (s httpSink) Flush() error { return s.controller.Flush() }
