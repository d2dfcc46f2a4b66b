package bootstrap

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// role is a row of the tables: a ClusterRole or, with a namespace, a Role.
type role struct {
	name, namespace string
	// aggregateTo are the suffixes of the labels that make other roles include
	// this one, separated by commas, aggregates the suffix by which this one includes others.
	aggregateTo, aggregates string
	rules                   []rule
}

// rule is a policy rule; its fields are lists separated by commas. The core
// group is written "core".
type rule struct{ verbs, groups, resources, names, paths string }

// binding is a row of the tables: a ClusterRoleBinding or, with a namespace, a
// RoleBinding. role is the name of what is bound if it is not the binding's.
type binding struct {
	name, namespace, role string
	subjects              []rbacv1.Subject
}

// ControllerManager is the user all our controllers run as.
const ControllerManager = "system:kube-controller-manager"

const (
	autoUpdate        = "rbac.authorization.kubernetes.io/autoupdate"
	bootstrapLabel    = "kubernetes.io/bootstrapping"
	aggregationPrefix = "rbac.authorization.k8s.io/aggregate-to-"
)

// NodeRules are what every node may do besides what its pods need: those of
// ClusterRole system:node.
func NodeRules() []rbacv1.PolicyRule {
	i := slices.IndexFunc(clusterRoles, func(r role) bool { return r.name == "system:node" })
	return clusterRoles[i].policyRules()
}

// rbacObjects are the same for all servers of a process. Nobody changes them: ensure copies what it makes.
var rbacObjects = sync.OnceValue(func() []object {
	var list []object
	for _, r := range slices.Concat(clusterRoles, controllerRoles, roles) {
		list = append(list, r.object())
	}
	for _, b := range slices.Concat(clusterRoleBindings, controllerBindings(), roleBindings) {
		list = append(list, b.object())
	}
	return list
})

func controllerBindings() []binding {
	var list []binding
	for _, r := range controllerRoles {
		own := account(metav1.NamespaceSystem, strings.TrimPrefix(r.name, "system:controller:"))
		list = append(list, binding{name: r.name, subjects: []rbacv1.Subject{own, user(ControllerManager)}})
	}
	return list
}

func (r role) object() object {
	meta := systemMeta(r.namespace, r.name)
	for _, to := range split(r.aggregateTo) {
		meta.Labels[aggregationPrefix+to] = "true"
	}
	if r.namespace != "" {
		want := &rbacv1.Role{ObjectMeta: meta, Rules: r.policyRules()}
		return object{group: rbacv1.GroupName, plural: "roles", want: want, repair: func(have resource.Object) bool {
			o := have.(*rbacv1.Role)
			return reconcile(o, want, func() bool { return addRules(&o.Rules, want.Rules) })
		}}
	}
	want := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: r.policyRules()}
	if r.aggregates != "" {
		want.Rules = aggregatedRules(r.aggregates)
		want.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
			{MatchLabels: map[string]string{aggregationPrefix + r.aggregates: "true"}},
		}}
	}
	return object{group: rbacv1.GroupName, plural: "clusterroles", want: want, repair: func(have resource.Object) bool {
		o := have.(*rbacv1.ClusterRole)
		return reconcile(o, want, func() bool {
			changed := addSelectors(&o.AggregationRule, want.AggregationRule)
			// The rules of roles that aggregate are the business of a controller.
			return want.AggregationRule == nil && addRules(&o.Rules, want.Rules) || changed
		})
	}}
}

// aggregatedRules are what the aggregation controller will find, each once: made here so
// that the roles can be used before it runs.
func aggregatedRules(to string) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	add := func(more []rbacv1.PolicyRule) {
		for _, rule := range more {
			if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
				rules = append(rules, rule)
			}
		}
	}
	for _, r := range clusterRoles {
		switch {
		case !slices.Contains(split(r.aggregateTo), to):
		case r.aggregates != "":
			add(aggregatedRules(r.aggregates))
		default:
			add(r.policyRules())
		}
	}
	return rules
}

