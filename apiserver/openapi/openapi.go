// Package openapi describes what a server serves in OpenAPI 2 and 3: the
// documents below /openapi/v2 and /openapi/v3 (KEP-2896). Nothing in them is
// generated ahead: structure is read from the Go types by reflection,
// descriptions from their SwaggerDoc, list and map types from the schema of
// client-go's apply configurations, and paths from the rows of package
// resource. What none of these tell is in facts.txt.
//
// A document is made when it is first asked for, and kept compressed.
package openapi

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Paths of the documents.
const (
	PathV2 = "/openapi/v2"
	PathV3 = "/openapi/v3"
)

// Handler serves the documents of the resources published last. Its methods
// may be called concurrently.
type Handler struct {
	published atomic.Pointer[documents]

	mu         sync.Mutex // held by those who publish
	resources  []*resource.Resource
	extensions []*Extension
}

// New makes a Handler that has no resources yet.
func New() *Handler {
	h := &Handler{}
	h.published.Store(&documents{})
	return h
}

// documents are those of one set of resources.
type documents struct {
	v2    *document
	index *document
	v3    map[string]*document // by path below /openapi/v3/
	rows  map[string][]*resource.Resource
	// others are the paths below /openapi/v3/ that another server describes.
	others map[string]*Extension
}

// Publish replaces the resources. Documents of group versions whose rows are
// the same as before stay; a changed custom resource must be a new row.
func (h *Handler) Publish(resources []*resource.Resource) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resources = resources
	h.renew()
}

// PublishExtensions replaces what other servers describe.
func (h *Handler) PublishExtensions(extensions []*Extension) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.extensions = extensions
	h.renew()
}

func (h *Handler) renew() {
	old := h.published.Load()
	d := &documents{v3: make(map[string]*document), rows: groupVersions(h.resources), others: make(map[string]*Extension)}
	add := func(path string, build func() ([]byte, error)) {
		if kept := old.v3[path]; kept != nil && slices.Equal(old.rows[path], d.rows[path]) {
			d.v3[path] = kept
			return
		}
		d.v3[path] = &document{tag: tagOf(path, d.rows[path]), build: build, toProtobuf: protobufV3}
	}
	addAbout := func(path string, a about) {
		add(path, func() ([]byte, error) {
			s := newSchemas(&schema.GroupVersion{})
			return renderV3(s, []endpoint{a.endpoint(s)})
		})
	}
	for path, a := range common {
		addAbout(path, a)
	}
	for path, rows := range d.rows {
		add(path, func() ([]byte, error) {
			gv := rows[0].GroupVersion()
			s := newSchemas(&gv)
			return renderV3(s, h.endpoints(s, rows))
		})
		if group := rows[0].Group; group != "" && !isCustom(rows[0]) {
			addAbout("apis/"+group, aboutGroup(group))
		}
	}
	extensions := h.extensions
	for _, e := range extensions {
		d.addExtension(e)
	}
	d.index = &document{build: func() ([]byte, error) { return renderIndex(d.v3, d.others) }}
	d.v2 = &document{build: func() ([]byte, error) { return h.renderAllV2(d.rows, extensions) }, toProtobuf: protobufV2}
	h.published.Store(d)
}

// tagOf names the document of custom resources by what they were made of, so
// that the index does not make it: most kinds of a cluster are hardly used. It
// is empty for others.
func tagOf(path string, rows []*resource.Resource) string {
	if len(rows) == 0 {
		return ""
	}
	text := program() + path
	for _, r := range rows {
		if !isCustom(r) || r.Custom.Revision == "" {
			return ""
		}
		text += "\n" + r.Plural + " " + r.Custom.Revision
	}
	return hash([]byte(text))
}

// program tells this program from earlier ones, which may have described the
// same in other words. Clients keep documents for good by their hashes.
var program = sync.OnceValue(func() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintln(info.Size(), info.ModTime().UnixNano())
})

func (h *Handler) renderAllV2(rows map[string][]*resource.Resource, extensions []*Extension) ([]byte, error) {
	doc := h.allV2(rows)
	for _, e := range extensions {
		if e.merge(doc) {
			continue
		}
		// Nobody knows what it has left in doc.
		return h.renderAllV2(rows, slices.DeleteFunc(slices.Clone(extensions), func(x *Extension) bool { return x == e }))
	}
	return doc.MarshalJSON() // json.Marshal would go over the result once more
}

func (h *Handler) allV2(rows map[string][]*resource.Resource) *spec.Swagger {
	s := newSchemas(nil)
	s.v2 = true
	var all []endpoint
	for _, path := range slices.Sorted(maps.Keys(common)) {
		all = append(all, common[path].endpoint(s))
	}
	groups := make(map[string]bool)
	for _, path := range slices.Sorted(maps.Keys(rows)) {
		all = append(all, h.endpoints(s, rows[path])...)
		if group := rows[path][0].Group; group != "" && !groups[group] && !isCustom(rows[path][0]) {
			groups[group] = true
			all = append(all, aboutGroup(group).endpoint(s))
		}
	}
	return makeV2(s, all)
}

// groupVersions sorts resources by the path of their document.
func groupVersions(resources []*resource.Resource) map[string][]*resource.Resource {
	rows := make(map[string][]*resource.Resource)
	for _, r := range resources {
		path := strings.TrimPrefix(root(r), "/")
		rows[path] = append(rows[path], r)
	}
	for _, list := range rows {
		slices.SortFunc(list, func(a, b *resource.Resource) int { return cmp.Compare(a.Plural, b.Plural) })
	}
	return rows
}

// ServeHTTP answers /openapi/v2, /openapi/v3 and what is below the latter.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := h.published.Load()
	switch path := r.URL.Path; {
	case path == PathV2 && d.v2 != nil:
		d.v2.serve(w, r, typesV2)
	case path == PathV3 && d.index != nil:
		d.index.serve(w, r, typesIndex)
	case d.v3[strings.TrimPrefix(path, PathV3+"/")] != nil:
		d.v3[strings.TrimPrefix(path, PathV3+"/")].serve(w, r, typesV3)
	case d.others[strings.TrimPrefix(path, PathV3+"/")] != nil:
		d.others[strings.TrimPrefix(path, PathV3+"/")].Serve.ServeHTTP(w, r)
	case strings.HasPrefix(path, PathV3+"/"):
		w.WriteHeader(http.StatusNotFound)
	default:
		http.NotFound(w, r)
	}
}
