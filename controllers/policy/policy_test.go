package policy

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func ptr[T any](v T) *T { return &v }

func TestDesiredHealthy(t *testing.T) {
	for _, test := range []struct {
		name     string
		spec     policyv1.PodDisruptionBudgetSpec
		expected int32
		want     int32
		owners   bool
	}{
		{"a number to keep", policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromInt(3))}, 5, 3, false},
		{"a share to keep, rounded up", policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromString("50%"))}, 5, 3, true},
		{"a number to lose", policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt(2))}, 5, 3, true},
		{"a share to lose, rounded up", policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromString("30%"))}, 5, 3, true},
		{"more to lose than there are", policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt(9))}, 5, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			budget := &policyv1.PodDisruptionBudget{Spec: test.spec}
			got, err := desiredHealthy(budget, test.expected)
			if err != nil || got != test.want || countsOwners(budget) != test.owners {
				t.Errorf("got %d, %v, counts owners %v, want %d, %v", got, err, countsOwners(budget), test.want, test.owners)
			}
		})
	}
}

func TestHealthyAndDisrupted(t *testing.T) {
	now := time.Now()
	pod := func(name string, ready bool) *corev1.Pod {
		status := corev1.ConditionFalse
		if ready {
			status = corev1.ConditionTrue
		}
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}}}
	}
	pods := []*corev1.Pod{pod("a", true), pod("b", true), pod("c", true), pod("d", false)}
	budget := &policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptedPods: map[string]metav1.Time{
		"a": metav1.NewTime(now.Add(-30 * time.Second)), "b": metav1.NewTime(now.Add(-time.Hour)), "gone": metav1.NewTime(now),
	}}}
	disrupted, again := stillDisrupted(budget, pods, now)
	if len(disrupted) != 1 || again != 90*time.Second {
		t.Errorf("disrupted: got %v, again in %s, want a, 1m30s", disrupted, again)
	}
	if got := healthy(pods, disrupted); got != 2 {
		t.Errorf("healthy: got %d, want b and c", got)
	}
}

func TestAggregate(t *testing.T) {
	rule := func(resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{"get"}, Resources: []string{resource}}
	}
	role := func(name, label string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}, Rules: rules}
	}
	all := role("all", "all")
	all.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "all"}}}}
	got, err := aggregate(all, []*rbacv1.ClusterRole{role("b", "all", rule("y"), rule("x")), all, role("a", "all", rule("x")), role("c", "other", rule("z"))})
	if err != nil {
		t.Fatal(err)
	}
	if want := []rbacv1.PolicyRule{rule("x"), rule("y")}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhomAChangedRoleConcerns(t *testing.T) {
	role := func(name, label string) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}}
	}
	aggregating := func(name, selected string) *rbacv1.ClusterRole {
		r := role(name, "")
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": selected}}}}
		return r
	}
	annotated := role("x", "a")
	annotated.Annotations = map[string]string{"a": "b"}
	all := []*rbacv1.ClusterRole{aggregating("A", "a"), aggregating("B", "b"), aggregating("C", "c"), role("x", "a")}
	for _, test := range []struct {
		name      string
		old, role *rbacv1.ClusterRole
		want      string
	}{
		{"comes", nil, role("x", "a"), "[A]"},
		{"goes", role("x", "a"), nil, "[A]"},
		{"changes its label", role("x", "a"), role("x", "b"), "[A B]"},
		{"changes nothing that matters", role("x", "a"), annotated, "[]"},
		{"selects others", nil, aggregating("C", "c"), "[C]"},
		{"has nothing to do with any", nil, role("x", "x"), "[]"},
	} {
		got := []string{}
		for _, key := range concerned(all, test.old, test.role) {
			got = append(got, key.Name)
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("%s: got %v, want %s", test.name, got, test.want)
		}
	}
}
