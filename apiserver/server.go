package apiserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/fairness"
	"github.com/skiff-k8s/skiff/apiserver/gather"
	"github.com/skiff-k8s/skiff/apiserver/heavy"
	"github.com/skiff-k8s/skiff/apiserver/managedfields"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/guard"
)

// Server is an API server over one backend. It serves from when New returns,
// through Handler, Transport and Serve.
type Server struct {
	config   Config
	store    *store.Store
	rest     *rest.Handler
	served   atomic.Pointer[served]
	setting  sync.Mutex // held by SetResources
	fairness *fairness.Controller
	handler  http.Handler
	parts    guard.Group
	stopping context.Context
	stop     context.CancelFunc
	end      context.CancelFunc         // of the parts
	serving  atomic.Pointer[tls.Config] // by which Serve serves
	ended    atomic.Pointer[string]     // the part of the server that ended with an error last
}

// New loads what is stored and makes the server. When ctx ends, watches end;
// other requests are answered until Close. The server must be closed, before the
// backend is.
func New(ctx context.Context, c Config) (*Server, error) {
	if c.Backend == nil || c.Authenticator == nil || c.Authorizer == nil {
		return nil, errors.New("a server needs a backend, an authenticator and an authorizer")
	}
	s := &Server{config: c.withDefaults(), end: func() {}}
	now, err := newServed(c.Resources, nil, s.config.Hides)
	if err != nil {
		return nil, err
	}
	s.served.Store(now)
	st, err := store.Open(ctx, store.Config{Backend: c.Backend, Resources: now.stored(), Encryption: c.Encryption, History: c.History, Changed: c.Changed})
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	s.store = st
	s.stopping, s.stop = context.WithCancel(ctx)
	s.rest = &rest.Handler{
		Store:      st,
		Lookup:     s.find,
		Storage:    func(gr schema.GroupResource) *resource.Resource { return s.served.Load().storage[gr] },
		Serves:     func(group string) bool { return s.served.Load().groups[group] },
		Admission:  c.Admission,
		Fields:     &managedfields.Managers{Versions: s.version, Heavy: heavy.Runner{Take: takeHeavy()}},
		Authorizer: c.Authorizer,
		Connect:    c.Connect,
		MinWatch:   c.MinWatch, BookmarkEvery: cmp.Or(c.BookmarkEvery, time.Minute) * time.Duration(max(c.Seldom, 1)), Patience: s.config.Limits.RequestTimeout,
		NotFound: s.config.Other, NoWatchLists: c.NoWatchLists,
	}
	s.fairness = fairness.New(fairness.Config{Seats: s.config.Limits.MaxRequests, Schemas: bootstrap.FlowSchemas(), Levels: bootstrap.PriorityLevels(), Metrics: c.Metrics})
	s.handler = s.chain()
	for _, part := range c.Parts {
		part.Use(s.Cluster())
	}
	s.describe(now)
	return s, nil
}

// serves reports whether a request names a resource, and a subresource, that is
// served.
func (s *Server) serves(info *request.Info) bool {
	r := s.find(schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource})
	return info.IsResource && r != nil && (info.Subresource == "" || r.Sub(info.Subresource) != nil)
}

// version finds a resource in another version, served or not: objects have field managers in both.
func (s *Server) version(gv schema.GroupVersion, plural string) *resource.Resource {
	now := s.served.Load()
	return cmp.Or(now.byGVR[gv.WithResource(plural)], now.hidden[gv.WithResource(plural)])
}

// Handler serves requests that come over a network, or from within with their
// user in the context.
func (s *Server) Handler() http.Handler { return s.handler }

// Cluster is the server for its own parts: see resource.Cluster.
func (s *Server) Cluster() resource.Cluster { return s.rest.Cluster() }

// Store is where the objects are.
func (s *Server) Store() *store.Store { return s.store }

// Resources are those served now.
func (s *Server) Resources() []*resource.Resource { return s.served.Load().list }

// Close ends the parts that Standard started, watches, what follows the
// backend, and the audit log, and waits for them. Serve must have returned.
func (s *Server) Close() {
	s.end()
	s.parts.Wait()
	s.stop()
	s.store.Close()
	wait, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := s.config.Audit.Close(wait); err != nil {
		s.config.Log.Error("close the audit log", "error", err)
	}
	if err := s.config.Tracing.Close(wait); err != nil {
		s.config.Log.Warn("send the last traces", "error", err)
	}
}

// drainTime is how long requests may go on after Serve was told to end.
const drainTime = 10 * time.Second

// mostStreams is how many requests a connection of HTTP/2 may have at once.
const mostStreams = 100

// Serve answers on l, over TLS unless config is nil, until ctx ends. Then it
// takes no new connections, ends watches, and lets other requests finish.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	s.serving.Store(config)
	limits := s.config.Limits
	l = gather.Listen(newCapped(l, limits.MaxConnections), limits.RequestTimeout)
	server := &http.Server{
		Handler:           s.handler,
		TLSConfig:         config,
		ReadHeaderTimeout: 32 * time.Second,
		IdleTimeout:       90 * time.Second,
		// Also what comes before and after the filters has an end: limitTime makes
		// these shorter, and takes them from long-running requests.
		ReadTimeout:  limits.RequestTimeout + limits.AnswerTimeout,
		WriteTimeout: limits.RequestTimeout + limits.AnswerTimeout,
		ConnContext:  withConn,
		ConnState:    gather.HTTP2,
		ErrorLog:     slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug),
		// As kube-apiserver has it: every stream is a request in memory, and clients
		// with more watches than that open another connection.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: mostStreams, MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: mostStreams * 256 << 10,
		},
	}
	failed := make(chan error, 1)
	guard.Go("API server", func() {
		if config == nil {
			failed <- server.Serve(l)
			return
		}
		failed <- server.ServeTLS(l, "", "")
	})
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.stop()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err := server.Shutdown(drain)
	if err != nil {
		server.Close()
	}
	<-failed
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // those that would not end were cut off
	}
	return err
}
