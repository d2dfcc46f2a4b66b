package bootstrap

import (
	"cmp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// role is a row of the tables: a ClusterRole or, with a namespace, a Role.
type role struct {
	name, namespace string
	// aggregateTo is the suffix of the label that makes another role include
	// this one, aggregates the suffix by which this one includes others.
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

func rbacObjects() []object {
	var list []object
	for _, r := range slices.Concat(clusterRoles, controllerRoles, roles) {
		list = append(list, r.object())
	}
	for _, b := range slices.Concat(clusterRoleBindings, controllerBindings(), roleBindings) {
		list = append(list, b.object())
	}
	return list
}

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
	if r.aggregateTo != "" {
		meta.Labels[aggregationPrefix+r.aggregateTo] = "true"
	}
	if r.namespace != "" {
		want := &rbacv1.Role{ObjectMeta: meta, Rules: r.policyRules()}
		return object{group: rbacv1.GroupName, plural: "roles", want: want, repair: func(have resource.Object) bool {
			o := have.(*rbacv1.Role)
			return updates(o) && addRules(&o.Rules, want.Rules)
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
		// The rules of roles that aggregate are the business of a controller.
		return updates(o) && want.AggregationRule == nil && addRules(&o.Rules, want.Rules)
	}}
}

// aggregatedRules are what the aggregation controller will find: made here so
// that the roles can be used before it runs.
func aggregatedRules(to string) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	for _, r := range clusterRoles {
		switch {
		case r.aggregateTo != to:
		case r.aggregates != "":
			rules = append(rules, aggregatedRules(r.aggregates)...)
		default:
			rules = append(rules, r.policyRules()...)
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
		return object{group: rbacv1.GroupName, plural: "rolebindings", want: want, repair: func(have resource.Object) bool {
			o := have.(*rbacv1.RoleBinding)
			return updates(o) && o.RoleRef == ref && addSubjects(&o.Subjects, b.subjects)
		}}
	}
	want := &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: b.subjects}
	return object{group: rbacv1.GroupName, plural: "clusterrolebindings", want: want, repair: func(have resource.Object) bool {
		o := have.(*rbacv1.ClusterRoleBinding)
		return updates(o) && o.RoleRef == ref && addSubjects(&o.Subjects, b.subjects)
	}}
}

func systemMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{bootstrapLabel: "rbac-defaults"},
		Annotations: map[string]string{autoUpdate: "true"},
	}
}

// updates reports whether the administrator lets a default object be repaired.
func updates(obj resource.Object) bool { return obj.GetAnnotations()[autoUpdate] == "true" }

// addRules adds what is missing. What was added to a default role stays.
func addRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) (changed bool) {
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
