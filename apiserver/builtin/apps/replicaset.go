package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

func replicaSets() *resource.Resource {
	return resource.Define[appsv1.ReplicaSetList](resource.Definition[appsv1.ReplicaSet]{
		Group: "apps", Version: "v1", Kind: "ReplicaSet", Plural: "replicasets",
		ShortNames: []string{"rs"}, Categories: []string{"all"},
		Default: func(rs *appsv1.ReplicaSet) {
			podspec.DefaultTemplate(&rs.Spec.Template)
			podspec.SetDefault(&rs.Spec.Replicas, 1)
		},
		Prepare: func(obj, old *appsv1.ReplicaSet) {
			podspec.DropDisabled(&obj.Spec.Template.Spec)
			obj.Status = appsv1.ReplicaSetStatus{}
			if old != nil {
				obj.Status = old.Status
			}
		},
		Validate: validateReplicaSet,
		Warn: func(obj, old *appsv1.ReplicaSet) []string {
			if old == nil {
				return append(podspec.WarnName(obj.Name), podspec.WarnTemplate(&obj.Spec.Template, nil, tmplPath)...)
			}
			if !changed(obj.Spec, old.Spec) {
				return nil
			}
			return podspec.WarnTemplate(&obj.Spec.Template, &old.Spec.Template, tmplPath)
		},
		Generation: func(obj, old *appsv1.ReplicaSet) bool { return changed(obj.Spec, old.Spec) },
		Fields: map[string]func(*appsv1.ReplicaSet) string{
			"status.replicas": func(rs *appsv1.ReplicaSet) string { return strconv.Itoa(int(rs.Status.Replicas)) },
		},
		Columns: replicaSetColumns(),
		Subresources: []resource.Subresource[appsv1.ReplicaSet]{
			{Name: "scale", Kind: scaleKind, Scale: &resource.Scale[*appsv1.ReplicaSet]{
				Replicas:    func(rs *appsv1.ReplicaSet) *int32 { return rs.Spec.Replicas },
				Status:      func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas },
				Selector:    func(rs *appsv1.ReplicaSet) string { return selectorString(rs.Spec.Selector) },
				SetReplicas: func(rs *appsv1.ReplicaSet, n int32) { rs.Spec.Replicas = &n },
			}},
			{Name: "status", View: true,
				Prepare:  func(obj, old *appsv1.ReplicaSet) { obj.Spec = old.Spec },
				Validate: func(obj, _ *appsv1.ReplicaSet) field.ErrorList { return validateReplicaSetStatus(&obj.Status) },
			},
		},
	})
}

func validateReplicaSet(obj, old *appsv1.ReplicaSet) field.ErrorList {
	spec, opts := &obj.Spec, podspec.Options{}
	if old != nil {
		opts = podspec.OptionsFor(&old.Spec.Template)
	}
	errs := notNegative(specPath,
		count{"replicas", int64(*spec.Replicas)},
		count{"minReadySeconds", int64(spec.MinReadySeconds)})
	errs = append(errs, validateReplicated(spec.Selector, &spec.Template, opts)...)
	if old != nil {
		errs = append(errs, apivalidation.ValidateImmutableField(spec.Selector, old.Spec.Selector, specPath.Child("selector"))...)
	}
	return errs
}

// validateReplicated checks what Deployments and ReplicaSets have in common: a
// selector that says something and a template that it selects.
func validateReplicated(s *metav1.LabelSelector, t *v1.PodTemplateSpec, opts podspec.Options) field.ErrorList {
	path := specPath.Child("selector")
	errs := validateSelector(s, "deployment")
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return append(errs, field.Invalid(path, s, "invalid label selector"))
	}
	errs = append(errs, selects(selector, t)...)
	errs = append(errs, podspec.ValidateTemplate(t, tmplPath, opts)...)
	return append(errs, validateForever(t, "ReplicaSet")...)
}

// validateSelector demands a label selector that is not empty. The API names
// the kind "deployment" for ReplicaSets too.
func validateSelector(s *metav1.LabelSelector, kind string) field.ErrorList {
	path := specPath.Child("selector")
	if s == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, path)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, s, "empty selector is invalid for "+kind))
	}
	return errs
}

// selects demands that a selector which is not empty matches the template.
func selects(selector labels.Selector, t *v1.PodTemplateSpec) field.ErrorList {
	if selector.Empty() || selector.Matches(labels.Set(t.Labels)) {
		return nil
	}
	return field.ErrorList{field.Invalid(tmplPath.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")}
}

// validateForever demands a template of pods that are to run until they are
// deleted.
func validateForever(t *v1.PodTemplateSpec, kind string) field.ErrorList {
	var errs field.ErrorList
	if t.Spec.RestartPolicy != v1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(tmplPath.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []v1.RestartPolicy{v1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(tmplPath.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

func validateReplicaSetStatus(s *appsv1.ReplicaSetStatus) field.ErrorList {
	errs := notNegative(statusPath,
		count{"replicas", int64(s.Replicas)},
		count{"fullyLabeledReplicas", int64(s.FullyLabeledReplicas)},
		count{"readyReplicas", int64(s.ReadyReplicas)},
		count{"availableReplicas", int64(s.AvailableReplicas)},
		count{"observedGeneration", s.ObservedGeneration},
		count{"terminatingReplicas", deref(s.TerminatingReplicas)})
	errs = append(errs, notAbove(statusPath, s.Replicas, "status.replicas",
		count{"fullyLabeledReplicas", int64(s.FullyLabeledReplicas)},
		count{"readyReplicas", int64(s.ReadyReplicas)},
		count{"availableReplicas", int64(s.AvailableReplicas)})...)
	return append(errs, notAbove(statusPath, s.ReadyReplicas, "readyReplicas", count{"availableReplicas", int64(s.AvailableReplicas)})...)
}

func replicaSetColumns() []resource.Column[*appsv1.ReplicaSet] {
	type replicaSet = *appsv1.ReplicaSet
	spec := func(rs replicaSet) *v1.PodSpec { return &rs.Spec.Template.Spec }
	return []resource.Column[replicaSet]{
		resource.NameColumn[replicaSet](),
		table.Number("Desired", table.Doc(appsv1.ReplicaSetSpec{}, "replicas"), func(rs replicaSet) int64 { return int64(*rs.Spec.Replicas) }),
		table.Number("Current", table.Doc(appsv1.ReplicaSetStatus{}, "replicas"), func(rs replicaSet) int64 { return int64(rs.Status.Replicas) }),
		table.Number("Ready", table.Doc(appsv1.ReplicaSetStatus{}, "readyReplicas"), func(rs replicaSet) int64 { return int64(rs.Status.ReadyReplicas) }),
		resource.AgeColumn[replicaSet](),
		table.Wide(podspec.ContainersColumn(spec)),
		table.Wide(podspec.ImagesColumn(spec)),
		table.Wide(table.Text("Selector", table.Doc(appsv1.ReplicaSetSpec{}, "selector"), func(rs replicaSet) string { return table.Selector(rs.Spec.Selector) })),
	}
}
