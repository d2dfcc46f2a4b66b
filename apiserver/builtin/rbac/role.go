package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func roles() *resource.Resource {
	return resource.Define[rbacv1.RoleList](resource.Definition[rbacv1.Role]{
		Group: rbacv1.GroupName, Version: "v1", Kind: "Role", Plural: "roles",
		Name:           validName,
		CreateOnUpdate: true,
		Validate: func(r, _ *rbacv1.Role) field.ErrorList {
			return validateRules(r.Rules, true)
		},
	})
}

func clusterRoles() *resource.Resource {
	return resource.Define[rbacv1.ClusterRoleList](resource.Definition[rbacv1.ClusterRole]{
		Group: rbacv1.GroupName, Version: "v1", Kind: "ClusterRole", Plural: "clusterroles", ClusterScoped: true,
		Name:           validName,
		CreateOnUpdate: true,
		Validate: func(r, old *rbacv1.ClusterRole) field.ErrorList {
			return append(validateRules(r.Rules, false), validateAggregation(r)...)
		},
	})
}

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i := range rules {
		errs = append(errs, validateRule(&rules[i], namespaced, field.NewPath("rules").Index(i))...)
	}
	return errs
}

// validateRule wants a rule to be about resources or about paths.
func validateRule(r *rbacv1.PolicyRule, namespaced bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Verbs) == 0 {
		errs = append(errs, field.Required(path.Child("verbs"), "verbs must contain at least one value"))
	}
	if len(r.NonResourceURLs) > 0 {
		urls := path.Child("nonResourceURLs")
		if namespaced {
			errs = append(errs, field.Invalid(urls, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
		}
		if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
			errs = append(errs, field.Invalid(urls, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		return errs
	}
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
	}
	return errs
}

func validateAggregation(r *rbacv1.ClusterRole) field.ErrorList {
	if r.AggregationRule == nil {
		return nil
	}
	path := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		return field.ErrorList{field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil")}
	}
	var errs field.ErrorList
	for i := range r.AggregationRule.ClusterRoleSelectors {
		selector := &r.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, path.Index(i))...)
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			errs = append(errs, field.Invalid(path.Index(i), nil, "invalid label selector."))
		}
	}
	return errs
}

func sameRules(a, b []rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(a, b) }

func sameAggregation(a, b *rbacv1.ClusterRole) bool {
	return equality.Semantic.DeepEqual(a.AggregationRule, b.AggregationRule)
}
