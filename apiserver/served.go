package apiserver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// served are the resources that can be reached now. It is never changed, only
// replaced.
type served struct {
	list    []*resource.Resource
	named   []*resource.Resource // those of list that documents name
	byGVR   map[schema.GroupVersionResource]*resource.Resource
	byGVK   map[schema.GroupVersionKind]*resource.Resource
	hidden  map[schema.GroupVersionResource]*resource.Resource // built in, and found by no request
	storage map[schema.GroupResource]*resource.Resource
	groups  map[string]bool // that have built-in kinds
}

// newServed makes what is served of a list, of which unnamed are not described, and those that hides names are not found.
func newServed(list, unnamed []*resource.Resource, hides func(*resource.Resource) bool) (*served, error) {
	s := &served{
		byGVR: make(map[schema.GroupVersionResource]*resource.Resource), byGVK: make(map[schema.GroupVersionKind]*resource.Resource),
		storage: make(map[schema.GroupResource]*resource.Resource), groups: make(map[string]bool), hidden: make(map[schema.GroupVersionResource]*resource.Resource),
	}
	for _, r := range list {
		if r.StoredOnly {
			s.storage[r.GR()] = r
			continue
		}
		if s.byGVR[r.GVR()] != nil {
			return nil, fmt.Errorf("%s is served twice", r.GVR())
		}
		if other := s.storage[r.GR()]; other != nil && other != r.Stored {
			return nil, fmt.Errorf("%s is stored in two ways", r.GR())
		}
		if r.Live == nil {
			s.storage[r.GR()] = r.Stored
		}
		if r.Custom == nil && hides(r) {
			s.hidden[r.GVR()] = r
			continue
		}
		s.byGVR[r.GVR()], s.byGVK[r.GVK()] = r, r
		if r.Custom == nil {
			s.groups[r.Group] = true
		}
		s.list = append(s.list, r)
		if !slices.Contains(unnamed, r) {
			s.named = append(s.named, r)
		}
	}
	return s, nil
}

// stored are the rows by which objects are stored. Rows whose objects are found out anew (Live) have none, and what
// lies below their prefix is another's: pods of metrics.k8s.io are not those of the core group.
func (s *served) stored() []*resource.Resource {
	return slices.SortedFunc(maps.Values(s.storage), func(a, b *resource.Resource) int { return strings.Compare(a.GR().String(), b.GR().String()) })
}

// find is a resource that is served, or nil.
func (s *Server) find(gvr schema.GroupVersionResource) *resource.Resource {
	return s.served.Load().byGVR[gvr]
}

// kind is the resource of a kind that is served, or nil.
func (s *Server) kind(gvk schema.GroupVersionKind) *resource.Resource {
	return s.served.Load().byGVK[gvk]
}

// SetResources replaces all that is served. A row that stays must be the same
// value as before; a changed kind is a new row, and watches of it end, so that
// clients resume them under the new one. Objects of kinds that are served no
// longer stay in the backend.
//
// It is the only place that changes what is served. It goes in an order in
// which no client is told of a resource that it cannot reach: the store takes
// the new kinds in, requests find them, documents name them; then what is kept
// for those that went is dropped. After an error what is served and described
// is as it was, and the call can be repeated.
//
// Requests reach unnamed, which are among list, but no document names them yet.
func (s *Server) SetResources(ctx context.Context, list []*resource.Resource, unnamed ...*resource.Resource) error {
	s.setting.Lock()
	defer s.setting.Unlock()
	next, err := newServed(list, unnamed, s.config.Hides)
	if err != nil {
		return err
	}
	old := s.served.Load()
	for kind, row := range next.storage {
		if old.storage[kind] == row {
			continue
		}
		if err := s.store.Add(ctx, row); err != nil {
			return fmt.Errorf("serve %s: %w", kind, err)
		}
	}
	s.served.Store(next)
	if !slices.Equal(old.named, next.named) {
		s.describe(next)
	}
	for kind, row := range old.storage {
		if next.storage[kind] == nil {
			s.store.Remove(row)
		}
	}
	for gvr, row := range old.byGVR {
		if next.byGVR[gvr] != row {
			s.rest.Fields.Forget(row)
		}
	}
	return nil
}

// describe tells the documents what they are to name.
func (s *Server) describe(now *served) {
	for _, d := range s.config.Documents {
		d.Publish(now.named)
	}
}
