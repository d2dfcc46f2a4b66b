package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
)

const all = "*"

func validateRule(r *admissionregistrationv1.RuleWithOperations, at *field.Path) field.ErrorList {
	operations := at.Child("operations")
	errs := wildcard(r.Operations, operations, "operations")
	for i, o := range r.Operations {
		errs = append(errs, check.Supported(o, operations.Index(i), admissionregistrationv1.OperationAll, admissionregistrationv1.Connect,
			admissionregistrationv1.Create, admissionregistrationv1.Delete, admissionregistrationv1.Update)...)
	}
	errs = append(errs, wildcard(r.APIGroups, at.Child("apiGroups"), "API groups")...)
	errs = append(errs, wildcard(r.APIVersions, at.Child("apiVersions"), "API versions")...)
	for i, v := range r.APIVersions {
		if v == "" {
			errs = append(errs, field.Required(at.Child("apiVersions").Index(i), ""))
		}
	}
	errs = append(errs, validateResources(r.Resources, at.Child("resources"))...)
	return append(errs, supported(r.Scope, at.Child("scope"), admissionregistrationv1.AllScopes, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope)...)
}

// wildcard requires a list that is not empty, in which "*" stands alone.
func wildcard[T ~string](list []T, at *field.Path, what string) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(list) > 1 && slices.Contains(list, all) {
		return field.ErrorList{field.Invalid(at, list, fmt.Sprintf("if '*' is present, must not specify other %s", what))}
	}
	return nil
}

// validateResources checks names like pods, pods/status, pods/*, */scale, * and */*. A later one must not be covered
// by an earlier one.
func validateResources(resources []string, at *field.Path) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	allSubs, allParents := make(map[string]bool), make(map[string]bool)
	everything, plain := false, false
	for i, r := range resources {
		if r == "" {
			errs = append(errs, field.Required(at.Index(i), ""))
			continue
		}
		everything = everything || r == all
		parent, sub, isSub := strings.Cut(r, "/")
		if !isSub {
			plain = r != all // of the last one only, as kube-apiserver has it
			continue
		}
		if allSubs[parent] {
			errs = append(errs, field.Invalid(at.Index(i), r, fmt.Sprintf("if '%s/*' is present, must not specify %s", parent, r)))
		}
		if allParents[sub] {
			errs = append(errs, field.Invalid(at.Index(i), r, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, r)))
		}
		allSubs[parent] = allSubs[parent] || sub == all
		allParents[sub] = allParents[sub] || parent == all
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(at, resources, "if '*/*' is present, must not specify other resources"))
	}
	if everything && plain {
		errs = append(errs, field.Invalid(at, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}
