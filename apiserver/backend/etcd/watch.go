package etcd

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// How often a watch asks how far it has got: until it is first told, and afterwards.
const (
	askSoon  = 50 * time.Millisecond
	askLater = time.Second
)

// Watch yields changes, as backend.Backend says. When the connection is lost it goes on where it was.
func (b *Backend) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(b.ctx, func() { cancel(backend.ErrClosed) })()
		w := &watch{backend: b, prefix: prefix, reached: after, yield: yield}
		for n := 0; ; n++ {
			before := w.reached
			err := w.once(ctx)
			if w.reached > before {
				n = 0
			}
			switch {
			case w.left:
				return
			case ctx.Err() != nil:
				yield(backend.Change{}, context.Cause(ctx))
				return
			case errors.Is(err, backend.ErrCompacted):
				yield(backend.Change{}, err)
				return
			}
			if n == 0 && !errors.Is(err, errOver) {
				slog.Warn("Watching etcd was interrupted; it goes on where it was", "after", w.reached, "error", err)
			}
			pause(ctx, n)
		}
	}
}

// errOver: the connection of a watch ended.
var errOver = errors.New("watch is over")

// watch is a watch over as many connections as it takes.
type watch struct {
	backend *Backend
	prefix  string
	reached int64 // everything up to it has been yielded
	yield   func(backend.Change, error) bool
	left    bool // yield wants no more
}

// once watches until something goes wrong or nobody wants more. It has a connection's stream of its own, so that
// asking how far it has got concerns no other watch.
func (w *watch) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	watcher := clientv3.NewWatcher(w.backend.client)
	defer watcher.Close()
	first, end := span(w.prefix)
	responses := watcher.Watch(ctx, first, clientv3.WithRange(end), clientv3.WithRev(w.reached+1), clientv3.WithCreatedNotify(), clientv3.WithFragment())
	ask := time.NewTicker(askSoon)
	defer ask.Stop()
	for {
		select {
		case r, ok := <-responses:
			if !ok {
				return errOver
			}
			if err := w.take(ctx, r); err != nil || w.left {
				return err
			}
			if r.IsProgressNotify() {
				ask.Reset(askLater)
			}
		case <-ask.C:
			// An error means that there is no connection at the moment.
			_ = watcher.RequestProgress(ctx)
		}
	}
}

// take yields what a response says. A response has all changes of a revision, or none.
func (w *watch) take(ctx context.Context, r clientv3.WatchResponse) error {
	switch err := r.Err(); {
	case errors.Is(err, rpctypes.ErrCompacted):
		return backend.ErrCompacted
	case err != nil:
		return err
	case r.Created:
		return w.begin(ctx)
	case r.IsProgressNotify():
		w.progress(r.Header.Revision)
		return nil
	}
	for i, e := range r.Events {
		c := backend.Change{Key: string(e.Kv.Key), Revision: e.Kv.ModRevision}
		if e.Type == clientv3.EventTypePut {
			c.Value = value(e.Kv)
		}
		c.More = i+1 < len(r.Events) && r.Events[i+1].Kv.ModRevision == c.Revision
		if !w.yield(c, nil) {
			w.left = true
			return nil
		}
	}
	if n := len(r.Events); n > 0 {
		w.reached = r.Events[n-1].Kv.ModRevision
	}
	return nil
}

// begin makes sure that a watch that was just created begins before anything was forgotten: some versions of etcd
// begin at the first revision that was not, though its change may be gone.
func (w *watch) begin(ctx context.Context) error {
	gone, err := w.backend.compacted(ctx, w.reached)
	if gone {
		return backend.ErrCompacted
	}
	return err
}

func (w *watch) progress(revision int64) {
	if revision <= w.reached {
		return
	}
	w.reached = revision
	w.left = !w.yield(backend.Change{Revision: revision}, nil)
}
