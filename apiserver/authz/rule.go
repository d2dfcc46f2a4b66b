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

// matchResource knows the forms "pods", "pods/log", "*/scale" and "*", which
// alone covers subresources too.
func matchResource(list []string, resource, sub string) bool {
	for _, entry := range list {
		if entry == "*" {
			return true
		}
		name, entrySub, _ := strings.Cut(entry, "/")
		if entrySub == sub && (name == resource || name == "*" && sub != "") {
			return true
		}
	}
	return false
}

// matchPath knows exact paths and prefixes that end in "*".
func matchPath(pattern, path string) bool {
	if pattern == path {
		return true
	}
	return strings.HasSuffix(pattern, "*") && strings.HasPrefix(path, strings.TrimRight(pattern, "*"))
}
