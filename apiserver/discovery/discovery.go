// Package discovery answers what a server serves: the group, version and
// resource documents below /api and /apis, each in the plain form and, for the
// two roots, in the aggregated form of KEP-3352. Everything is read from the
// rows of package resource.
package discovery

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// Handler serves the documents of the resources published last. Its methods
// may be called concurrently.
type Handler struct {
	address string
	current atomic.Pointer[documents]
}

// New makes a Handler that names address (host:port) as the way to the server
// and has no resources yet.
func New(address string) *Handler {
	h := &Handler{address: address}
	h.Publish(nil)
	return h
}

// Publish replaces the resources. The order of groups and versions does not
// depend on that of resources.
func (h *Handler) Publish(resources []*resource.Resource) {
	h.current.Store(newDocuments(resources, h.address))
}

// Paths lists the paths served, sorted.
func (h *Handler) Paths() []string { return h.current.Load().paths() }

// Serves reports whether ServeHTTP has a document for path, or the error for
// an unknown version of a known group.
func (h *Handler) Serves(path string) bool {
	_, known := h.find(path)
	return known
}

// ServeHTTP answers /api, /api/<version>, /apis, /apis/<group> and
// /apis/<group>/<version>, with or without a slash at the end.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page, known := h.find(r.URL.Path)
	if !known {
		http.NotFound(w, r)
		return
	}
	if page == nil {
		rest.WriteError(w, r, errUnknownVersion)
		return
	}
	if r.Method != http.MethodGet && !page.anyMethod {
		rest.WriteError(w, r, rest.ErrNoMethod)
		return
	}
	if err := page.write(w, r); err != nil {
		rest.WriteError(w, r, err)
	}
}

var errUnknownVersion = &apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
	Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
}}

// find returns the page of a path; nil and true is an unknown version of a
// known group, which is another kind of 404 than an unknown group.
func (h *Handler) find(path string) (found *page, known bool) {
	d := h.current.Load()
	path = strings.TrimSuffix(path, "/")
	if p := d.pages[path]; p != nil {
		return p, true
	}
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case len(parts) == 2 && parts[0] == "api":
		return nil, true
	case len(parts) == 3 && parts[0] == "apis":
		return nil, d.pages["/apis/"+parts[1]] != nil
	}
	return nil, false
}

// documents are the pages of one set of resources, by path.
type documents struct{ pages map[string]*page }

func (d *documents) paths() []string {
	var paths []string
	for p := range d.pages {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

func newDocuments(resources []*resource.Resource, address string) *documents {
	d := &documents{pages: make(map[string]*page)}
	core, named := splitGroups(resources)

	d.pages["/api"] = &page{plain: apiVersions(core, address), aggregated: aggregated(core), strict: true}
	d.pages["/apis"] = &page{plain: groupList(named), aggregated: aggregated(named), anyMethod: true}
	for _, g := range core {
		for _, v := range g.versions {
			d.pages["/api/"+v.name] = &page{plain: resourceList(g, v), strict: true}
		}
	}
	for _, g := range named {
		d.pages["/apis/"+g.name] = &page{plain: apiGroup(g), anyMethod: true}
		for _, v := range g.versions {
			d.pages["/apis/"+g.name+"/"+v.name] = &page{plain: resourceList(g, v), strict: true}
		}
	}
	return d
}
