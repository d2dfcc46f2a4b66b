// Package apiextensions holds the kind of apiextensions.k8s.io: definitions of
// custom resources. What is made of a definition is in package custom.
package apiextensions

import (
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type crd = apiextensionsv1.CustomResourceDefinition

// Resources are the rows of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{resource.Define[apiextensionsv1.CustomResourceDefinitionList](resource.Definition[crd]{
		Group: apiextensionsv1.GroupName, Version: "v1", Kind: "CustomResourceDefinition", Plural: "customresourcedefinitions", Prefix: apiextensionsv1.GroupName + "/customresourcedefinitions",
		ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		ClusterScoped: true,
		Meta:          resource.MetaAnyFinalizer,
		Upgrade:       upgrade,
		Default:       apiextensionsv1.SetObjectDefaults_CustomResourceDefinition,
		Prepare:       prepare,
		Validate:      validate,
		Warn:          warn,
		Generation:    func(c, old *crd) bool { return !equality.Semantic.DeepEqual(c.Spec, old.Spec) },
		NeedsVersion:  true,
		Packed:        true,
		Finalizer:     apiextensionsv1.CustomResourceCleanupFinalizer,
		Terminate:     terminate,
		Subresources: []resource.Subresource[crd]{
			{Name: "status", View: true, Prepare: func(c, old *crd) { c.Spec = old.Spec }, Validate: validateStatusUpdate},
		},
	})}
}

func prepare(c, old *crd) {
	c.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
	if old != nil {
		c.Status = *old.Status.DeepCopy()
	}
	// Whatever was a storage version once stays named until a client has moved
	// the objects and removes it.
	for _, v := range c.Spec.Versions {
		if v.Storage {
			if !slices.Contains(c.Status.StoredVersions, v.Name) {
				c.Status.StoredVersions = append(c.Status.StoredVersions, v.Name)
			}
			break
		}
	}
}

// terminate says that the instances go first. It runs again when a definition
// is deleted that is going already.
func terminate(c *crd) {
	if apihelpers.IsCRDConditionPresentAndEqual(c, apiextensionsv1.Terminating, apiextensionsv1.ConditionTrue) {
		return
	}
	apihelpers.SetCRDCondition(c, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}

// convert gives the definition the form that errors speak of: what all its
// versions have in common stands once, in the spec.
func convert(c *crd) (*internal.CustomResourceDefinition, error) {
	out := &internal.CustomResourceDefinition{}
	return out, apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(c, out, nil)
}

// warn tells of formats that nothing checks, but for those that were there
// before.
func warn(c, old *crd) []string {
	formats := unknownFormats(c)
	if old != nil {
		was := unknownFormats(old)
		formats = slices.DeleteFunc(formats, func(f string) bool { return slices.Contains(was, f) })
	}
	for i, f := range formats {
		formats[i] = fmt.Sprintf("unrecognized format %q", f)
	}
	return formats
}

func unknownFormats(c *crd) []string {
	i, err := convert(c)
	if err != nil {
		return nil
	}
	var formats []string
	version := environment.DefaultCompatibilityVersion()
	anySchema(&i.Spec, func(s *internal.JSONSchemaProps) bool {
		if s.Format != "" {
			formats = append(formats, validation.GetUnrecognizedFormats(
				&spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}, version)...)
		}
		return false
	})
	return formats
}

// validateStatusUpdate judges what writers of the status may get wrong.
func validateStatusUpdate(c, _ *crd) field.ErrorList {
	i, err := convert(c)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return validateNames(&i.Status.AcceptedNames, field.NewPath("status", "acceptedNames"))
}
