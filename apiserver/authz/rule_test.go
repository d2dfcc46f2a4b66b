package authz

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func TestAllows(t *testing.T) {
	on := func(verb, group, resource, sub, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Name: name, ResourceRequest: true}
	}
	path := func(verb, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, Path: path}
	}
	rule := func(verbs, groups, resources, names []string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources, ResourceNames: names}
	}
	s := func(values ...string) []string { return values }

	for _, c := range []struct {
		name string
		rule rbacv1.PolicyRule
		ask  authorizer.AttributesRecord
		want bool
	}{
		{"exact", rule(s("get"), s(""), s("pods"), nil), on("get", "", "pods", "", "a"), true},
		{"other verb", rule(s("get"), s(""), s("pods"), nil), on("list", "", "pods", "", ""), false},
		{"other group", rule(s("get"), s("apps"), s("pods"), nil), on("get", "", "pods", "", "a"), false},
		{"any verb and group", rule(s("*"), s("*"), s("pods"), nil), on("get", "x", "pods", "", "a"), true},
		{"a resource is not its subresource", rule(s("get"), s(""), s("pods"), nil), on("get", "", "pods", "log", "a"), false},
		{"subresource", rule(s("get"), s(""), s("pods/log"), nil), on("get", "", "pods", "log", "a"), true},
		{"a subresource is not its resource", rule(s("get"), s(""), s("pods/log"), nil), on("get", "", "pods", "", "a"), false},
		{"subresource of anything", rule(s("get"), s("*"), s("*/scale"), nil), on("get", "apps", "deployments", "scale", "a"), true},
		{"subresource of anything, another", rule(s("get"), s("*"), s("*/scale"), nil), on("get", "apps", "deployments", "status", "a"), false},
		{"subresource as a review may name it", rule(s("get"), s(""), s("pods/log"), nil), on("get", "", "pods/log", "", ""), true},
		{"subresource of a subresource", rule(s("get"), s(""), s("pods/proxy/x"), nil), on("get", "", "pods/proxy", "x", ""), true},
		{"an empty subresource is not its resource", rule(s("get"), s(""), s("pods/"), nil), on("get", "", "pods", "", "a"), false},
		{"subresource of anything needs a subresource", rule(s("get"), s(""), s("*/log"), nil), on("get", "", "pods/log", "", ""), false},
		{"no subresource of anything", rule(s("get"), s(""), s("*/"), nil), on("get", "", "pods", "", ""), false},
		{"star covers subresources", rule(s("get"), s(""), s("*"), nil), on("get", "", "pods", "log", "a"), true},
		{"named", rule(s("get"), s(""), s("pods"), s("a", "b")), on("get", "", "pods", "", "b"), true},
		{"named, another", rule(s("get"), s(""), s("pods"), s("a")), on("get", "", "pods", "", "b"), false},
		{"named does not cover lists", rule(s("list"), s(""), s("pods"), s("a")), on("list", "", "pods", "", ""), false},
		{"path", rbacv1.PolicyRule{Verbs: s("get"), NonResourceURLs: s("/version")}, path("get", "/version"), true},
		{"path below", rbacv1.PolicyRule{Verbs: s("get"), NonResourceURLs: s("/version")}, path("get", "/version/"), false},
		{"path prefix", rbacv1.PolicyRule{Verbs: s("get"), NonResourceURLs: s("/apis/*")}, path("get", "/apis/apps"), true},
		{"path prefix is literal", rbacv1.PolicyRule{Verbs: s("get"), NonResourceURLs: s("/apis/*")}, path("get", "/apis"), false},
		{"any path", rbacv1.PolicyRule{Verbs: s("*"), NonResourceURLs: s("*")}, path("post", "/x"), true},
		{"resource rules say nothing of paths", rule(s("*"), s("*"), s("*"), nil), path("get", "/x"), false},
		{"path rules say nothing of resources", rbacv1.PolicyRule{Verbs: s("*"), NonResourceURLs: s("*")}, on("get", "", "pods", "", "a"), false},
	} {
		if got := allows(&c.rule, c.ask); got != c.want {
			t.Errorf("%s: allows = %t, want %t", c.name, got, c.want)
		}
	}
}
