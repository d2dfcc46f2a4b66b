package store

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// face is what packed objects are selected by, kept beside them: a list opens only those that it shows.
type face struct{ labels, fields pairs }

func faceOf(r *resource.Resource, obj resource.Object) face {
	f := face{labels: newPairs(obj.GetLabels())}
	if len(r.Fields) == 0 {
		return f
	}
	values := make(map[string]string, len(r.Fields))
	for name, value := range r.Fields {
		values[name] = value(obj)
	}
	f.fields = newPairs(values)
	return f
}

// pairs are names with their values, one after the other: a map of so few takes several times as much memory.
type pairs []string

var _ labels.Labels = pairs(nil)

func newPairs(m map[string]string) pairs {
	if len(m) == 0 {
		return nil
	}
	p := make(pairs, 0, 2*len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		p = append(p, name, m[name])
	}
	return p
}

// Lookup implements labels.Labels.
func (p pairs) Lookup(name string) (value string, exists bool) {
	for i := 0; i < len(p); i += 2 {
		if p[i] == name {
			return p[i+1], true
		}
	}
	return "", false
}

// Has implements labels.Labels.
func (p pairs) Has(name string) bool {
	_, exists := p.Lookup(name)
	return exists
}

// Get implements labels.Labels.
func (p pairs) Get(name string) string {
	value, _ := p.Lookup(name)
	return value
}

// labels are those of the object.
func (i *Item) labels() labels.Labels {
	if i.packed != nil {
		return i.packed.face.labels
	}
	return labels.Set(i.object.GetLabels())
}

// field is the value of one of the fields of r, the kind of the object.
func (i *Item) field(r *resource.Resource, name string) string {
	if i.packed != nil {
		return i.packed.face.fields.Get(name)
	}
	return r.Fields[name](i.object)
}
