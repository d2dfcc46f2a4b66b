package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func resourceQuotas() *resource.Resource {
	type quota = corev1.ResourceQuota
	return resource.Define[corev1.ResourceQuotaList](resource.Definition[quota]{
		Version: "v1", Kind: "ResourceQuota", Plural: "resourcequotas", ShortNames: []string{"quota"},
		AnswersDeleted: true,
		Default: func(q *quota) {
			roundQuantities(q.Spec.Hard)
			roundQuantities(q.Status.Hard)
			roundQuantities(q.Status.Used)
		},
		Prepare: func(q, old *quota) {
			q.Status = corev1.ResourceQuotaStatus{}
			if old != nil {
				q.Status = *old.Status.DeepCopy()
			}
		},
		Validate: validateQuota,
		Warn:     warnQuota,
		Columns: []resource.Column[*quota]{
			resource.NameColumn[*quota](),
			table.Text("Request", "Request represents a minimum amount of cpu/memory that a container may consume.", func(q *quota) string { return usage(q, false) }),
			table.Text("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.", func(q *quota) string { return usage(q, true) }),
			resource.AgeColumn[*quota](),
		},
		Subresources: []resource.Subresource[quota]{{
			Name: "status", View: true,
			Prepare:  func(q, old *quota) { q.Spec = *old.Spec.DeepCopy() },
			Validate: validateQuotaStatus,
		}},
	})
}

func validateQuota(q, old *corev1.ResourceQuota) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateQuotaList(q.Spec.Hard, path.Child("hard"))
	errs = append(errs, validateScopes(q, path)...)
	if q.Spec.ScopeSelector != nil {
		errs = append(errs, validateScopeSelector(q, path.Child("scopeSelector", "matchExpressions"))...)
	}
	if old != nil && !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(path.Child("scopes"), q.Spec.Scopes, "field is immutable"))
	}
	return errs
}

func validateQuotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	errs := validateQuotaList(q.Status.Hard, field.NewPath("status", "hard"))
	return append(errs, validateQuotaList(q.Status.Used, field.NewPath("status", "used"))...)
}

func validateQuotaList(list corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, q := range list {
		at := path.Key(string(name))
		errs = append(errs, validateQuantity(name, q, at)...)
		if !hasSlash(string(name)) && !countedByQuota(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for quota"))
		}
	}
	return errs
}

// countedByQuota reports whether a name without a domain is one quotas know.
func countedByQuota(name corev1.ResourceName) bool {
	return check.StandardResource(name) && name != corev1.ResourceStorage
}

// What can be counted of pods by each kind of scope.
var (
	podCounts      = sets.New(corev1.ResourcePods)
	computeAmounts = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory)
)

func scopeFits(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return podCounts.Has(name)
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return podCounts.Has(name) || computeAmounts.Has(name)
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return true
}

func knownScope(scope corev1.ResourceQuotaScope) bool {
	switch scope {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass,
		corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass:
		return true
	}
	return false
}

func conflicting(scopes sets.Set[corev1.ResourceQuotaScope]) int {
	n := 0
	if scopes.HasAll(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) {
		n++
	}
	if scopes.HasAll(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating) {
		n++
	}
	return n
}

func validateScopes(q *corev1.ResourceQuota, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("scopes")
	for _, scope := range q.Spec.Scopes {
		if !knownScope(scope) {
			errs = append(errs, field.Invalid(at, q.Spec.Scopes, "unsupported scope"))
		}
		for range unfit(q, scope) {
			errs = append(errs, field.Invalid(at, q.Spec.Scopes, "unsupported scope applied to resource"))
		}
	}
	for range conflicting(sets.New(q.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(at, q.Spec.Scopes, "conflicting scopes"))
	}
	return errs
}

// unfit counts the resources of a quota that a scope does not have.
func unfit(q *corev1.ResourceQuota, scope corev1.ResourceQuotaScope) int {
	n := 0
	for name := range q.Spec.Hard {
		if !hasSlash(string(name)) && countedByQuota(name) && !scopeFits(scope, name) {
			n++
		}
	}
	return n
}

func validateScopeSelector(q *corev1.ResourceQuota, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	scopes := sets.New[corev1.ResourceQuotaScope]()
	for _, r := range q.Spec.ScopeSelector.MatchExpressions {
		scopes.Insert(r.ScopeName)
		if !knownScope(r.ScopeName) {
			errs = append(errs, field.Invalid(path.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		for range unfit(q, r.ScopeName) {
			errs = append(errs, field.Invalid(path, podspec.Untagged(q.Spec.ScopeSelector), "unsupported scope applied to resource"))
		}
		errs = append(errs, validateScopeOperator(r, path)...)
	}
	for range conflicting(scopes) {
		errs = append(errs, field.Invalid(path, q.Spec.Scopes, "conflicting scopes"))
	}
	return errs
}

func validateScopeOperator(r corev1.ScopedResourceSelectorRequirement, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	hasValue := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
	if knownScope(r.ScopeName) && !hasValue && r.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator,
			"must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(path.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Invalid(path.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

func warnQuota(q, old *corev1.ResourceQuota) []string {
	if old != nil {
		return nil
	}
	var warnings []string
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		requestName, limitName := "requests."+name, "limits."+name
		request, ok := q.Spec.Hard[requestName]
		if !ok && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			requestName = name
			request, ok = q.Spec.Hard[name]
		}
		limit, limited := q.Spec.Hard[limitName]
		if ok && limited && request.Cmp(limit) > 0 {
			warnings = append(warnings, fmt.Sprintf("ResourceQuota %s (%s) should be less than %s (%s)", requestName, request.String(), limitName, limit.String()))
		}
	}
	return warnings
}

// usage prints used/hard of what is limited or of the rest.
func usage(q *corev1.ResourceQuota, limits bool) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
		if strings.HasPrefix(string(name), "limits.") != limits {
			continue
		}
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		list = append(list, fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
	}
	return strings.Join(list, ", ")
}
