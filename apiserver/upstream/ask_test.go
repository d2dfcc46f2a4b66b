package upstream

import (
	"bytes"
	"context"
	encoding "encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

func newHandler(s *store.Store, row *resource.Resource) *rest.Handler {
	return &rest.Handler{
		Store:         s,
		Lookup:        func(schema.GroupVersionResource) *resource.Resource { return row },
		Storage:       func(schema.GroupResource) *resource.Resource { return row },
		BookmarkEvery: time.Second,
	}
}

// question is a GET of a pod or of pods.
type question struct {
	verb            string
	namespace, name string // name: of get alone
	query           url.Values
}

// ask has a question answered. Its context ends the answer.
func (a *adapter) ask(ctx context.Context, q question, w http.ResponseWriter) {
	info := &request.Info{
		IsResource: true, Verb: q.verb, Prefix: "apis", Group: a.row.Group, Version: a.row.Version, Resource: a.row.Plural,
		Namespace: q.namespace, InNamespace: q.namespace != "", Parts: []string{a.row.Plural},
	}
	if q.name != "" {
		info.Name, info.Parts = q.name, append(info.Parts, q.name)
	}
	r, err := http.NewRequestWithContext(request.With(ctx, info), http.MethodGet, "https://in-process/?"+q.query.Encode(), nil)
	if err != nil {
		panic(err)
	}
	a.now().handler.ServeHTTP(w, r)
}

// whole is an answer that is read when it is complete.
type whole struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (w *whole) Header() http.Header { return w.header }

func (w *whole) WriteHeader(code int) { w.code = code }

// read asks for one answer.
func (a *adapter) read(ctx context.Context, q question, into any) error {
	w := &whole{header: make(http.Header), code: http.StatusOK}
	a.ask(ctx, q, w)
	if w.code != http.StatusOK {
		return statusError(w.Bytes())
	}
	return encoding.Unmarshal(w.Bytes(), into)
}

// statusError is the error a body tells.
func statusError(body []byte) error {
	status := new(metav1.Status)
	if err := encoding.Unmarshal(body, status); err != nil {
		return fmt.Errorf("%q is no status: %w", body, err)
	}
	err := apierrors.FromObject(status)
	if status.Reason == metav1.StatusReasonStoreReadError {
		return storage.NewInternalError(err)
	}
	return err
}

func (a *adapter) Get(ctx context.Context, key string, o storage.GetOptions, out runtime.Object) error {
	namespace, name, err := place(key)
	if err != nil {
		return err
	}
	pod := new(examplev1.Pod)
	switch {
	case namespace == "" && !a.row.ClusterScoped:
		err = apierrors.NewNotFound(a.row.GR(), name) // no pod can be there
	default:
		query := url.Values{}
		if o.ResourceVersion != "" {
			query.Set("resourceVersion", o.ResourceVersion)
		}
		err = a.read(ctx, question{"get", namespace, name, query}, pod)
	}
	switch {
	case apierrors.IsNotFound(err) && !o.IgnoreNotFound:
		return storage.NewKeyNotFoundError(key, 0)
	case err != nil && !apierrors.IsNotFound(err):
		return err
	}
	*out.(*example.Pod) = example.Pod{}
	return scheme.Convert(pod, out, nil)
}

func (a *adapter) GetList(ctx context.Context, key string, o storage.ListOptions, out runtime.Object) error {
	q, err := collection(key, o)
	if err != nil {
		return err
	}
	q.verb = "list"
	if o.Predicate.Limit > 0 {
		q.query.Set("limit", strconv.FormatInt(o.Predicate.Limit, 10))
	}
	if o.Predicate.Continue != "" {
		q.query.Set("continue", o.Predicate.Continue)
	}
	list := new(examplev1.PodList)
	if err := a.read(ctx, q, list); err != nil {
		return err
	}
	answer := &example.PodList{ListMeta: list.ListMeta, Items: []example.Pod{}}
	for i := range list.Items {
		pod, err := read(&list.Items[i])
		if err != nil {
			return err
		}
		answer.Items = append(answer.Items, *pod)
	}
	*out.(*example.PodList) = *answer
	return nil
}

// collection is the question about pods at a key, or below it.
func collection(key string, o storage.ListOptions) (question, error) {
	q := question{query: url.Values{}}
	selectors := []fields.Selector{}
	if o.Predicate.Field != nil {
		selectors = append(selectors, o.Predicate.Field)
	}
	below, ok := strings.CutPrefix(key, "/pods")
	switch {
	case !ok:
		return q, fmt.Errorf("%q is no key of pods", key)
	case o.Recursive:
		q.namespace = strings.Trim(below, "/")
	default:
		namespace, name, err := place(key)
		if err != nil {
			return q, err
		}
		q.namespace = namespace
		selectors = append(selectors, fields.OneTermEqualSelector("metadata.name", name))
	}
	if text := fields.AndSelectors(selectors...).String(); text != "" {
		q.query.Set("fieldSelector", text)
	}
	if o.Predicate.Label != nil && !o.Predicate.Label.Empty() {
		q.query.Set("labelSelector", o.Predicate.Label.String())
	}
	if o.ResourceVersion != "" {
		q.query.Set("resourceVersion", o.ResourceVersion)
	}
	if o.ResourceVersionMatch != "" {
		q.query.Set("resourceVersionMatch", string(o.ResourceVersionMatch))
	}
	return q, nil
}

func (a *adapter) Watch(ctx context.Context, key string, o storage.ListOptions) (watch.Interface, error) {
	q, err := collection(key, o)
	if err != nil {
		return nil, err
	}
	q.verb = "watch"
	q.query.Set("watch", "true")
	if o.Predicate.AllowWatchBookmarks || o.ProgressNotify {
		q.query.Set("allowWatchBookmarks", "true")
	}
	if o.SendInitialEvents != nil {
		q.query.Set("sendInitialEvents", strconv.FormatBool(*o.SendInitialEvents))
		q.query.Set("resourceVersionMatch", string(metav1.ResourceVersionMatchNotOlderThan))
	}
	ctx, cancel := context.WithCancel(ctx)
	reader, writer := io.Pipe()
	w := &stream{
		header: make(http.Header), begun: make(chan int, 1), writer: writer, reader: reader, ctx: ctx, cancel: cancel,
		events: make(chan watch.Event, buffered),
		key:    key, recursive: o.Recursive, predicate: o.Predicate, all: &a.watches,
	}
	a.requests.Go(func() {
		a.ask(ctx, q, w)
		w.WriteHeader(http.StatusOK)
		writer.Close()
	})
	if code := <-w.begun; code != http.StatusOK {
		body, err := io.ReadAll(reader)
		cancel()
		return nil, errors.Join(err, statusError(body))
	}
	a.watches.add(w)
	a.requests.Go(func() { w.decode() })
	return w, nil
}

// buffered is how many events a client has received and not looked at, at most:
// as many as upstream's watchers have.
const buffered = 10

// stream is a watch: the answer, for who writes it, and the events in it.
type stream struct {
	header http.Header
	begun  chan int // gets the code of the answer
	writer *io.PipeWriter
	reader *io.PipeReader
	ctx    context.Context // of the client
	cancel context.CancelFunc
	events chan watch.Event

	key       string
	recursive bool
	predicate storage.SelectionPredicate
	all       *watches
	seen      int64 // the revision of the newest event that was received; guarded by all.mu, like full
	full      bool
}

func (s *stream) Header() http.Header { return s.header }

func (s *stream) WriteHeader(code int) {
	select {
	case s.begun <- code:
	default: // it has begun
	}
}

func (s *stream) Write(p []byte) (int, error) { return s.writer.Write(p) }

func (s *stream) Flush() {}

func (s *stream) ResultChan() <-chan watch.Event { return s.events }

func (s *stream) Stop() {
	s.cancel()
	s.reader.Close()
}

// decode reads events until the answer or the client ends.
func (s *stream) decode() {
	defer close(s.events)
	defer s.all.remove(s)
	defer s.Stop()
	for d := encoding.NewDecoder(s.reader); ; {
		var frame metav1.WatchEvent
		if err := d.Decode(&frame); err != nil {
			return // the end: a frame cut short would be missed by who waits for it
		}
		event, err := decodeEvent(frame)
		if err != nil {
			panic(err)
		}
		select {
		case s.events <- event:
		default:
			s.all.note(s, 0, true)
			select {
			case s.events <- event:
			case <-s.ctx.Done():
				return
			}
		}
		s.all.note(s, revisionOf(event), false)
	}
}

// revisionOf is the revision of the object of an event; 0 of an error.
func revisionOf(event watch.Event) int64 {
	revision, err := storage.APIObjectVersioner{}.ObjectResourceVersion(event.Object)
	if err != nil {
		return 0
	}
	return int64(revision)
}

func decodeEvent(frame metav1.WatchEvent) (watch.Event, error) {
	event := watch.Event{Type: watch.EventType(frame.Type)}
	if event.Type == watch.Error {
		status := new(metav1.Status)
		event.Object = status
		return event, encoding.Unmarshal(frame.Object.Raw, status)
	}
	pod := new(examplev1.Pod)
	if err := encoding.Unmarshal(frame.Object.Raw, pod); err != nil {
		return event, err
	}
	read, err := read(pod)
	event.Object = read
	return event, err
}
