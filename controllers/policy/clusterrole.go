package policy

import (
	"context"
	"fmt"
	"maps"
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
// itself, and by the roles it selects or did.
func ClusterRole(d Deps) reconcile.Controller {
	roles := d.Informers.Rbac().V1().ClusterRoles()
	return reconcile.Controller{
		Name:    "ClusterRoleAggregation",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(roles.Informer(), func(old, role *rbacv1.ClusterRole) []reconcile.Key {
				all, err := roles.Lister().List(labels.Everything())
				if err != nil {
					return nil
				}
				return concerned(all, old, role)
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

// concerned names the aggregating roles of all that a change of one is about: itself, and those that select it or
// did. Old is nil when it is new, role when it is gone.
func concerned(all []*rbacv1.ClusterRole, old, role *rbacv1.ClusterRole) []reconcile.Key {
	if old != nil && role != nil && maps.Equal(old.Labels, role.Labels) && equality.Semantic.DeepEqual(old.Rules, role.Rules) &&
		equality.Semantic.DeepEqual(old.AggregationRule, role.AggregationRule) {
		return nil
	}
	var keys []reconcile.Key
	if role != nil && role.AggregationRule != nil {
		keys = append(keys, reconcile.KeyOf(role))
	}
	for _, other := range all {
		if other.AggregationRule != nil && (old != nil && mayAggregate(other, old) || role != nil && mayAggregate(other, role)) {
			keys = append(keys, reconcile.KeyOf(other))
		}
	}
	return keys
}

// mayAggregate tells whether a role selects another. A selector that cannot be read is left to its own sync.
func mayAggregate(role, other *rbacv1.ClusterRole) bool {
	return role.Name != other.Name && slices.ContainsFunc(role.AggregationRule.ClusterRoleSelectors, func(selector metav1.LabelSelector) bool {
		matches, err := metav1.LabelSelectorAsSelector(&selector)
		return err == nil && matches.Matches(labels.Set(other.Labels))
	})
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
