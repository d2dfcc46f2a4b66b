// Package rest serves the verbs of the API: a file and a function per verb,
// each of which reads in the order in which a client can see it happen. It
// knows kinds only as resource.Resource, and objects only through the store.
package rest

import (
	"context"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	// Serves reports whether a group is served at all, in whatever version.
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

// target is what a request is about.
type target struct {
	resource        *resource.Resource // as served
	sub             *resource.Sub      // as stored; nil for the object itself
	namespace, name string
}

// subName is the name of the subresource, or empty.
func (t *target) subName() string {
	if t.sub == nil {
		return ""
	}
	return t.sub.Name
}

// kind is that of the body.
func (t *target) kind() schema.GroupVersionKind {
	if t.sub != nil && !t.sub.Kind.Empty() {
		return t.sub.Kind
	}
	return t.resource.GVK()
}

// ServeHTTP answers a request whose Info is in the context.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info := request.From(r.Context())
	if info == nil || !info.IsResource {
		h.notFound(w, r)
		return
	}
	if !h.Serves(info.Group) {
		h.notFound(w, r)
		return
	}
	t, serve, err := h.route(info, r)
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
	if err := codec.Acceptable(r, t.offer(), verb == "list" || verb == "watch"); err != nil {
		return err
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

type verb func(h *Handler, w http.ResponseWriter, r *http.Request, t *target) error

// The verbs on objects and collections, and on views of objects.
var (
	objectVerbs = map[string]verb{
		"get": (*Handler).get, "update": (*Handler).update, "patch": (*Handler).patch, "delete": (*Handler).delete,
		"list": (*Handler).list, "watch": (*Handler).watch, "create": (*Handler).create, "deletecollection": (*Handler).deleteCollection,
	}
	viewVerbs  = map[string]verb{"get": (*Handler).get, "update": (*Handler).update, "patch": (*Handler).patch}
	scaleVerbs = map[string]verb{"get": (*Handler).getScale, "update": (*Handler).updateScale, "patch": (*Handler).patchScale}
)

// route finds what a request is about and which function serves it.
func (h *Handler) route(info *request.Info, r *http.Request) (*target, verb, error) {
	res := h.Lookup(schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource})
	if res == nil {
		return nil, nil, errNoResource
	}
	t := &target{resource: res, namespace: info.Namespace, name: info.Name}
	if res.ClusterScoped {
		t.namespace = ""
	}
	if !placed(info, res) {
		return nil, nil, errNoResource
	}
	if info.VerbInPath && r.Method != http.MethodGet {
		return nil, nil, ErrNoMethod
	}
	if info.Subresource != "" {
		return h.routeSub(t, info, r.Method)
	}
	if len(info.Parts) < 2 && info.Name != "" && info.Verb != "list" && info.Verb != "watch" {
		t.name = ""
	}
	serve := objectVerbs[info.Verb]
	everywhere := res.Namespaced() && info.Namespace == ""
	collection := len(info.Parts) < 2
	switch {
	case serve == nil || !slices.Contains(res.Verbs, info.Verb) || r.Method == http.MethodHead,
		everywhere && info.Verb != "list" && info.Verb != "watch" && !(info.Verb == "create" && !slices.Contains(res.Verbs, "get")),
		collection && (info.Verb == "update" || info.Verb == "patch"),
		!collection && info.Verb == "create":
		return nil, nil, ErrNoMethod
	}
	return t, serve, nil
}

// placed reports whether the path is one for objects of res: in a namespace
// or not, and no longer than it may be. Of the old paths only those that watch
// objects are left; below them a subresource would be served to who may only
// watch it.
func placed(info *request.Info, res *resource.Resource) bool {
	inNamespace := info.Namespace != "" && info.Resource != "namespaces"
	switch {
	case info.VerbInPath && (info.Verb != "watch" || info.Subresource != ""):
		return false
	case res.ClusterScoped:
		return !inNamespace
	case info.Namespace != "":
		return true
	}
	return len(info.Parts) < 2
}

func (h *Handler) routeSub(t *target, info *request.Info, method string) (*target, verb, error) {
	sub := t.resource.Sub(info.Subresource)
	if sub == nil {
		return nil, nil, errNoResource
	}
	if stored := t.resource.Stored.Sub(info.Subresource); stored != nil {
		sub = stored
	}
	t.sub = sub
	if len(info.Parts) > 3 && sub.Name != "proxy" {
		return nil, nil, errNoResource
	}
	if !hasMethod(sub, info.Verb, method) {
		return nil, nil, ErrNoMethod
	}
	switch {
	case sub.Connect:
		return t, (*Handler).connect, nil
	case sub.Create != nil:
		return t, (*Handler).createSub, nil
	case sub.Scale != nil:
		return t, scaleVerbs[info.Verb], nil
	}
	serve := viewVerbs[info.Verb]
	if serve == nil {
		return nil, nil, ErrNoMethod
	}
	return t, serve, nil
}

// hasMethod reports whether a subresource serves a method. HEAD and OPTIONS,
// which are no verbs of the API, are passed on by proxies only.
func hasMethod(sub *resource.Sub, verb, method string) bool {
	if method == http.MethodHead || method == http.MethodOptions {
		return sub.Name == "proxy"
	}
	return slices.Contains(sub.Verbs, verb)
}

// offer is what answers about t can be made of.
func (t *target) offer() codec.Offer {
	return codec.Offer{Protobuf: codec.HasProtobuf(t.resource.New()), Table: true, Partial: true}
}

// most is how long a request may take that is neither a watch nor a list.
const most = 34 * time.Second

func deadline(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), most)
}

var (
	errNoResource = apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
	// ErrNoMethod answers a method that a path does not have.
	ErrNoMethod = apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false)
)
