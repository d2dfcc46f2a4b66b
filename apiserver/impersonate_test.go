package apiserver_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestImpersonate has a user with some rights ask who it is, as somebody else.
// The refusals are those of kube-apiserver 1.36.3.
func TestImpersonate(t *testing.T) {
	s := apiservertest.Start(t, nil)
	type rights []rbacv1.PolicyRule
	rule := func(verb, resource string, names ...string) rbacv1.PolicyRule {
		group, resource, _ := strings.Cut(resource, "/")
		return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
	}
	const identity = "authentication.k8s.io/"
	on := func(mode string) rbacv1.PolicyRule {
		return rule("impersonate-on:"+mode+":create", identity+"selfsubjectreviews")
	}
	const refusedOn = `selfsubjectreviews.authentication.k8s.io is forbidden: User "eve" cannot impersonate-on:user-info:create resource "selfsubjectreviews" in API group "authentication.k8s.io" at the cluster scope`
	for _, c := range []struct {
		name    string
		rights  rights
		as      rest.ImpersonationConfig
		groups  []string // of the user it became
		problem string
	}{
		{name: "no right", as: rest.ImpersonationConfig{UserName: "bob"}, problem: refusedOn},
		{name: "the old right", rights: rights{rule("impersonate", "/users", "bob")}, as: rest.ImpersonationConfig{UserName: "bob"},
			groups: []string{"system:authenticated"}},
		{name: "the old right to another", rights: rights{rule("impersonate", "/users", "bob")}, as: rest.ImpersonationConfig{UserName: "ann"}, problem: refusedOn},
		{name: "the old right, without one to the group", rights: rights{rule("impersonate", "/users", "bob")},
			as: rest.ImpersonationConfig{UserName: "bob", Groups: []string{"devs"}}, problem: refusedOn},
		{name: "the old right, without one to the UID", rights: rights{rule("impersonate", "/users", "bob")},
			as: rest.ImpersonationConfig{UserName: "bob", UID: "7"}, problem: refusedOn},
		{name: "the old right, without one to the extra field", rights: rights{rule("impersonate", "/users", "bob")},
			as: rest.ImpersonationConfig{UserName: "bob", Extra: map[string][]string{"a": {"1"}}}, problem: refusedOn},
		{name: "the old right to anybody", rights: rights{rule("impersonate", "/users"), rule("impersonate", "/groups")},
			as: rest.ImpersonationConfig{UserName: "bob", Groups: []string{"system:masters"}}, groups: []string{"system:masters", "system:authenticated"}},
		{name: "limited, both rights", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users", "bob")},
			as: rest.ImpersonationConfig{UserName: "bob"}, groups: []string{"system:authenticated"}},
		{name: "limited, for this action only", rights: rights{on("user-info")}, as: rest.ImpersonationConfig{UserName: "bob"},
			problem: `users.authentication.k8s.io "bob" is forbidden: User "eve" cannot impersonate:user-info resource "users" in API group "authentication.k8s.io" at the cluster scope`},
		{name: "limited, for this user only", rights: rights{rule("impersonate:user-info", identity+"users", "bob")}, as: rest.ImpersonationConfig{UserName: "bob"}, problem: refusedOn},
		{name: "limited, a group", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users"), rule("impersonate:user-info", identity+"groups")},
			as: rest.ImpersonationConfig{UserName: "bob", Groups: []string{"devs"}}, groups: []string{"devs", "system:authenticated"}},
		{name: "limited, never all rights", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users"), rule("impersonate:user-info", identity+"groups")},
			as:      rest.ImpersonationConfig{UserName: "bob", Groups: []string{"system:masters"}},
			problem: `groups.authentication.k8s.io "system:masters" is forbidden: User "eve" cannot impersonate:user-info resource "groups" in API group "authentication.k8s.io" at the cluster scope: impersonating the system:masters group is not allowed`},
		{name: "limited, extra", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users"), rule("impersonate:user-info", identity+"userextras/example.com/a")},
			as: rest.ImpersonationConfig{UserName: "bob", Extra: map[string][]string{"example.com/a": {"1"}}}, groups: []string{"system:authenticated"}},
		{name: "limited, without the right to the UID", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users")},
			as:      rest.ImpersonationConfig{UserName: "bob", UID: "7"},
			problem: `uids.authentication.k8s.io "7" is forbidden: User "eve" cannot impersonate:user-info resource "uids" in API group "authentication.k8s.io" at the cluster scope`},
		{name: "limited, without the right to the group", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users")},
			as:      rest.ImpersonationConfig{UserName: "bob", Groups: []string{"devs"}},
			problem: `groups.authentication.k8s.io "devs" is forbidden: User "eve" cannot impersonate:user-info resource "groups" in API group "authentication.k8s.io" at the cluster scope`},
		{name: "limited, without the right to the extra field", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users")},
			as:      rest.ImpersonationConfig{UserName: "bob", Extra: map[string][]string{"example.com/a": {"1"}}},
			problem: `userextras.authentication.k8s.io "1" is forbidden: User "eve" cannot impersonate:user-info resource "userextras/example.com/a" in API group "authentication.k8s.io" at the cluster scope`},
		{name: "limited, extra without a domain", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users")},
			as:      rest.ImpersonationConfig{UserName: "bob", Extra: map[string][]string{"a": {"1"}}},
			problem: `userextras.authentication.k8s.io is forbidden: User "eve" cannot impersonate:user-info resource "userextras" in API group "authentication.k8s.io" at the cluster scope: impersonating an invalid key in extra is not allowed: extra.key: Invalid value: "a": must be a domain-prefixed path (such as "acme.io/foo")`},
		{name: "service account", rights: rights{on("serviceaccount"), rule("impersonate:serviceaccount", identity+"serviceaccounts", "robot")},
			as: rest.ImpersonationConfig{UserName: "system:serviceaccount:ns:robot"}, groups: []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"}},
		{name: "service account is no other user", rights: rights{on("user-info"), rule("impersonate:user-info", identity+"users")},
			as:      rest.ImpersonationConfig{UserName: "system:serviceaccount:ns:robot"},
			problem: `selfsubjectreviews.authentication.k8s.io is forbidden: User "eve" cannot impersonate-on:serviceaccount:create resource "selfsubjectreviews" in API group "authentication.k8s.io" at the cluster scope`},
		{name: "node", rights: rights{on("arbitrary-node"), rule("impersonate:arbitrary-node", identity+"nodes", "n1")},
			as: rest.ImpersonationConfig{UserName: "system:node:n1"}, groups: []string{"system:nodes", "system:authenticated"}},
		{name: "another node", rights: rights{on("arbitrary-node"), rule("impersonate:arbitrary-node", identity+"nodes", "n1")},
			as:      rest.ImpersonationConfig{UserName: "system:node:n2"},
			problem: `nodes.authentication.k8s.io "n2" is forbidden: User "eve" cannot impersonate:arbitrary-node resource "nodes" in API group "authentication.k8s.io" at the cluster scope`},
		{name: "the node by the old right", rights: rights{rule("impersonate", "/users")},
			as: rest.ImpersonationConfig{UserName: "system:node:n1"}, groups: []string{"system:authenticated"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			eve := "eve-" + strings.NewReplacer(" ", "-", ",", "").Replace(c.name)
			grant(t, s, eve, c.rights)
			config := apiservertest.Config(s, eve, "system:authenticated")
			config.Impersonate = c.as
			review, err := clientset(t, config).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			if c.problem != "" {
				if want := strings.ReplaceAll(c.problem, `"eve"`, `"`+eve+`"`); err == nil || err.Error() != want {
					t.Fatalf("became %v, error\n%v\nwant\n%s", review.Status.UserInfo, err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if u := review.Status.UserInfo; u.Username != c.as.UserName || !slices.Equal(u.Groups, c.groups) {
				t.Errorf("became %s of %q, want %s of %q", u.Username, u.Groups, c.as.UserName, c.groups)
			}
		})
	}
}

// TestImpersonationMetrics: attempts, and the questions they take, are counted by mode as kube-apiserver counts them.
func TestImpersonationMetrics(t *testing.T) {
	s := apiservertest.Start(t, nil)
	grant(t, s, "old", []rbacv1.PolicyRule{{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"users"}}})
	grant(t, s, "limited", []rbacv1.PolicyRule{
		{Verbs: []string{"impersonate:user-info"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"users"}},
		{Verbs: []string{"impersonate-on:user-info:create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"selfsubjectreviews"}},
	})
	for _, eve := range []string{"old", "limited", "nobody"} {
		config := apiservertest.Config(s, eve, "system:authenticated")
		config.Impersonate.UserName = "bob"
		_, err := clientset(t, config).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if (err != nil) != (eve == "nobody") {
			t.Fatalf("%s: %v", eve, err)
		}
	}
	metrics := fetch(t, s, "/metrics")
	for _, want := range []string{
		`impersonation_attempts_total{decision="allowed",mode="legacy"} 1`,
		`impersonation_attempts_total{decision="allowed",mode="user-info"} 1`,
		`impersonation_attempts_total{decision="denied",mode=""} 1`,
		`impersonation_attempts_duration_seconds_count{decision="allowed",mode="legacy"} 1`,
		// Old and nobody are refused impersonate-on, limited is asked that and impersonate.
		`impersonation_authorization_attempts_total{decision="denied",mode="user-info"} 2`,
		`impersonation_authorization_attempts_total{decision="allowed",mode="user-info"} 2`,
		`impersonation_authorization_attempts_total{decision="allowed",mode="legacy"} 1`,
		`impersonation_authorization_attempts_total{decision="denied",mode="legacy"} 1`,
		`impersonation_authorization_attempts_duration_seconds_count{decision="denied",mode="legacy"} 1`,
	} {
		if !strings.Contains(metrics, "apiserver_"+want+"\n") {
			t.Errorf("no %s in\n%s", want, strings.Join(regexp.MustCompile("(?m)^apiserver_impersonation.*_(total|count).*$").FindAllString(metrics, -1), "\n"))
		}
	}
	if !regexp.MustCompile(`(?m)^apiserver_authorization_decisions_total\{decision="allowed",name="rbac",type="RBAC"\} [1-9]`).MatchString(metrics) {
		t.Error("decisions of RBAC are not counted")
	}
}

// grant gives a user rights, and returns when the server has taken note.
func grant(t *testing.T, s *apiserver.Server, name string, rules []rbacv1.PolicyRule) {
	t.Helper()
	rbac := clientset(t, apiservertest.Config(s, "admin")).RbacV1()
	noted := rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/noted"}}
	meta := metav1.ObjectMeta{Name: name}
	if _, err := rbac.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: append(rules, noted)}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rbac.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reviews := clientset(t, apiservertest.Config(s, name, "system:authenticated")).AuthorizationV1().SelfSubjectAccessReviews()
	within(t, 10*time.Second, func() bool {
		review, err := reviews.Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/noted"},
		}}, metav1.CreateOptions{})
		return err == nil && review.Status.Allowed
	})
}
