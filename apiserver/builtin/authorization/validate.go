package authorization

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

type fieldErrors = field.ErrorList

var spec = field.NewPath("spec")

// validateMeta demands metadata without content: a question has no identity.
func validateMeta(meta metav1.ObjectMeta, rule string) fieldErrors {
	shown := meta
	meta.ManagedFields = nil
	if equality.Semantic.DeepEqual(metav1.ObjectMeta{}, meta) {
		return nil
	}
	return fieldErrors{field.Invalid(field.NewPath("metadata"), shown, rule)}
}

func validateSpec(s authorizationv1.SubjectAccessReviewSpec) fieldErrors {
	errs := validateChoice(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(spec.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	return append(errs, validateSelectors(s.ResourceAttributes)...)
}

func validateLocal(review *authorizationv1.LocalSubjectAccessReview) fieldErrors {
	errs := validateSpec(review.Spec)
	meta := review.ObjectMeta
	meta.Namespace = ""
	errs = append(errs, validateMeta(meta, "must be empty except for namespace")...)
	if r := review.Spec.ResourceAttributes; r != nil && r.Namespace != review.Namespace {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), r.Namespace, "must match metadata.namespace"))
	}
	if p := review.Spec.NonResourceAttributes; p != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), podspec.Untagged(p), "disallowed on this kind of request"))
	}
	return errs
}

func validateAttributes(r *authorizationv1.ResourceAttributes, p *authorizationv1.NonResourceAttributes) fieldErrors {
	return append(validateChoice(r, p), validateSelectors(r)...)
}

func validateChoice(r *authorizationv1.ResourceAttributes, p *authorizationv1.NonResourceAttributes) fieldErrors {
	switch {
	case r != nil && p != nil:
		return fieldErrors{field.Invalid(spec.Child("nonResourceAttributes"), podspec.Untagged(p), "cannot be specified in combination with resourceAttributes")}
	case r == nil && p == nil:
		return fieldErrors{field.Invalid(spec.Child("resourceAttributes"), p, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	}
	return nil
}

// validateSelectors allows operators it does not know, which are dropped when
// the question is answered: a newer client may know more of them.
func validateSelectors(r *authorizationv1.ResourceAttributes) fieldErrors {
	if r == nil {
		return nil
	}
	var errs fieldErrors
	if s := r.FieldSelector; s != nil {
		path := spec.Child("resourceAttributes", "fieldSelector")
		errs = append(errs, validateForms(path, s.RawSelector, len(s.Requirements))...)
		for i, requirement := range s.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(requirement,
				metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, path.Child("requirements").Index(i))...)
		}
	}
	if s := r.LabelSelector; s != nil {
		path := spec.Child("resourceAttributes", "labelSelector")
		errs = append(errs, validateForms(path, s.RawSelector, len(s.Requirements))...)
		for i, requirement := range s.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(requirement,
				metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, path.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// validateForms demands a selector in one of its two forms.
func validateForms(path *field.Path, raw string, requirements int) fieldErrors {
	switch {
	case raw != "" && requirements > 0:
		return fieldErrors{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return fieldErrors{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	}
	return nil
}
