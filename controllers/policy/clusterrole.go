package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// ClusterRole gives every ClusterRole with an aggregation rule the rules of the roles it selects. It is woken by
// any ClusterRole: whichever changed may be among those selected.
func ClusterRole(d Deps) reconcile.Controller {
	roles := d.Informers.Rbac().V1().ClusterRoles()
	aggregating := func() []reconcile.Key {
		all, err := roles.Lister().List(labels.Everything())
		if err != nil {
			return nil
		}
		var keys []reconcile.Key
		for _, role := range all {
			if role.AggregationRule != nil {
				keys = append(keys, reconcile.KeyOf(role))
			}
		}
		return keys
	}
	return reconcile.Controller{
		Name:    "ClusterRoleAggregation",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(roles.Informer(), func(old, role *rbacv1.ClusterRole) []reconcile.Key {
				if old == nil && role.AggregationRule != nil {
					return append(aggregating(), reconcile.KeyOf(role))
				}
				return aggregating()
			}),
		},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			role, err := roles.Lister().Get(key.Name)
			if apierrors.IsNotFound(err) {
				return 0, nil
			}
			if err != nil || role.AggregationRule == nil {
				return 0, err
			}
			all, err := roles.Lister().List(labels.Everything())
			if err != nil {
				return 0, err
			}
			rules, err := aggregate(role, all)
			if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
				return 0, err
			}
			updated := role.DeepCopy()
			updated.Rules = rules
			if _, err := d.Client.RbacV1().ClusterRoles().Update(ctx, updated, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return 0, fmt.Errorf("update cluster role %s: %w", key.Name, err)
			}
			return 0, nil
		},
	}
}

// aggregate collects the rules of the roles that a role selects, each once, in the order of the roles' names.
func aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for _, selector := range role.AggregationRule.ClusterRoleSelectors {
		matches, err := metav1.LabelSelectorAsSelector(&selector)
		if err != nil {
			return nil, fmt.Errorf("cluster role %s: %w", role.Name, err)
		}
		for _, other := range all {
			if other.Name == role.Name || !matches.Matches(labels.Set(other.Labels)) {
				continue
			}
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(rules, func(has rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(has, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
