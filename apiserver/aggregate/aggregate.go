// Package aggregate lets other servers serve group versions of the API: those
// whose APIService names a Service. Requests for them are passed on with the
// identity of who asks; whether they can be is checked, said in the APIService,
// and told to the documents of the API. What this server serves itself has
// APIServices too, which are made and kept here.
//
// Each extension server has a goroutine of its own, and all that is asked of it
// has limits of time and size: one that hangs, lies or floods harms its own
// group version only.
package aggregate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/skiff-k8s/skiff/apiserver/discovery"
	"github.com/skiff-k8s/skiff/apiserver/openapi"
	"github.com/skiff-k8s/skiff/apiserver/reach"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/guard"
)

type apiService = apiregistrationv1.APIService

// Source is where objects are read; a *store.Store.
type Source interface {
	Snapshot(ctx context.Context, r *resource.Resource, m store.Match, minRevision int64) ([]*store.Item, int64, error)
	Watch(ctx context.Context, r *resource.Resource, m store.Match, after int64) iter.Seq2[store.Step, error]
}

// Config of Services. All fields but Certificate are required.
type Config struct {
	Source  Source
	Cluster resource.Cluster
	// Own records which fields of the status the server sets.
	Own func(live, obj resource.Object) error
	// Dial reaches extension servers.
	Dial reach.Dial
	// Certificate is what extension servers are shown, by which they believe who
	// asks; nil: none.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Discovery tells what APIServices say besides what can be known from the rows
	// that are served, OpenAPI how extension servers describe themselves.
	Discovery func([]discovery.Service)
	OpenAPI   func([]*openapi.Extension)
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

// Services follows the APIServices of a server. Its methods may be called
// concurrently.
type Services struct {
	config  Config
	metrics metrics
	row     *resource.Resource
	after   int64 // revision up to which APIServices have been read
	local   local
	// remote are the extension servers by group version. The map is replaced, not
	// changed.
	remote  atomic.Pointer[map[schema.GroupVersion]*extension]
	workers guard.Group

	mu        sync.Mutex
	known     map[string]*apiService // by name
	told      []discovery.Service    // to Discovery
	described []*openapi.Extension   // to OpenAPI
}

// New makes Services that know of none.
func New() *Services {
	s := &Services{local: newLocal()}
	s.remote.Store(&map[schema.GroupVersion]*extension{})
	return s
}

// Publish tells which rows this server serves itself.
func (s *Services) Publish(rows []*resource.Resource) { s.local.serve(rows) }

// Handler is what passes a path on to an extension server; nil: this server
// serves it.
func (s *Services) Handler(path string) http.Handler {
	gv, ok := groupVersion(path)
	if !ok {
		return nil
	}
	if e := (*s.remote.Load())[gv]; e != nil {
		return e
	}
	return nil
}

// groupVersion is the group version that a path is, or is below.
func groupVersion(path string) (gv schema.GroupVersion, ok bool) {
	prefix, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch prefix {
	case "api":
	case "apis":
		gv.Group, rest, _ = strings.Cut(rest, "/")
	default:
		return gv, false
	}
	gv.Version, _, _ = strings.Cut(rest, "/")
	return gv, gv.Version != ""
}

// Load reads the APIServices and makes those of what this server serves. It
// must return before Run is called.
func (s *Services) Load(ctx context.Context, c Config) error {
	s.config, s.metrics = c, newMetrics(c.Metrics)
	s.row = c.Cluster.Resource(apiregistrationv1.GroupName, "apiservices")
	if s.row == nil {
		return errors.New("aggregation needs the kind apiservices.apiregistration.k8s.io, which is not served")
	}
	if err := s.read(ctx); err != nil {
		return err
	}
	s.local.begin(s.services())
	s.settle()
	return s.register(ctx)
}

func (s *Services) read(ctx context.Context) error {
	items, revision, err := s.config.Source.Snapshot(ctx, s.row, store.Match{Readable: true}, -1)
	if err != nil {
		return fmt.Errorf("read APIServices: %w", err)
	}
	known := make(map[string]*apiService, len(items))
	for _, item := range items {
		o := item.Object().(*apiService)
		known[o.Name] = o
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.known {
		if known[name] == nil {
			s.metrics.gone(name)
		}
	}
	for name, o := range known {
		s.metrics.seen(s.known[name], o)
	}
	s.known, s.after = known, revision
	return nil
}

// services are the APIServices as they were seen last, by name.
func (s *Services) services() map[string]*apiService {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.known)
}

// Run follows APIServices, keeps those of what this server serves, and asks
// extension servers how they are, until ctx ends.
func (s *Services) Run(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer s.workers.Wait()
	defer end()
	for _, e := range *s.remote.Load() {
		e.end = nil // it is asked no longer if this is not the first run
	}
	for _, kind := range []schema.GroupResource{{Resource: "services"}, {Group: discoveryv1.GroupName, Resource: "endpointslices"}} {
		row := s.config.Cluster.Resource(kind.Group, kind.Resource)
		s.workers.Go("changes of "+kind.Resource+" of extension servers", func() { s.observe(ctx, row) })
	}
	s.workers.Go("APIServices of what is served here", func() { s.keep(ctx) })
	for {
		s.settle()
		s.start(ctx)
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrExpired) {
			return err
		}
		if err := s.read(ctx); err != nil {
			return err
		}
	}
}

