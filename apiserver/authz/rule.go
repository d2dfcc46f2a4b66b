package authz

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// allows reports whether rule covers what a asks for.
func allows(rule *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	if !listed(rule.Verbs, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return matchPath(pattern, a.GetPath()) })
	}
	return listed(rule.APIGroups, a.GetAPIGroup()) &&
		matchResource(rule.Resources, a.GetResource(), a.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

// listed reports whether list has value or the wildcard.
func listed(list []string, value string) bool {
	return slices.Contains(list, value) || slices.Contains(list, "*")
}

// matchResource compares names whole: "pods/log" is the resource of a request for pods with the subresource log, and
// likewise that of a review that names it so, without a subresource. Besides these forms there are "*", which is
// everything, and "*/scale", which needs a subresource.
func matchResource(list []string, resource, sub string) bool {
	if slices.Contains(list, "*") {
		return true
	}
	if sub == "" {
		return slices.Contains(list, resource)
	}
	return slices.Contains(list, resource+"/"+sub) || slices.Contains(list, "*/"+sub)
}

// matchPath knows exact paths and prefixes that end in "*".
func matchPath(pattern, path string) bool {
	if pattern == path {
		return true
	}
	return strings.HasSuffix(pattern, "*") && strings.HasPrefix(path, strings.TrimRight(pattern, "*"))
}
