package devices

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type template = resourcev1.ResourceClaimTemplate

func resourceClaimTemplates() *resource.Resource {
	return resource.Define[resourcev1.ResourceClaimTemplateList](resource.Definition[template]{
		Group: group, Version: "v1", Kind: "ResourceClaimTemplate", Plural: "resourceclaimtemplates", Older: []string{"v1beta2"},
		AnswersDeleted: true,
		Default:        func(t *template) { defaultClaimSpec(&t.Spec.Spec) },
		Permit:         permitTemplate,
		Validate:       validateTemplate,
		Columns:        []resource.Column[*template]{resource.NameColumn[*template](), resource.AgeColumn[*template]()},
	})
}

func validateTemplate(t, old *template) field.ErrorList {
	at := field.NewPath("spec")
	errs := podspec.ValidateTemplateMeta(&t.Spec.ObjectMeta, at.Child("metadata"))
	errs = append(errs, validateClaimSpec(&t.Spec.Spec, at.Child("spec"))...)
	if old != nil {
		errs = append(errs, check.Unchanged(t.Spec, old.Spec, at)...)
	}
	return errs
}
