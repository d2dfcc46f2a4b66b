// Package matching says which writes an admission policy or a webhook is about, and shows them in the version that it
// names.
package matching

import (
	"context"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Criteria are MatchResources, ready to be compared with writes. They are used by many goroutines at once.
type Criteria struct {
	Selectors
	rules, excluded []admissionregistrationv1.NamedRuleWithOperations
	equivalent      bool
}

// Selectors choose writes by labels. They are used by many goroutines at once.
type Selectors struct{ namespaces, objects labels.Selector }

// ParseSelectors makes Selectors. What is nil matches everything.
func ParseSelectors(namespaces, objects *metav1.LabelSelector) (s Selectors, err error) {
	if s.namespaces, err = selector(namespaces); err != nil {
		return s, err
	}
	s.objects, err = selector(objects)
	return s, err
}

// Parse makes Criteria. Fields that are not set match everything.
func Parse(m *admissionregistrationv1.MatchResources) (*Criteria, error) {
	selectors, err := ParseSelectors(m.NamespaceSelector, m.ObjectSelector)
	if err != nil {
		return nil, err
	}
	return &Criteria{
		Selectors: selectors, rules: m.ResourceRules, excluded: m.ExcludeResourceRules,
		equivalent: m.MatchPolicy != nil && *m.MatchPolicy == admissionregistrationv1.Equivalent,
	}, nil
}

func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// Row finds the row in whose version c is about a; nil: it is not about a. served are the rows in which the kind of a may
// be found in another version. The error says that it cannot be told, since the namespace cannot be read.
func (c *Criteria) Row(ctx context.Context, a *admission.Attributes, served func() []*resource.Resource) (*resource.Resource, error) {
	// The rules decide most often, and cost least.
	row := a.Served()
	if len(c.rules) > 0 {
		row = c.named(c.rules, a, served)
	}
	if row == nil || !c.Object(a) || c.named(c.excluded, a, served) != nil {
		return nil, nil
	}
	selected, err := c.Namespace(ctx, a)
	if !selected {
		return nil, err
	}
	return row, nil
}

// Namespace judges the labels a namespace will have, or those of the namespace of the object. What is in no namespace is
// always selected. An error means that it cannot be told.
func (s Selectors) Namespace(ctx context.Context, a *admission.Attributes) (bool, error) {
	if a.Namespace == "" && !a.Resource.IsNamespace() || s.namespaces.Empty() {
		return true, nil
	}
	if obj := a.Object(); a.Resource.IsNamespace() && a.Subresource == "" && obj != nil {
		return s.namespaces.Matches(labels.Set(obj.GetLabels())), nil
	}
	namespace, err := a.Cluster.Get(ctx, a.Cluster.Resource("", "namespaces"), "", a.Namespace)
	if err != nil {
		return false, err
	}
	return s.namespaces.Matches(labels.Set(namespace.GetLabels())), nil
}

// Object judges the object as it will be and as it was; one of them is enough.
func (s Selectors) Object(a *admission.Attributes) bool {
	matches := func(obj runtime.Object) bool {
		if obj == nil {
			return false
		}
		m, err := meta.Accessor(obj)
		return err == nil && s.objects.Matches(labels.Set(m.GetLabels()))
	}
	return s.objects.Empty() || matches(a.New) || matches(a.Old)
}

// named is the row of the request if a rule names it, else, under policy Equivalent, one of another version of the kind.
func (c *Criteria) named(rules []admissionregistrationv1.NamedRuleWithOperations, a *admission.Attributes, served func() []*resource.Resource) *resource.Resource {
	asked, ofKind := a.Served(), false
	for i := range rules {
		rule := &rules[i]
		if !isAbout(&rule.Rule, a, asked) {
			continue
		}
		if ofKind = true; applies(rule, a, asked) {
			return asked
		}
	}
	if !c.equivalent || !ofKind {
		return nil
	}
	for _, r := range Equivalents(a, served()) {
		for i := range rules {
			if isAbout(&rules[i].Rule, a, r) && applies(&rules[i], a, r) {
				return r
			}
		}
	}
	return nil
}

// Equivalents are the other versions, of those that are served, in which what a is about is there.
func Equivalents(a *admission.Attributes, served []*resource.Resource) (rows []*resource.Resource) {
	asked := a.Served()
	for _, r := range served {
		if r.Stored == asked.Stored && r != asked && (a.Subresource == "" || r.Sub(a.Subresource) != nil) {
			rows = append(rows, r)
		}
	}
	return rows
}

// Applies reports whether a rule is about a in the version of r.
func Applies(rule *admissionregistrationv1.RuleWithOperations, a *admission.Attributes, r *resource.Resource) bool {
	return isAbout(&rule.Rule, a, r) && inVersion(rule, a, r)
}

// isAbout reports whether a rule is about the kind of a, in any version.
func isAbout(rule *admissionregistrationv1.Rule, a *admission.Attributes, r *resource.Resource) bool {
	if !anyOr(rule.APIGroups, r.Group) {
		return false
	}
	for _, name := range rule.Resources {
		parent, sub, _ := strings.Cut(name, "/")
		if (parent == "*" || parent == r.Plural) && (sub == "*" || sub == a.Subresource) {
			return true
		}
	}
	return false
}

// applies reports whether a rule about the kind of a is about a in the version of r.
func applies(rule *admissionregistrationv1.NamedRuleWithOperations, a *admission.Attributes, r *resource.Resource) bool {
	return inVersion(&rule.RuleWithOperations, a, r) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.RequestName()))
}

func inVersion(rule *admissionregistrationv1.RuleWithOperations, a *admission.Attributes, r *resource.Resource) bool {
	return anyOr(rule.APIVersions, r.Version) && inScope(rule.Scope, a) &&
		slices.ContainsFunc(rule.Operations, func(o admissionregistrationv1.OperationType) bool {
			return o == "*" || strings.EqualFold(string(o), a.Verb)
		})
}

func inScope(scope *admissionregistrationv1.ScopeType, a *admission.Attributes) bool {
	if scope == nil {
		return true
	}
	clusterWide := a.Resource.IsNamespace() || a.Namespace == ""
	switch *scope {
	case admissionregistrationv1.NamespacedScope:
		return !clusterWide
	case admissionregistrationv1.ClusterScope:
		return clusterWide
	}
	return *scope == admissionregistrationv1.AllScopes
}

func anyOr(list []string, want string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, want)
}
