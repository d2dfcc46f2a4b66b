package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/skiff-k8s/skiff/apiserver/authz"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// roleEscalation keeps users from granting what they may not do themselves,
// unless they have the verb "escalate" on the role or "bind" on what is bound.
func roleEscalation(rights Rights) Plugin {
	return Plugin{Name: "RoleEscalation", Mutate: func(ctx context.Context, a *Attributes) error {
		if a.Resource.Group != rbacv1.GroupName || a.Verb != create && a.Verb != update || authz.IsMaster(a.User) {
			return nil
		}
		if old, _ := a.Old.(resource.Object); old != nil && onlyOwnersChange(old, a.Object()) {
			return nil
		}
		rules, err := granted(ctx, a, rights)
		if err != nil {
			return err
		}
		if problem := lacking(a, rights, rules); problem != "" {
			return a.forbid("%s", problem)
		}
		if choosesRules(a) && !mayEscalate(ctx, a, rights) && lacking(a, rights, everything) != "" {
			return a.forbid("must have cluster-admin privileges to use the aggregationRule")
		}
		return nil
	}}
}

// lacking says which of rules the user of a does not have; "" if all. Roles of
// the user that are missing are no reason to refuse what the others cover.
func lacking(a *Attributes, rights Rights, rules []rbacv1.PolicyRule) string {
	own, problems := rights.PolicyRules(a.User, a.Namespace)
	_, missing := validation.Covers(own, rules)
	if len(missing) == 0 {
		return ""
	}
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		a.User.GetName(), a.User.GetGroups(), describeRules(missing))
	if problems != nil {
		text += fmt.Sprintf("; resolution errors: [%v]", problems)
	}
	return text
}

// onlyOwnersChange reports whether an update is one the garbage collector makes
// to let go of an object.
func onlyOwnersChange(old, obj resource.Object) bool {
	a, b := old.DeepCopyObject().(resource.Object), obj.DeepCopyObject().(resource.Object)
	for _, o := range []resource.Object{a, b} {
		o.SetOwnerReferences(nil)
		o.SetFinalizers(nil)
		o.SetManagedFields(nil)
	}
	return equality.Semantic.DeepEqual(a, b)
}

// granted are the rules that a would give to someone and that its user has no
// explicit right to give.
func granted(ctx context.Context, a *Attributes, rights Rights) ([]rbacv1.PolicyRule, error) {
	var ref rbacv1.RoleRef
	switch o := a.New.(type) {
	case *rbacv1.Role:
		return unless(mayEscalate(ctx, a, rights), o.Rules), nil
	case *rbacv1.ClusterRole:
		return unless(mayEscalate(ctx, a, rights), o.Rules), nil
	case *rbacv1.RoleBinding:
		ref = o.RoleRef
	case *rbacv1.ClusterRoleBinding:
		ref = o.RoleRef
	}
	plural := map[string]string{"ClusterRole": "clusterroles", "Role": "roles"}[ref.Kind]
	// Validation refuses other kinds.
	if plural == "" || may(ctx, a, rights, "bind", plural, ref.Name) {
		return nil, nil
	}
	rules, found := rights.RoleRules(ref, a.Namespace)
	if !found {
		// Kubernetes names the kind of the binding, and clients see that.
		return nil, apierrors.NewNotFound(a.Resource.GR(), ref.Name)
	}
	return rules, nil
}

func unless(condition bool, rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	if condition {
		return nil
	}
	return rules
}

// mayEscalate asks about the name in the request, which a create does not have.
func mayEscalate(ctx context.Context, a *Attributes, rights Rights) bool {
	name := a.Name
	if a.Verb == create {
		name = ""
	}
	return may(ctx, a, rights, "escalate", a.Resource.Plural, name)
}

func may(ctx context.Context, a *Attributes, rights Rights, verb, plural, name string) bool {
	decision, _, _ := rights.Authorize(ctx, authorizer.AttributesRecord{
		User: a.User, Verb: verb, APIGroup: rbacv1.GroupName, APIVersion: "*",
		Resource: plural, Name: name, Namespace: a.Namespace, ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow
}

// choosesRules reports whether a writes a role that takes its rules from
// others: whoever can do that may come to grant anything.
func choosesRules(a *Attributes) bool {
	role, _ := a.New.(*rbacv1.ClusterRole)
	old, _ := a.Old.(*rbacv1.ClusterRole)
	return aggregates(role) || aggregates(old)
}

func aggregates(r *rbacv1.ClusterRole) bool {
	return r != nil && r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// describeRules writes a rule per line, in order. Rules have one verb each; those
// that are alike but for the verb become one.
func describeRules(rules []rbacv1.PolicyRule) string {
	type subject struct{ group, resource, name, path string }
	key := func(r rbacv1.PolicyRule) subject {
		return subject{strings.Join(r.APIGroups, ","), strings.Join(r.Resources, ","), strings.Join(r.ResourceNames, ","), strings.Join(r.NonResourceURLs, ",")}
	}
	merged := make(map[subject]*rbacv1.PolicyRule)
	for _, r := range rules {
		// Paths are not merged: each has a line of its own per verb.
		if m := merged[key(r)]; m != nil && len(r.NonResourceURLs) == 0 {
			m.Verbs = append(m.Verbs, r.Verbs...)
			continue
		}
		merged[key(r)] = r.DeepCopy()
	}
	lines := make([]string, 0, len(merged))
	for _, r := range merged {
		lines = append(lines, describeRule(*r))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func describeRule(r rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
