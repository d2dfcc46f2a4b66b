package store

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Match selects objects; zero fields match all. It is evaluated on objects of
// the stored version. Namespace is ignored for cluster-scoped kinds.
type Match struct {
	Namespace, Name string
	// Labels selects by labels, Fields by fields that the row of the stored version
	// has. They need not open packed objects, as Select must; nil selects all.
	Labels labels.Selector
	Fields fields.Requirements
	Select func(resource.Object) bool
	// IndexValue is the value of the kind's IndexBy field where the selector
	// fixes it; Select must imply it.
	IndexValue string
	// Readable leaves out what is unreadable instead of failing: for readers
	// to whom objects only give, as roles give rights, so that fewer do no harm.
	Readable bool
}

// Selects reports whether labels and Select select an object that is in no store.
func (m Match) Selects(obj resource.Object) bool {
	return (m.Labels == nil || m.Labels.Matches(labels.Set(obj.GetLabels()))) && (m.Select == nil || m.Select(obj))
}

// plain reports whether the match is by namespace alone, so that all objects
// in a range of keys match.
func (m Match) plain() bool {
	return m.Name == "" && m.Labels == nil && len(m.Fields) == 0 && m.Select == nil && m.IndexValue == ""
}

// matcher is a Match prepared for one kind.
type matcher struct {
	key    string // the only key that can match, or empty
	prefix string // of all keys that can match
	suffix string // "/name" if the name is fixed and the namespace is not
	labels labels.Selector
	fields fields.Requirements
	sel    func(resource.Object) bool
	strict bool // what is unreadable may match
}

func (k *kind) matcher(m Match) matcher {
	out := matcher{labels: m.Labels, fields: m.Fields, sel: m.Select, strict: !m.Readable}
	switch {
	case k.r.ClusterScoped:
		out.key = m.Name
	case m.Namespace != "" && m.Name != "":
		out.key = m.Namespace + "/" + m.Name
	case m.Namespace != "":
		out.prefix = m.Namespace + "/"
	case m.Name != "":
		out.suffix = "/" + m.Name
	}
	if out.sel == nil && m.IndexValue != "" {
		out.fields = append(slices.Clip(out.fields), fields.Requirement{Field: k.r.IndexBy, Operator: selection.Equals, Value: m.IndexValue})
	}
	return out
}

// item reports whether an item matches; nil and what is unreadable do not.
func (m matcher) item(item *Item) bool {
	return m.possible(item) && item.broken == nil
}

// unreadable reports whether an item may match but nobody can tell.
func (m matcher) unreadable(item *Item) bool {
	return m.possible(item) && item.broken != nil
}

// possible reports whether an item matches as far as it can be read.
func (m matcher) possible(item *Item) bool {
	return item != nil && m.place(item) && (item.broken != nil && m.strict || item.broken == nil && m.selects(item))
}

// place reports whether the key of an item matches.
func (m matcher) place(item *Item) bool {
	return (m.key == "" || m.key == item.key) && strings.HasPrefix(item.key, m.prefix) && strings.HasSuffix(item.key, m.suffix)
}

// selects reports whether the selectors select what is in an item.
func (m matcher) selects(item *Item) bool {
	return (m.labels == nil || m.labels.Matches(item.labels.pairs)) && m.others(item)
}

// others reports whether the selectors beside that of labels select what is in an item. The one that may have to open it comes
// last.
func (m matcher) others(item *Item) bool {
	for _, q := range m.fields {
		if (item.kept.field(q.Field) == q.Value) == (q.Operator == selection.NotEquals) {
			return false
		}
	}
	return m.sel == nil || m.sel(item.Object())
}
