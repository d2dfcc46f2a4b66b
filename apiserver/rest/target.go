package rest

import (
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

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

type verb func(h *Handler, w http.ResponseWriter, r *http.Request, t *target) error

// The verbs on objects and collections, and on views of objects.
var (
	objectVerbs = map[string]verb{
		"get": (*Handler).get, "update": (*Handler).update, "patch": (*Handler).patch, "delete": (*Handler).delete,
		"list": (*Handler).list, "watch": (*Handler).watch, "create": (*Handler).create, "deletecollection": (*Handler).deleteCollection,
	}
	liveVerbs  = map[string]verb{"get": (*Handler).getLive, "list": (*Handler).listLive, "watch": (*Handler).watchLive}
	viewVerbs  = map[string]verb{"get": (*Handler).get, "update": (*Handler).update, "patch": (*Handler).patch}
	scaleVerbs = map[string]verb{"get": (*Handler).getScale, "update": (*Handler).updateScale, "patch": (*Handler).patchScale}
)

// route finds what a request is about and which function serves it.
//
// The authorizer was asked about the namespace, resource, subresource and name
// of info. So the target takes them from nowhere else, and a path that the
// authorizer reads in another way than the resource is placed has no target:
// a cluster-wide object is never found below a namespace, where the rights of
// that namespace alone would open it.
func (h *Handler) route(info *request.Info, r *http.Request) (*target, verb, error) {
	res := h.Lookup(schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource})
	if res == nil {
		return nil, nil, errNoResource
	}
	t := &target{resource: res, namespace: info.Namespace, name: info.Name}
	if res.ClusterScoped {
		t.namespace = ""
	}
	if !placed(info, res) || !hasPath(info, res) {
		return nil, nil, errNoResource
	}
	if info.VerbInPath && r.Method != http.MethodGet {
		return nil, nil, noMethod(res, info)
	}
	if info.Subresource != "" {
		return h.routeSub(t, info, r.Method)
	}
	if len(info.Parts) < 2 && info.Name != "" && info.Verb != "list" && info.Verb != "watch" {
		t.name = ""
	}
	serve := objectVerbs[info.Verb]
	if res.Live != nil {
		serve = liveVerbs[info.Verb]
	}
	everywhere := res.Namespaced() && info.Namespace == ""
	collection := len(info.Parts) < 2
	switch {
	case res.Custom != nil && everywhere && info.Verb == "create":
		return nil, nil, errNoResource
	case res.Custom != nil && collection && (info.Verb == "update" || info.Verb == "patch"):
		return nil, nil, errNoName
	case serve == nil || res.Live == nil && !slices.Contains(res.Verbs, info.Verb) || r.Method == http.MethodHead && res.Custom == nil,
		everywhere && info.Verb != "list" && info.Verb != "watch",
		collection && (info.Verb == "update" || info.Verb == "patch"),
		!collection && info.Verb == "create":
		return nil, nil, noMethod(res, info)
	}
	return t, serve, nil
}

// placed reports whether the path is one for objects of res: in a namespace
// or not, and no longer than it may be. Of the old paths only those that watch
// objects are left; below them a subresource would be served to who may only
// watch it.
func placed(info *request.Info, res *resource.Resource) bool {
	switch {
	case info.VerbInPath && (info.Verb != "watch" || info.Subresource != ""):
		return false
	case res.ClusterScoped:
		return info.Namespace == "" || !info.InNamespace && res.IsNamespace()
	case info.InNamespace:
		return true
	}
	return len(info.Parts) < 2
}

// hasPath reports whether res is served at a path of this form, by whatever method. Which forms there are follows from
// its verbs: what can only be created has no paths of single objects, nor one for all namespaces.
func hasPath(info *request.Info, res *resource.Resource) bool {
	has := func(verbs ...string) bool {
		return slices.ContainsFunc(verbs, func(v string) bool { return slices.Contains(res.Verbs, v) })
	}
	switch {
	case info.VerbInPath:
		return has("watch")
	case len(info.Parts) > 1:
		return has("get", "update", "patch", "delete")
	case res.Namespaced() && info.Namespace == "":
		return has("list")
	}
	return true
}

func (h *Handler) routeSub(t *target, info *request.Info, method string) (*target, verb, error) {
	sub := t.resource.Sub(info.Subresource)
	switch {
	case sub == nil && t.resource.Custom != nil:
		return nil, nil, apierrors.NewNotFound(t.resource.GR(), t.name)
	case sub == nil:
		return nil, nil, errNoResource
	}
	if stored := t.resource.Stored.Sub(info.Subresource); stored != nil && t.resource.Custom == nil {
		sub = stored
	}
	t.sub = sub
	if len(info.Parts) > 3 && sub.Name != "proxy" {
		return nil, nil, errNoResource
	}
	if !hasMethod(sub, info.Verb, method) {
		return nil, nil, noMethod(t.resource, info)
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
		return nil, nil, noMethod(t.resource, info)
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

var (
	errNoResource = apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
	// ErrNoMethod answers a method that a path does not have. Paths of custom
	// resources say more, see noMethod.
	ErrNoMethod = apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false)
)

// errNoName is what kube-apiserver says where it looks for a custom resource
// only after it has chosen what to do with it.
var errNoName = apierrors.NewBadRequest("name must be provided")

func noMethod(res *resource.Resource, info *request.Info) error {
	if res.Custom == nil {
		return ErrNoMethod
	}
	return apierrors.NewMethodNotSupported(res.GR(), info.Verb)
}
