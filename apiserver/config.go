// Package apiserver is the server: everything a request goes through, put
// together. New takes a Config; Standard makes the Config of the product.
package apiserver

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/audit"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// Config of a server. Backend, Resources, Authenticator and Authorizer are
// required; the zero value of the rest is described with each field.
type Config struct {
	Backend   backend.Backend
	Resources []*resource.Resource
	// Hides says of which of Resources no request finds the objects, which the server itself does; nil: of none.
	Hides func(*resource.Resource) bool
	// NoWatchLists refuses watches that begin with the objects there are as events of their own (sendInitialEvents).
	NoWatchLists bool
	// OneImpersonation leaves the right to impersonate alone by which users act as others, which gives all that these may do.
	OneImpersonation bool
	// Authenticator finds out who sends a request that comes over a network.
	Authenticator authenticator.Request
	// Authorizer decides whether the user of a request may do what it asks.
	Authorizer authorizer.Authorizer
	// Admission has a say in every write; none if empty.
	Admission admission.Chain
	// Connect serves streaming subresources; nil: they answer 404.
	Connect func(w http.ResponseWriter, r *http.Request, c rest.Connection) error
	// Other serves what is no resource that is served: discovery, health,
	// metrics; nil: all that is 404.
	Other http.Handler
	// Extensions finds what passes a path on to another server, which serves it in
	// this one's place; nil: there are no others.
	Extensions func(path string) http.Handler
	// Documents describe what is served. They are told at first and after every
	// change.
	Documents []Document
	// Parts ask the server about objects; they are not used before New has
	// returned.
	Parts []Part

	// Audit is where is written down who asked for what; nil: nowhere. The server closes it.
	Audit *audit.Log
	// Tracing is told what becomes of requests; nil: nobody is. The server closes it.
	Tracing *tracing.Tracer
	// Encryption is what objects are encrypted by in the backend; nil: they are not.
	Encryption store.Encryption
	// History is how long watches can be resumed; 0 means five minutes.
	History time.Duration
	// Changed is told what differs of objects of the cache that somebody has
	// changed: see store.Config.
	Changed func(difference string)
	// Limits are what clients may ask of the server.
	Limits Limits
	// MinWatch is how long a watch lasts at least; 0 means 30 minutes.
	MinWatch time.Duration
	// BookmarkEvery is the time between bookmarks of a watch; 0 means a minute.
	BookmarkEvery time.Duration
	// Seldom is how many times longer watches of a Source or a ComponentTransport last than they ask, and how many times more seldom bookmarks are;
	// 0 means once.
	Seldom int
	// Metrics is where the server counts; nil: nowhere.
	Metrics prometheus.Registerer
	// Log gets what operators need to know; nil means slog.Default().
	Log *slog.Logger
}

// Document describes resources, as discovery and OpenAPI do.
type Document interface {
	// Publish replaces the resources described.
	Publish([]*resource.Resource)
}

// Part is something the server is made with that needs the server itself.
type Part interface{ Use(resource.Cluster) }

// Limits are what clients may ask of a server. The zero value of a field is
// described with it.
type Limits struct {
	// MaxRequests is how many requests are served at once, long-running ones
	// counted only until they have begun; 0 means 600. Each priority level has its
	// share of them. More get 429.
	MaxRequests int
	// Reading and Writing are MaxRequests in two parts, as kube-apiserver's flags have it, which no longer tells them
	// apart either; nil: there are no parts.
	Reading, Writing *int
	// RequestTimeout is how long a request may take that is not long-running, its
	// body included, and how long a watch waits for its client to read; 0 means a
	// minute.
	RequestTimeout time.Duration
	// AnswerTimeout is how much longer the answer may take; 0 means five seconds.
	AnswerTimeout time.Duration
	// MaxConnections is how many connections Serve has at once, half of them from
	// one address at most; 0 means 20,000, or half of the files that the process
	// may open if that is less. More are closed.
	MaxConnections int
}

// AddFlags adds the flags of l.
func (l *Limits) AddFlags(flags *pflag.FlagSet) {
	const with = "; all levels of priority share their sum, by the nominal shares of each"
	l.Reading = flags.Int(readingFlag, 400, "how many requests are served at once, with "+writingFlag+with)
	l.Writing = flags.Int(writingFlag, 200, "how many requests are served at once, with "+readingFlag+with)
}

const readingFlag, writingFlag = "max-requests-inflight", "max-mutating-requests-inflight"

// validate refuses parts that cannot be, in the words of kube-apiserver.
func (l Limits) validate() error {
	reading, writing := ptr.Deref(l.Reading, 0), ptr.Deref(l.Writing, 0)
	switch {
	case l.Reading == nil && l.Writing == nil:
		return nil
	case reading < 0:
		return errors.New("--" + readingFlag + " can not be negative value")
	case writing < 0:
		return errors.New("--" + writingFlag + " can not be negative value")
	case reading+writing == 0:
		return fmt.Errorf("invalid configuration: MaxRequestsInFlight=%d and MaxMutatingRequestsInFlight=%d; they must add up to something positive", reading, writing)
	}
	return nil
}

func (l Limits) withDefaults() Limits {
	if l.MaxRequests == 0 {
		l.MaxRequests = ptr.Deref(l.Reading, 0) + ptr.Deref(l.Writing, 0)
	}
	l.MaxRequests = cmp.Or(l.MaxRequests, 600)
	l.RequestTimeout = cmp.Or(l.RequestTimeout, time.Minute)
	l.AnswerTimeout = cmp.Or(l.AnswerTimeout, 5*time.Second)
	if l.MaxConnections == 0 {
		l.MaxConnections = mostConnections()
	}
	return l
}

func (c Config) withDefaults() Config {
	c.Limits = c.Limits.withDefaults()
	if c.Other == nil {
		c.Other = http.NotFoundHandler()
	}
	if c.Extensions == nil {
		c.Extensions = func(string) http.Handler { return nil }
	}
	if c.Hides == nil {
		c.Hides = func(*resource.Resource) bool { return false }
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}
