package authorization_test

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestSubjectAccessReview compares with what kube-apiserver 1.36 answers.
func TestSubjectAccessReview(t *testing.T) {
	c, err := kubernetes.NewForConfig(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	if err != nil {
		t.Fatal(err)
	}
	type spec = authorizationv1.SubjectAccessReviewSpec
	resource := func(verb, resource string) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Verb: verb, Resource: resource}
	}
	path := func(path string) *authorizationv1.NonResourceAttributes {
		return &authorizationv1.NonResourceAttributes{Verb: "get", Path: path}
	}
	selecting := func(fields authorizationv1.FieldSelectorAttributes, labels authorizationv1.LabelSelectorAttributes) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods", FieldSelector: &fields, LabelSelector: &labels}
	}
	for _, x := range []struct {
		name, problem string
		spec          spec
		allowed       bool
		evaluation    string
	}{
		{name: "a master", spec: spec{User: "x", Groups: []string{"system:masters"}, ResourceAttributes: resource("get", "pods")}, allowed: true},
		{name: "somebody", spec: spec{User: "x", ResourceAttributes: resource("get", "pods")}},
		{name: "the scheduler", spec: spec{User: "system:kube-scheduler", ResourceAttributes: resource("list", "pods")}, allowed: true},
		{name: "a path", spec: spec{User: "x", Groups: []string{"system:authenticated"}, NonResourceAttributes: path("/version")}, allowed: true},
		{name: "another path", spec: spec{User: "x", Groups: []string{"system:authenticated"}, NonResourceAttributes: path("/metrics")}},
		{name: "a group alone", spec: spec{Groups: []string{"system:masters"}, ResourceAttributes: resource("get", "pods")}, allowed: true},
		{name: "nothing", problem: "[spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified, " +
			`spec.user: Invalid value: "": at least one of user or group must be specified]`},
		{name: "both", spec: spec{User: "x", ResourceAttributes: resource("get", "pods"), NonResourceAttributes: path("/x")},
			problem: "cannot be specified in combination with resourceAttributes"},
		{name: "selectors of unknown kinds", spec: spec{User: "x", ResourceAttributes: selecting(
			authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "a", Operator: "Foo", Values: []string{"b"}}}},
			authorizationv1.LabelSelectorAttributes{RawSelector: "a=="},
		)}, evaluation: "spec.resourceAttributes.fieldSelector ignored due to parse error"},
		{name: "selectors in two forms and in none", spec: spec{User: "x", ResourceAttributes: selecting(
			authorizationv1.FieldSelectorAttributes{RawSelector: "x", Requirements: []metav1.FieldSelectorRequirement{{Key: "a", Operator: "In", Values: []string{"b"}}}},
			authorizationv1.LabelSelectorAttributes{},
		)}, problem: `[spec.resourceAttributes.fieldSelector.rawSelector: Invalid value: "x": may not specified at the same time as requirements, ` +
			"spec.resourceAttributes.labelSelector.requirements: Required value: when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required]"},
	} {
		t.Run(x.name, func(t *testing.T) {
			answer, err := c.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: x.spec}, metav1.CreateOptions{})
			if x.problem != "" {
				if err == nil || !strings.HasSuffix(err.Error(), x.problem) {
					t.Errorf("got %v, want … %s", err, x.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if answer.Status.Allowed != x.allowed || answer.Status.EvaluationError != x.evaluation {
				t.Errorf("got %+v, want allowed %t, evaluation error %q", answer.Status, x.allowed, x.evaluation)
			}
		})
	}
}

func TestLocalSubjectAccessReview(t *testing.T) {
	c, err := kubernetes.NewForConfig(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	if err != nil {
		t.Fatal(err)
	}
	review := func(namespace string) error {
		_, err := c.AuthorizationV1().LocalSubjectAccessReviews("default").Create(t.Context(), &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default"},
			Spec:       authorizationv1.SubjectAccessReviewSpec{User: "x", ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "pods"}},
		}, metav1.CreateOptions{})
		return err
	}
	if err := review("default"); err != nil {
		t.Errorf("in its namespace: got %v, want nil", err)
	}
	if err, want := review("other"), `spec.resourceAttributes.namespace: Invalid value: "other": must match metadata.namespace`; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("in another namespace: got %v, want … %s", err, want)
	}
}

func TestSelfSubjectRulesReview(t *testing.T) {
	s := apiservertest.Start(t, nil)
	rules := func(name string, groups ...string) authorizationv1.SubjectRulesReviewStatus {
		t.Helper()
		c, err := kubernetes.NewForConfig(apiservertest.Config(s, name, groups...))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
			Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status
	}
	if got := rules("eve", "devs"); len(got.ResourceRules) != 2 || got.Incomplete {
		t.Errorf("of everybody: got %+v, want the two rules of system:basic-user", got)
	}
	if got := rules("system:node:n1", "system:nodes"); !got.Incomplete || got.EvaluationError == "" {
		t.Errorf("of a node: got %+v, want it incomplete", got)
	}
}