func (r role) policyRules() []rbacv1.PolicyRule {
	rules := make([]rbacv1.PolicyRule, 0, len(r.rules))
	for _, x := range r.rules {
		rules = append(rules, rbacv1.PolicyRule{
			Verbs: split(x.verbs), APIGroups: split(x.groups), Resources: split(x.resources),
			ResourceNames: split(x.names), NonResourceURLs: split(x.paths),
		})
	}
	return rules
}

func split(text string) []string {
	if text == "" {
		return nil
	}
	values := strings.Split(text, ",")
	for i, v := range values {
		if v == "core" {
			values[i] = ""
		}
	}
	return values
}

func (b binding) object() object {
	meta := systemMeta(b.namespace, b.name)
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: cmp.Or(b.role, b.name)}
	if b.namespace != "" {
		ref.Kind = "Role"
		want := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: b.subjects}
		return object{group: rbacv1.GroupName, plural: "rolebindings", want: want,
			repair: func(have resource.Object) bool {
				o := have.(*rbacv1.RoleBinding)
				return reconcile(o, want, func() bool { return addSubjects(&o.Subjects, b.subjects) })
			},
			displaces: func(have resource.Object) bool { return updates(have) && have.(*rbacv1.RoleBinding).RoleRef != ref },
		}
	}
	want := &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: b.subjects}
	return object{group: rbacv1.GroupName, plural: "clusterrolebindings", want: want,
		repair: func(have resource.Object) bool {
			o := have.(*rbacv1.ClusterRoleBinding)
			return reconcile(o, want, func() bool { return addSubjects(&o.Subjects, b.subjects) })
		},
		displaces: func(have resource.Object) bool {
			return updates(have) && have.(*rbacv1.ClusterRoleBinding).RoleRef != ref
		},
	}
}

func systemMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{bootstrapLabel: "rbac-defaults"},
		Annotations: map[string]string{autoUpdate: "true"},
	}
}

// updates reports whether a default object may be repaired: unless its administrator says no.
func updates(obj resource.Object) bool { return obj.GetAnnotations()[autoUpdate] != "false" }

// reconcile makes the labels and annotations of a default object what they must be, then what part is about. It
// does nothing to an object that an administrator took out of its hands.
func reconcile(have, want resource.Object, part func() (changed bool)) (changed bool) {
	if !updates(have) {
		return false
	}
	annotations, some := missing(have.GetAnnotations(), want.GetAnnotations())
	if some {
		have.SetAnnotations(annotations)
	}
	labels, more := missing(have.GetLabels(), want.GetLabels())
	if more {
		have.SetLabels(labels)
	}
	return part() || some || more
}

// missing adds to have the keys of want that it lacks; values that differ are the administrator's.
func missing(have, want map[string]string) (all map[string]string, some bool) {
	all = make(map[string]string, len(want))
	maps.Copy(all, have)
	for k, v := range want {
		if _, ok := all[k]; !ok {
			all[k], some = v, true
		}
	}
	return all, some
}

// addSelectors makes have gather the rules that want gathers, and none if want gathers none.
func addSelectors(have **rbacv1.AggregationRule, want *rbacv1.AggregationRule) (changed bool) {
	if want == nil {
		changed = *have != nil
		*have = nil
		return changed
	}
	if *have == nil {
		*have = &rbacv1.AggregationRule{}
	}
	for _, s := range want.ClusterRoleSelectors {
		if !slices.ContainsFunc((*have).ClusterRoleSelectors, func(h metav1.LabelSelector) bool { return equality.Semantic.DeepEqual(h, s) }) {
			(*have).ClusterRoleSelectors, changed = append((*have).ClusterRoleSelectors, s), true
		}
	}
	return changed
}

// addRules adds what is missing. What was added to a default role stays.
func addRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) (changed bool) {
	if equality.Semantic.DeepEqual(*have, want) {
		return false // as nearly always, which is found out sooner so
	}
	_, missing := validation.Covers(*have, want)
	*have = append(*have, missing...)
	return len(missing) > 0
}

func addSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) (changed bool) {
	for _, s := range want {
		if !slices.Contains(*have, s) {
			*have, changed = append(*have, s), true
		}
	}
	return changed
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
}

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}
