package audit

import (
	"strings"
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func TestPoliciesThatAreRefused(t *testing.T) {
	head := "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
	for _, c := range []struct{ policy, want string }{
		{"", "it is nothing of nothing and must be Policy of audit.k8s.io/v1"},
		{"a: [", "did not find expected node content"},
		{"apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]", "it is Policy of audit.k8s.io/v1beta1"},
		{"apiVersion: audit.k8s.io/v1\nkind: Event", "it is Event of audit.k8s.io/v1"},
		{head, "it has no rules"},
		{head + "rules: [{}]", "rules[0].level: Required value"},
		{head + "rules: [{level: None}, {level: Some}]", `rules[1].level: Unsupported value: "Some": supported values: "None", "Metadata", "Request", "RequestResponse"`},
		{head + "omitStages: [Begin]\nrules: [{level: None}]", `omitStages[0]: Unsupported value: "Begin"`},
		{head + "rules: [{level: None, omitStages: [Panic, End]}]", `rules[0].omitStages[1]: Unsupported value: "End"`},
		{head + "rules: [{level: None, nonResourceURLs: [healthz]}]", "must begin with a '/' character"},
		{head + "rules: [{level: None, nonResourceURLs: ['/*/a']}]", "must be the final character"},
		{head + "rules: [{level: None, nonResourceURLs: ['/a'], namespaces: [n]}]", "cannot apply to both regular resources and non-resource URLs"},
		{head + "rules: [{level: None, resources: [{group: rbac.authorization.k8s.io/v1}]}]", `rules[0].resources[0].group: Invalid value: "rbac.authorization.k8s.io/v1"`},
		{head + "rules: [{level: None, resources: [{resourceNames: [a]}]}]", "using resourceNames requires at least one resource"},
	} {
		_, err := parsePolicy([]byte(c.policy), func(error) {})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q gave %v, want %s", c.policy, err, c.want)
		}
	}
}

// TestUnknownFields warn, as they do of kube-apiserver.
func TestUnknownFields(t *testing.T) {
	var warned error
	p, err := parsePolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nnothing: 1\nrules: [{level: None}]"), func(err error) { warned = err })
	if err != nil || len(p.Rules) != 1 || warned == nil || !strings.Contains(warned.Error(), "nothing") {
		t.Errorf("got %v, %v, warning %v", p, err, warned)
	}
}

func TestRules(t *testing.T) {
	u := &user.DefaultInfo{Name: "u", Groups: []string{"g"}}
	pod := authorizer.AttributesRecord{User: u, Verb: "get", Namespace: "n", Resource: "pods", Name: "p", ResourceRequest: true}
	log := pod
	log.Subresource = "log"
	node := authorizer.AttributesRecord{User: u, Verb: "get", Resource: "nodes", Name: "x", ResourceRequest: true}
	path := authorizer.AttributesRecord{User: u, Verb: "get", Path: "/healthz/ping"}
	nobody := authorizer.AttributesRecord{Verb: "get", Path: "/healthz/ping"}
	resources := func(group string, names ...string) []auditv1.GroupResources {
		return []auditv1.GroupResources{{Group: group, Resources: names}}
	}
	for _, c := range []struct {
		name  string
		rule  auditv1.PolicyRule
		about []authorizer.AttributesRecord
		not   []authorizer.AttributesRecord
	}{
		{"everything", auditv1.PolicyRule{}, []authorizer.AttributesRecord{pod, log, node, path, nobody}, nil},
		{"a user", auditv1.PolicyRule{Users: []string{"u"}}, []authorizer.AttributesRecord{pod, path}, []authorizer.AttributesRecord{nobody}},
		{"another", auditv1.PolicyRule{Users: []string{"v"}}, nil, []authorizer.AttributesRecord{pod, nobody}},
		{"a group", auditv1.PolicyRule{UserGroups: []string{"g", "h"}}, []authorizer.AttributesRecord{pod}, []authorizer.AttributesRecord{nobody}},
		{"a verb", auditv1.PolicyRule{Verbs: []string{"list"}}, nil, []authorizer.AttributesRecord{pod, path}},
		{"a namespace", auditv1.PolicyRule{Namespaces: []string{"n"}}, []authorizer.AttributesRecord{pod, log}, []authorizer.AttributesRecord{node, path}},
		{"no namespace", auditv1.PolicyRule{Namespaces: []string{""}}, []authorizer.AttributesRecord{node}, []authorizer.AttributesRecord{pod, path}},
		{"a group of resources", auditv1.PolicyRule{Resources: resources("")}, []authorizer.AttributesRecord{pod, log, node}, []authorizer.AttributesRecord{path}},
		{"another group", auditv1.PolicyRule{Resources: resources("apps")}, nil, []authorizer.AttributesRecord{pod, path}},
		{"any group", auditv1.PolicyRule{Resources: resources("*", "*")}, []authorizer.AttributesRecord{pod, log}, []authorizer.AttributesRecord{path}},
		{"a resource", auditv1.PolicyRule{Resources: resources("", "pods")}, []authorizer.AttributesRecord{pod}, []authorizer.AttributesRecord{log, node}},
		{"a subresource", auditv1.PolicyRule{Resources: resources("", "pods/log")}, []authorizer.AttributesRecord{log}, []authorizer.AttributesRecord{pod}},
		{"any subresource", auditv1.PolicyRule{Resources: resources("", "pods/*")}, []authorizer.AttributesRecord{pod, log}, []authorizer.AttributesRecord{node}},
		{"a subresource of any", auditv1.PolicyRule{Resources: resources("", "*/log")}, []authorizer.AttributesRecord{log}, []authorizer.AttributesRecord{pod}},
		{"a name", auditv1.PolicyRule{Resources: []auditv1.GroupResources{{Resources: []string{"pods", "nodes"}, ResourceNames: []string{"p"}}}},
			[]authorizer.AttributesRecord{pod}, []authorizer.AttributesRecord{node}},
		{"a path", auditv1.PolicyRule{NonResourceURLs: []string{"/healthz/ping"}}, []authorizer.AttributesRecord{path, nobody}, []authorizer.AttributesRecord{pod}},
		{"below a path", auditv1.PolicyRule{NonResourceURLs: []string{"/version", "/healthz*"}}, []authorizer.AttributesRecord{path}, []authorizer.AttributesRecord{pod}},
		{"another path", auditv1.PolicyRule{NonResourceURLs: []string{"/healthz", "/healthz/"}}, nil, []authorizer.AttributesRecord{path}},
		{"any path", auditv1.PolicyRule{NonResourceURLs: []string{"*"}}, []authorizer.AttributesRecord{path}, []authorizer.AttributesRecord{pod}},
	} {
		for _, a := range c.about {
			if !about(&c.rule, a) {
				t.Errorf("%s: it is not about %+v", c.name, a)
			}
		}
		for _, a := range c.not {
			if about(&c.rule, a) {
				t.Errorf("%s: it is about %+v", c.name, a)
			}
		}
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: ['*', '/a*']}, {level: Request, resources: [{group: '*', resources: ['*/x', 'y/*']}]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePolicy(data, func(error) {})
		if err != nil {
			return
		}
		for _, a := range []authorizer.AttributesRecord{
			{Verb: "get", Path: "/a"}, {Verb: "get", Resource: "y", Subresource: "x", ResourceRequest: true, User: &user.DefaultInfo{Name: "u"}},
		} {
			if d := p.decide(a); !atLeast(d.level, auditv1.LevelNone) {
				t.Errorf("level %q of a policy that was accepted", d.level)
			}
		}
	})
}
