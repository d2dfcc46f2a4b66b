package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func podTemplates() *resource.Resource {
	type template = *corev1.PodTemplate
	path := field.NewPath("template")
	spec := func(t template) *corev1.PodSpec { return &t.Template.Spec }
	return resource.Define[corev1.PodTemplateList](resource.Definition[corev1.PodTemplate]{
		Version: "v1", Kind: "PodTemplate", Plural: "podtemplates",
		Default: func(t *corev1.PodTemplate) { podspec.DefaultTemplate(&t.Template) },
		Prepare: func(obj, _ *corev1.PodTemplate) { podspec.DropDisabled(&obj.Template.Spec) },
		Validate: func(obj, old *corev1.PodTemplate) field.ErrorList {
			if old == nil {
				return podspec.ValidateTemplate(&obj.Template, path, podspec.Options{})
			}
			return podspec.ValidateTemplate(&obj.Template, path, podspec.OptionsFor(&old.Template))
		},
		Warn: func(obj, old *corev1.PodTemplate) []string {
			if old == nil {
				return podspec.WarnTemplate(&obj.Template, nil, path)
			}
			return podspec.WarnTemplate(&obj.Template, &old.Template, path)
		},
		Generation: func(obj, old *corev1.PodTemplate) bool {
			return !equality.Semantic.DeepEqual(obj.Template, old.Template)
		},
		AnswersDeleted: true,
		Columns: []resource.Column[template]{
			resource.NameColumn[template](),
			podspec.ContainersColumn(spec),
			podspec.ImagesColumn(spec),
			table.Text("Pod Labels", "The labels for the pod template.", func(t template) string { return table.Labels(t.Template.Labels) }),
		},
	})
}
