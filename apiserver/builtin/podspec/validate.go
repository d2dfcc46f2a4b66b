package podspec

import (
	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateTemplate lists what is wrong with a pod template at path.
func ValidateTemplate(t *v1.PodTemplateSpec, path *field.Path, opts Options) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, path.Child("labels"))...)
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	return append(errs, ValidateSpec(&t.Spec, nil, path.Child("spec"), opts)...)
}

// Options loosen validation for objects that were stored under older rules.
// The zero value is what new objects must meet.
type Options struct {
	// Pod: the spec is of a pod, not of a template.
	Pod bool
	// BadSelectorValues tolerates label values in selectors that no label can
	// have.
	BadSelectorValues bool
	// SkipTemplate leaves the template alone: the stored one is invalid already.
	SkipTemplate bool
}

// ValidatePodAnnotations checks the annotations that mean something to the API.
func ValidatePodAnnotations(annotations map[string]string, s *v1.PodSpec, path *field.Path, opts Options) field.ErrorList {
	return nil
}

// ValidateSpec lists what is wrong with a pod spec. meta is that of the pod;
// nil for templates.
func ValidateSpec(s *v1.PodSpec, meta *metav1.ObjectMeta, path *field.Path, opts Options) field.ErrorList {
	var errs field.ErrorList
	if len(s.Containers) == 0 {
		errs = append(errs, field.Required(path.Child("containers"), ""))
	}
	return errs
}
