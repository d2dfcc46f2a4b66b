package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/guard"
)

// Source lists and watches a resource for a component in this process. What it
// gives are the objects that the store shares with everybody, neither encoded
// nor copied: nobody may change them.
//
// Its requests pass every filter that others pass. So a component that lacks the
// right is refused in the same words, and watches end after the time that was
// asked for, upon which rights are looked at again.
type Source struct {
	server   *Server
	user     user.Info
	agent    string
	resource schema.GroupVersionResource
}

var (
	_ cache.ListerWatcher            = Source{}
	_ cache.ListerWatcherWithContext = Source{}
)

// Source is that of a resource for u. agent names the component in logs.
func (s *Server) Source(u user.Info, agent string, resource schema.GroupVersionResource) Source {
	return Source{server: s, user: u, agent: agent, resource: resource}
}

// List implements cache.ListerWatcher.
func (s Source) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

// Watch implements cache.ListerWatcher.
func (s Source) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// IsWatchListSemanticsUnSupported has reflectors list, which takes a slice of
// pointers, rather than be told of one object after the other.
func (s Source) IsWatchListSemanticsUnSupported() bool { return true }

// ListWithContext implements cache.ListerWatcherWithContext.
func (s Source) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	to := &received{}
	if err := s.ask(ctx, cancel, o, to, newRefusal()); err != nil {
		return nil, err
	}
	if to.list == nil {
		return nil, fmt.Errorf("list %s: %w", s.resource.GroupResource(), errElsewhere)
	}
	return to.list, nil
}

// WatchWithContext implements cache.ListerWatcherWithContext.
func (s Source) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	to, answer := &received{ctx: ctx, stop: cancel, events: make(chan watch.Event, eventsAhead)}, newRefusal()
	failed := make(chan error, 1)
	o.Watch = true
	if o.TimeoutSeconds != nil {
		longer := *o.TimeoutSeconds * int64(max(s.server.config.Seldom, 1))
		o.TimeoutSeconds = &longer
	}
	guard.Go("watches in process", func() {
		defer close(to.events)
		defer cancel()
		failed <- s.ask(ctx, cancel, o, to, answer)
	})
	select {
	case <-answer.accepted:
		return (*watched)(to), nil
	case err := <-failed:
		if err == nil { // it was over as soon as it had begun
			return (*watched)(to), nil
		}
		return nil, err
	}
}

// eventsAhead is how many events a watch gives that the client has yet to take:
// so that the two need not wait for each other at each.
const eventsAhead = 16

// errElsewhere is what is wrong when another server answers for a resource.
var errElsewhere = errors.New("not served by this process")

// ask serves a request as it serves others, in this goroutine, until the answer
// is over.
func (s Source) ask(ctx context.Context, cut func(), o metav1.ListOptions, to rest.Receiver, answer *refusal) error {
	query, err := scheme.ParameterCodec.EncodeParameters(&o, schema.GroupVersion{Version: "v1"})
	if err != nil {
		return fmt.Errorf("encode the options: %w", err)
	}
	at := &url.URL{Scheme: "https", Host: "in-process", Path: s.path(), RawQuery: query.Encode()}
	ctx = rest.WithReceiver(withCut(request.WithUser(ctx, s.user), cut), to)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
	if err != nil {
		return err
	}
	r.RequestURI, r.RemoteAddr = at.RequestURI(), inProcess
	r.Header.Set("User-Agent", s.agent)
	r.Header.Set("Accept", "application/json") // in which errors are answered
	if err := serve(s.server.handler, answer, r); err != nil {
		return err
	}
	return answer.err(s.resource.GroupResource())
}

func (s Source) path() string {
	if s.resource.Group == "" {
		return "/api/" + s.resource.Version + "/" + s.resource.Resource
	}
	return strings.Join([]string{"/apis", s.resource.Group, s.resource.Version, s.resource.Resource}, "/")
}

// serve has h answer; an answer that was broken off is an error.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil { // only http.ErrAbortHandler comes this far
			err = errors.New("the answer was broken off")
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

// received is what a Source was given.
type received struct {
	list   *internalversion.List
	events chan watch.Event
	ctx    context.Context // of the watch
	stop   context.CancelFunc
}

var (
	_ rest.Receiver   = (*received)(nil)
	_ watch.Interface = (*watched)(nil)
)

// watched is what the client of a watch has of it.
type watched received

// Stop implements watch.Interface.
func (w *watched) Stop() { w.stop() }

// ResultChan implements watch.Interface.
func (w *watched) ResultChan() <-chan watch.Event { return w.events }

// List implements rest.Receiver.
func (r *received) List(list *internalversion.List) { r.list = list }

// Watch implements rest.Receiver.
func (r *received) Watch(e watch.Event) bool {
	select {
	case r.events <- e:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// refusal is an answer of which only errors are read: the rest goes to a
// rest.Receiver.
type refusal struct {
	header   http.Header
	code     int
	body     bytes.Buffer
	once     sync.Once
	accepted chan struct{} // closed when the answer begins, and is none
}

func newRefusal() *refusal {
	return &refusal{header: make(http.Header), accepted: make(chan struct{})}
}

func (a *refusal) Header() http.Header { return a.header }

func (a *refusal) WriteHeader(code int) {
	if code < http.StatusOK {
		return
	}
	a.once.Do(func() {
		a.code = code
		if code == http.StatusOK {
			close(a.accepted)
		}
	})
}

func (a *refusal) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.code == http.StatusOK {
		return 0, errElsewhere // not to a rest.Receiver
	}
	return a.body.Write(p)
}

// err is the error that was answered.
func (a *refusal) err(about schema.GroupResource) error {
	if a.code == 0 || a.code == http.StatusOK {
		return nil
	}
	var status metav1.Status
	if json.Unmarshal(a.body.Bytes(), &status) == nil && status.Kind == "Status" {
		return apierrors.FromObject(&status)
	}
	return apierrors.NewGenericServerResponse(a.code, "get", about, "", a.body.String(), 0, true)
}
