package fairness

import (
	"cmp"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// all stands for every value in the lists of a rule.
const all = "*"

// ordered are schemas in the order in which they are asked.
func ordered(schemas []*flowcontrolv1.FlowSchema) []*flowcontrolv1.FlowSchema {
	return slices.SortedFunc(slices.Values(schemas), func(a, b *flowcontrolv1.FlowSchema) int {
		return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), strings.Compare(a.Name, b.Name))
	})
}

// matches reports whether one of the rules of a schema is about a.
func matches(schema *flowcontrolv1.FlowSchema, a authorizer.Attributes) bool {
	return slices.ContainsFunc(schema.Spec.Rules, func(rule flowcontrolv1.PolicyRulesWithSubjects) bool {
		if !slices.ContainsFunc(rule.Subjects, func(s flowcontrolv1.Subject) bool { return names(s, a.GetUser()) }) {
			return false
		}
		if !a.IsResourceRequest() {
			return slices.ContainsFunc(rule.NonResourceRules, func(r flowcontrolv1.NonResourcePolicyRule) bool { return coversPath(r, a) })
		}
		return slices.ContainsFunc(rule.ResourceRules, func(r flowcontrolv1.ResourcePolicyRule) bool { return covers(r, a) })
	})
}

func names(s flowcontrolv1.Subject, u user.Info) bool {
	switch s.Kind {
	case flowcontrolv1.SubjectKindUser:
		return s.User.Name == all || s.User.Name == u.GetName()
	case flowcontrolv1.SubjectKindGroup:
		return s.Group.Name == all || slices.Contains(u.GetGroups(), s.Group.Name)
	case flowcontrolv1.SubjectKindServiceAccount:
		namespace, name, err := serviceaccount.SplitUsername(u.GetName())
		return err == nil && namespace == s.ServiceAccount.Namespace && (s.ServiceAccount.Name == all || s.ServiceAccount.Name == name)
	}
	return false
}

func covers(r flowcontrolv1.ResourcePolicyRule, a authorizer.Attributes) bool {
	resource := a.GetResource()
	if a.GetSubresource() != "" {
		resource += "/" + a.GetSubresource()
	}
	within := r.ClusterScope
	if a.GetNamespace() != "" {
		within = has(r.Namespaces, a.GetNamespace())
	}
	return within && has(r.Verbs, a.GetVerb()) && has(r.APIGroups, a.GetAPIGroup()) && has(r.Resources, resource)
}

func coversPath(r flowcontrolv1.NonResourcePolicyRule, a authorizer.Attributes) bool {
	return has(r.Verbs, a.GetVerb()) && slices.ContainsFunc(r.NonResourceURLs, func(path string) bool {
		prefix, open := strings.CutSuffix(path, all)
		return path == a.GetPath() || open && strings.HasPrefix(a.GetPath(), prefix)
	})
}

func has(list []string, value string) bool {
	return slices.Contains(list, all) || slices.Contains(list, value)
}
