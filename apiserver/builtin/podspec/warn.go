package podspec

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// WarnTemplate lists what is accepted in a template at path but should be
// changed. old is nil on create.
func WarnTemplate(t, old *v1.PodTemplateSpec, path *field.Path) []string {
	return nil
}

// OptionsFor are the options for the update of a template.
func OptionsFor(old *v1.PodTemplateSpec) Options { return Options{} }

// WarnPod lists what is accepted in a new pod but should be changed.
func WarnPod(p *v1.Pod) []string { return nil }
