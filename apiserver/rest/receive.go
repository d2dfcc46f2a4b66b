package rest

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// Receiver is a client in this process that takes objects instead of bytes. It
// gets those that the store shares with everybody: nobody may change them.
type Receiver interface {
	// List takes the answer to a list.
	List(list *internalversion.List)
	// Watch takes an event of a watch, and waits until the client has it. It returns
	// false when the client wants no more.
	Watch(e watch.Event) bool
}

type receiverKey struct{}

// WithReceiver returns the context of a request for a list or a watch of which
// to gets the answer. Errors are answered in bytes, as to anybody.
func WithReceiver(ctx context.Context, to Receiver) context.Context {
	return context.WithValue(ctx, receiverKey{}, to)
}

func receiver(ctx context.Context) Receiver {
	to, _ := ctx.Value(receiverKey{}).(Receiver)
	return to
}

// giveList gives a page to a client in this process.
func giveList(w http.ResponseWriter, t *target, page *store.Page, to Receiver) error {
	list := &internalversion.List{
		ListMeta: metav1.ListMeta{
			ResourceVersion: strconv.FormatInt(page.Revision, 10), Continue: page.Continue, RemainingItemCount: page.Remaining,
		},
		Items: make([]runtime.Object, len(page.Items)),
	}
	for i, item := range page.Items {
		obj, err := t.resource.FromStored(item.Object())
		if err != nil {
			return err
		}
		list.Items[i] = obj
	}
	w.WriteHeader(http.StatusOK)
	to.List(list)
	return nil
}

// give is run for a client in this process.
func (s *stream) give(ctx context.Context, w http.ResponseWriter, to Receiver) error {
	w.WriteHeader(http.StatusOK)
	err := s.failed
	if err == nil {
		err = s.giveEvents(ctx, to)
	}
	if err != nil && !errors.Is(err, errLeft) {
		to.Watch(watch.Event{Type: watch.Error, Object: s.problem(err)})
	}
	return nil
}

// errLeft says that the client wants no more.
var errLeft = errors.New("the client has left")

func (s *stream) giveEvents(ctx context.Context, to Receiver) error {
	give := func(t watch.EventType, stored resource.Object) error {
		obj, err := s.resource.FromStored(stored)
		if err != nil {
			return err
		}
		if !to.Watch(watch.Event{Type: t, Object: obj}) {
			return errLeft
		}
		return nil
	}
	for _, item := range s.items {
		if err := give(watch.Added, item.Object()); err != nil {
			return err
		}
	}
	s.items = nil
	if s.start.announced && s.bookmarks {
		if err := give(watch.Bookmark, s.framer.Progress(s.start.after, true)); err != nil {
			return err
		}
	}
	return s.follow(ctx, func(step store.Step) error {
		if step.Event == nil {
			return give(watch.Bookmark, s.framer.Progress(step.Revision, false))
		}
		t, obj := s.seen(step)
		return give(t, obj())
	})
}
