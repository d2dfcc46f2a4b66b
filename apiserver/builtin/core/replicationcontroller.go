package core

import (
	"maps"
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func replicationControllers() *resource.Resource {
	return resource.Define[corev1.ReplicationControllerList](resource.Definition[corev1.ReplicationController]{
		Version: "v1", Kind: "ReplicationController", Plural: "replicationcontrollers", Prefix: "controllers",
		ShortNames: []string{"rc"}, Categories: []string{"all"},
		Default: defaultReplicationController,
		Prepare: func(obj, old *corev1.ReplicationController) {
			if obj.Spec.Template != nil {
				podspec.DropDisabled(&obj.Spec.Template.Spec)
			}
			obj.Status = corev1.ReplicationControllerStatus{}
			if old != nil {
				obj.Status = old.Status
			}
		},
		Validate: validateReplicationController,
		Warn:     warnReplicationController,
		Name: func(name string, prefix bool) []string {
			if prefix {
				return nil // only the name that comes of it counts
			}
			return content.IsDNS1123Subdomain(name)
		},
		Generation: func(obj, old *corev1.ReplicationController) bool {
			return !equality.Semantic.DeepEqual(obj.Spec, old.Spec)
		},
		Fields: map[string]func(*corev1.ReplicationController) string{
			"status.replicas": func(rc *corev1.ReplicationController) string { return strconv.Itoa(int(rc.Status.Replicas)) },
		},
		Columns:         replicationControllerColumns(),
		OrphanByDefault: true,
		Subresources: []resource.Subresource[corev1.ReplicationController]{
			{Name: "scale", Kind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), Scale: &resource.Scale[*corev1.ReplicationController]{
				Replicas:    func(rc *corev1.ReplicationController) *int32 { return rc.Spec.Replicas },
				Status:      func(rc *corev1.ReplicationController) int32 { return rc.Status.Replicas },
				Selector:    func(rc *corev1.ReplicationController) string { return labels.Set(rc.Spec.Selector).String() },
				SetReplicas: func(rc *corev1.ReplicationController, n int32) { rc.Spec.Replicas = &n },
			}},
			{Name: "status", View: true,
				Prepare: func(obj, old *corev1.ReplicationController) { obj.Spec = old.Spec },
				Validate: func(obj, _ *corev1.ReplicationController) field.ErrorList {
					return validateReplicationStatus(&obj.Status)
				},
			},
		},
	})
}

// defaultReplicationController takes selector and labels from the template
// where they are missing.
func defaultReplicationController(rc *corev1.ReplicationController) {
	if rc.Spec.Replicas == nil {
		one := int32(1)
		rc.Spec.Replicas = &one
	}
	t := rc.Spec.Template
	if t == nil {
		return
	}
	podspec.DefaultTemplate(t)
	if len(rc.Spec.Selector) == 0 {
		rc.Spec.Selector = maps.Clone(t.Labels)
	}
	if len(rc.Labels) == 0 {
		rc.Labels = maps.Clone(t.Labels)
	}
}

func validateReplicationController(obj, old *corev1.ReplicationController) field.ErrorList {
	spec, path := &obj.Spec, field.NewPath("spec")
	opts := podspec.Options{}
	if old != nil {
		opts = podspec.OptionsFor(old.Spec.Template)
	}
	errs := apivalidation.ValidateNonnegativeField(int64(spec.MinReadySeconds), path.Child("minReadySeconds"))
	if len(spec.Selector) == 0 {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	errs = append(errs, apivalidation.ValidateNonnegativeField(int64(*spec.Replicas), path.Child("replicas"))...)
	t, at := spec.Template, path.Child("template")
	if t == nil {
		return append(errs, field.Required(at, ""))
	}
	if selector := labels.SelectorFromSet(spec.Selector); !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, podspec.ValidateTemplate(t, at, opts)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(at.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported"))
	}
	return errs
}

func validateReplicationStatus(s *corev1.ReplicationControllerStatus) field.ErrorList {
	path := field.NewPath("status")
	counts := []struct {
		field string
		value int64
	}{
		{"replicas", int64(s.Replicas)},
		{"fullyLabeledReplicas", int64(s.FullyLabeledReplicas)},
		{"readyReplicas", int64(s.ReadyReplicas)},
		{"availableReplicas", int64(s.AvailableReplicas)},
		{"observedGeneration", s.ObservedGeneration},
	}
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, apivalidation.ValidateNonnegativeField(c.value, path.Child(c.field))...)
	}
	for _, c := range counts[1:4] {
		if c.value > int64(s.Replicas) {
			errs = append(errs, field.Invalid(path.Child(c.field), int32(c.value), "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}

func warnReplicationController(obj, old *corev1.ReplicationController) []string {
	if obj.Spec.Template == nil {
		return nil
	}
	path := field.NewPath("spec", "template")
	if old == nil {
		return append(podspec.WarnName(obj.Name), podspec.WarnTemplate(obj.Spec.Template, nil, path)...)
	}
	if equality.Semantic.DeepEqual(obj.Spec, old.Spec) {
		return nil
	}
	return podspec.WarnTemplate(obj.Spec.Template, old.Spec.Template, path)
}

func replicationControllerColumns() []resource.Column[*corev1.ReplicationController] {
	type controller = *corev1.ReplicationController
	spec := func(rc controller) *corev1.PodSpec {
		if rc.Spec.Template == nil {
			return nil
		}
		return &rc.Spec.Template.Spec
	}
	status := corev1.ReplicationControllerStatus{}
	return []resource.Column[controller]{
		resource.NameColumn[controller](),
		table.Number("Desired", table.Doc(corev1.ReplicationControllerSpec{}, "replicas"), func(rc controller) int64 { return int64(*rc.Spec.Replicas) }),
		table.Number("Current", table.Doc(status, "replicas"), func(rc controller) int64 { return int64(rc.Status.Replicas) }),
		table.Number("Ready", table.Doc(status, "readyReplicas"), func(rc controller) int64 { return int64(rc.Status.ReadyReplicas) }),
		resource.AgeColumn[controller](),
		table.Wide(podspec.ContainersColumn(spec)),
		table.Wide(podspec.ImagesColumn(spec)),
		table.Wide(table.Text("Selector", table.Doc(corev1.ReplicationControllerSpec{}, "selector"), func(rc controller) string { return table.Labels(rc.Spec.Selector) })),
	}
}
