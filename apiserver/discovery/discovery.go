// Package discovery answers what a server serves: the group, version and
// resource documents below /api and /apis, each in the plain form and, for the
// two roots, in the aggregated form of KEP-3352. Everything is read from the
// rows of package resource.
package discovery

import (
	"net/http"
	"slices"
	"strings"
	"sync"
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

	mu        sync.Mutex // held by those who publish
	resources []*resource.Resource
	services  []Service
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
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resources = resources
	h.renew()
}

// PublishServices replaces what APIServices say.
func (h *Handler) PublishServices(services []Service) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.services = services
	h.renew()
}

// renew makes the documents of what was published. Pages of group versions
// whose rows are the same as before stay: what other servers say does not
// change them.
func (h *Handler) renew() {
	h.current.Store(newDocuments(h.resources, h.services, h.address, h.current.Load()))
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
		return nil, d.local[parts[1]]
	}
	return nil, false
}

// documents are the pages of one set of resources, by path.
type documents struct {
	pages map[string]*page
	rows  map[string][]*resource.Resource // of the pages of group versions
	local map[string]bool                 // groups that have resources of this server
}

func (d *documents) paths() []string {
	var paths []string
	for p := range d.pages {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

func newDocuments(resources []*resource.Resource, services []Service, address string, old *documents) *documents {
	d := &documents{pages: make(map[string]*page), rows: make(map[string][]*resource.Resource), local: make(map[string]bool)}
	core, named := splitGroups(resources, services)

	d.pages["/api"] = &page{plain: apiVersions(core, address), aggregated: aggregated(core), strict: true}
	d.pages["/apis"] = &page{plain: groupList(plainly(named)), aggregated: aggregated(named), anyMethod: true}
	for _, g := range core {
		d.addVersions("/api/", g, old)
	}
	for _, g := range named {
		d.pages["/apis/"+g.name] = &page{plain: apiGroup(g), anyMethod: true}
		d.addVersions("/apis/"+g.name+"/", g, old)
	}
	return d
}

// addVersions adds the pages of what this server serves of a group.
func (d *documents) addVersions(path string, g group, old *documents) {
	for _, v := range g.versions {
		if len(v.resources) == 0 {
			continue
		}
		d.local[g.name] = true
		path := path + v.name
		d.rows[path] = v.resources
		if old != nil && slices.Equal(old.rows[path], v.resources) {
			d.pages[path] = old.pages[path]
			continue
		}
		d.pages[path] = &page{plain: resourceList(g, v), strict: true}
	}
}
