// Package rest serves the verbs of the API: a file and a function per verb,
// each of which reads in the order in which a client can see it happen. It
// knows kinds only as resource.Resource, and objects only through the store.
package rest

import (
	"context"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/managedfields"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// Handler serves all resources. Its fields are not changed once it serves.
type Handler struct {
	Store *store.Store
	// Lookup finds a resource that is served, or nil.
	Lookup func(schema.GroupVersionResource) *resource.Resource
	// Storage finds the storage version of a resource that is served, or nil.
	Storage func(schema.GroupResource) *resource.Resource
	// Serves reports whether a group has built-in kinds, in whatever version. What
	// is not in one of the others may be another server's.
	Serves    func(group string) bool
	Admission admission.Chain
	Fields    *managedfields.Managers
	// Authorizer is asked again where one verb does the work of another (update
	// that creates).
	Authorizer authorizer.Authorizer
	// Connect serves streaming subresources; nil: there are none.
	Connect func(w http.ResponseWriter, r *http.Request, c Connection) error
	// MinWatch is how long a watch lasts at least that names no time itself; it
	// ends at random within twice that time. 0 means 30 minutes.
	MinWatch time.Duration
	// BookmarkEvery is how often watches that want bookmarks get them; 0 means
	// a minute.
	BookmarkEvery time.Duration
	// Patience is how long a watch over a WebSocket waits for its client to read;
	// 0 means a minute. Over HTTP the server sees to that.
	Patience time.Duration
	// NoWatchLists refuses watches that ask for sendInitialEvents.
	NoWatchLists bool
	// NotFound answers paths of groups that are not served.
	NotFound http.Handler
}

// Connection is a request for a streaming subresource.
type Connection struct {
	Resource        *resource.Resource
	Sub             *resource.Sub
	Namespace, Name string
	Path            string // what follows the name of the subresource, without the slash
}

// ServeHTTP answers a request whose Info is in the context.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info := request.From(r.Context())
	if info == nil || !info.IsResource {
		h.notFound(w, r)
		return
	}
	r = r.WithContext(store.InRequest(r.Context()))
	t, serve, err := h.route(info, r)
	if err == errNoResource && !h.Serves(info.Group) {
		h.notFound(w, r)
		return
	}
	if err == nil && (t.sub == nil || !t.sub.Connect) {
		err = acceptable(r, t, info.Verb)
	}
	if err == nil {
		err = serve(h, w, r, t)
	}
	if err != nil {
		WriteError(w, r, err)
	}
}

// acceptable checks what a request wants to get before anything else. Who may
// get it is warned of a deprecated kind, unless a patch is of no type there is.
func acceptable(r *http.Request, t *target, verb string) error {
	if t.resource.Custom == nil { // of custom resources it is found out when they are answered
		if err := codec.Acceptable(r, t.offer(), verb == "list" || verb == "watch"); err != nil {
			return err
		}
	}
	if verb == "patch" {
		if _, err := patchType(r, t); err != nil {
			return err
		}
	}
	request.Warn(r.Context(), t.resource.Deprecated)
	return nil
}

func (h *Handler) notFound(w http.ResponseWriter, r *http.Request) {
	if h.NotFound != nil {
		h.NotFound.ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}

// offer is what answers about t can be made of.
func (t *target) offer() codec.Offer {
	return codec.Offer{Protobuf: t.resource.Protobuf, Table: true, Partial: true}
}

// most is how long a request may take that is neither a watch nor a list.
const most = 34 * time.Second

func deadline(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), most)
}