// follow takes in changes of APIServices, those that come together at once.
func (s *Services) follow(ctx context.Context) error {
	for step, err := range s.config.Source.Watch(ctx, s.row, store.Match{Readable: true}, s.after) {
		if err != nil {
			return fmt.Errorf("watch APIServices: %w", err)
		}
		s.take(step)
		if step.Event != nil && !step.More {
			s.settle()
			s.start(ctx)
			s.local.wake()
		}
	}
	return nil
}

func (s *Services) take(step store.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = step.Revision
	switch e := step.Event; {
	case e == nil:
	case step.Is:
		o := e.New.Object().(*apiService)
		s.metrics.seen(s.known[o.Name], o)
		s.known[o.Name] = o
	default:
		name := e.Old.Object().(*apiService).Name
		s.metrics.gone(name)
		delete(s.known, name)
	}
}

// settle brings the extension servers into agreement with the APIServices, and
// tells the documents. One that is named as before stays.
func (s *Services) settle() {
	old := *s.remote.Load()
	next := make(map[schema.GroupVersion]*extension)
	for _, o := range s.services() {
		gv := schema.GroupVersion{Group: o.Spec.Group, Version: o.Spec.Version}
		if o.Spec.Service == nil || gv.Group == apiregistrationv1.GroupName {
			// How requests are delegated is not delegated: nobody could undo it.
			continue
		}
		e := old[gv]
		if e == nil || !sameServer(e.object, o) {
			e = newExtension(s.config, o)
			e.inherit(old[gv])
		}
		if e.version != o.ResourceVersion {
			e.version = o.ResourceVersion
			e.available.Store(helper.IsAPIServiceConditionTrue(o, apiregistrationv1.Available))
		}
		next[gv] = e
	}
	s.remote.Store(&next)
	for gv, e := range old {
		if next[gv] != e && e.end != nil {
			e.end()
		}
	}
	s.publish()
}

// start begins to ask the extension servers that are not asked yet.
func (s *Services) start(ctx context.Context) {
	for _, e := range *s.remote.Load() {
		if e.end != nil {
			continue
		}
		ctx, end := context.WithCancel(ctx)
		e.end = end
		s.workers.Go("extension server of "+e.name, func() { e.run(ctx, s.publish) })
	}
}

// publish tells the documents what APIServices and extension servers say, if
// that has changed.
func (s *Services) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	remote := *s.remote.Load()
	var say []discovery.Service
	var described []*openapi.Extension
	for _, name := range slices.Sorted(maps.Keys(s.known)) {
		o := s.known[name]
		said := discovery.Service{
			Group: o.Spec.Group, Version: o.Spec.Version,
			Priority: discovery.Priority{Group: o.Spec.GroupPriorityMinimum, Version: o.Spec.VersionPriority},
		}
		e := remote[schema.GroupVersion{Group: o.Spec.Group, Version: o.Spec.Version}]
		switch {
		case e != nil:
			said.Remote = e.discovered.Load()
			described = append(described, e.described.Load())
		case managed(o) != "" && said.Priority == discovery.PriorityOf(said.Group, said.Version), o.Spec.Group == apiregistrationv1.GroupName:
			continue // the rows say as much
		}
		say = append(say, said)
	}
	if !slices.Equal(say, s.told) {
		s.told = say
		s.config.Discovery(say)
	}
	if !slices.Equal(described, s.described) {
		s.described = described
		s.config.OpenAPI(described)
	}
}

// observe lets extension servers be asked when the Service they are behind
// changes, or where it leads. Without it they are asked at times all the same.
func (s *Services) observe(ctx context.Context, row *resource.Resource) {
	err := error(store.ErrExpired)
	for errors.Is(err, store.ErrExpired) && ctx.Err() == nil {
		err = s.observeOnce(ctx, row)
	}
	if err != nil && ctx.Err() == nil {
		s.config.Log.ErrorContext(ctx, "changes are not seen", "of", row.Plural, "error", err)
	}
}

func (s *Services) observeOnce(ctx context.Context, row *resource.Resource) error {
	// Only the revision is wanted.
	_, after, err := s.config.Source.Snapshot(ctx, row, store.Match{Namespace: "-", Readable: true}, -1)
	if err != nil {
		return err
	}
	s.wake("", "")
	for step, err := range s.config.Source.Watch(ctx, row, store.Match{Readable: true}, after) {
		if err != nil {
			return err
		}
		if step.Event == nil {
			continue
		}
		obj := step.Event.Last().Object()
		name := obj.GetName()
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
			name = slice.Labels[discoveryv1.LabelServiceName]
		}
		s.wake(obj.GetNamespace(), name)
	}
	return nil
}

// wake has the extension servers behind a Service asked now; an empty name
// means all.
func (s *Services) wake(namespace, name string) {
	for _, e := range *s.remote.Load() {
		if name == "" || e.service.Namespace == namespace && e.service.Name == name {
			e.ask()
		}
	}
}
