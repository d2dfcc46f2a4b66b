package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func daemonSets() *resource.Resource {
	return resource.Define[appsv1.DaemonSetList](resource.Definition[appsv1.DaemonSet]{
		Group: "apps", Version: "v1", Kind: "DaemonSet", Plural: "daemonsets",
		ShortNames: []string{"ds"}, Categories: []string{"all"},
		Default:  defaultDaemonSet,
		Prepare:  prepareDaemonSet,
		Validate: validateDaemonSet,
		Warn: func(obj, old *appsv1.DaemonSet) []string {
			if old == nil {
				return podspec.WarnTemplate(&obj.Spec.Template, nil, tmplPath)
			}
			if !changed(obj.Spec.Template, old.Spec.Template) {
				return nil
			}
			return podspec.WarnTemplate(&obj.Spec.Template, &old.Spec.Template, tmplPath)
		},
		Generation: func(obj, old *appsv1.DaemonSet) bool { return changed(obj.Spec, old.Spec) },
		Columns:    daemonSetColumns(),
		Subresources: []resource.Subresource[appsv1.DaemonSet]{
			{Name: "status", View: true,
				Prepare: func(obj, old *appsv1.DaemonSet) {
					obj.Spec = old.Spec
					setTemplateGeneration(obj, templateGeneration(old))
				},
				Validate: validateDaemonSetStatus,
			},
		},
	})
}

func defaultDaemonSet(ds *appsv1.DaemonSet) {
	podspec.DefaultTemplate(&ds.Spec.Template)
	strategy := &ds.Spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if strategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		podspec.SetDefault(&strategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		podspec.SetDefault(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		podspec.SetDefault(&strategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	podspec.SetDefault(&ds.Spec.RevisionHistoryLimit, 10)
	if ds.Annotations[appsv1.DeprecatedTemplateGeneration] == "" {
		setTemplateGeneration(ds, 0) // so that who writes a DaemonSet owns it, as in kube-apiserver
	}
}

// prepareDaemonSet also keeps the template generation, which counts the changes
// of the template. It was a field in older versions of the API and is an
// annotation since; clients cannot set it on an existing object.
func prepareDaemonSet(obj, old *appsv1.DaemonSet) {
	podspec.DropDisabled(&obj.Spec.Template.Spec)
	if old == nil {
		obj.Status = appsv1.DaemonSetStatus{}
		setTemplateGeneration(obj, max(templateGeneration(obj), 1))
		return
	}
	obj.Status = old.Status
	n := templateGeneration(old)
	if changed(obj.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(obj, n)
}

// templateGeneration is 0 if the annotation is absent or no number.
func templateGeneration(ds *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(ds *appsv1.DaemonSet, n int64) {
	metav1.SetMetaDataAnnotation(&ds.ObjectMeta, appsv1.DeprecatedTemplateGeneration, strconv.FormatInt(n, 10))
}

func validateDaemonSet(obj, old *appsv1.DaemonSet) field.ErrorList {
	spec, opts := &obj.Spec, podspec.Options{}
	var errs field.ErrorList
	if old != nil {
		opts = podspec.OptionsFor(&old.Spec.Template)
		opts.BadSelectorValues = opts.BadSelectorValues || metavalidation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
		errs = append(errs, apivalidation.ValidateImmutableField(spec.Selector, old.Spec.Selector, specPath.Child("selector"))...)
	}
	path := specPath.Child("selector")
	errs = append(errs, metavalidation.ValidateLabelSelector(spec.Selector, metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: opts.BadSelectorValues}, path)...)
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !selector.Matches(labels.Set(spec.Template.Labels)) {
		errs = append(errs, field.Invalid(tmplPath.Child("metadata", "labels"), spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	if spec.Selector != nil && len(spec.Selector.MatchLabels)+len(spec.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, spec.Selector, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, podspec.ValidateTemplate(&spec.Template, tmplPath, opts)...)
	errs = append(errs, validateForever(&spec.Template, "DaemonSet")...)
	errs = append(errs, notNegative(specPath,
		count{"minReadySeconds", int64(spec.MinReadySeconds)},
		count{"templateGeneration", templateGeneration(obj)})...)
	errs = append(errs, validateDaemonSetStrategy(&spec.UpdateStrategy, specPath.Child("updateStrategy"))...)
	return append(errs, notNegative(specPath, count{"revisionHistoryLimit", int64(*spec.RevisionHistoryLimit)})...)
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return field.ErrorList{field.NotSupported(path, podspec.Untagged(s), []string{string(appsv1.RollingUpdateDaemonSetStrategyType), string(appsv1.OnDeleteDaemonSetStrategyType)})}
	}
	r, unavailable, surge := s.RollingUpdate, path.Child("rollingUpdate", "maxUnavailable"), path.Child("rollingUpdate", "maxSurge")
	errs := check.CountOrPercent(*r.MaxUnavailable, unavailable)
	errs = append(errs, check.CountOrPercent(*r.MaxSurge, surge)...)
	errs = append(errs, check.AtMostAll(*r.MaxUnavailable, unavailable)...)
	errs = append(errs, check.AtMostAll(*r.MaxSurge, surge)...)
	hasUnavailable, hasSurge := amount(*r.MaxUnavailable) != 0, amount(*r.MaxSurge) != 0
	switch {
	case hasUnavailable && hasSurge:
		errs = append(errs, field.Invalid(surge, r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !hasUnavailable && !hasSurge:
		errs = append(errs, field.Required(unavailable, "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatus(obj, old *appsv1.DaemonSet) field.ErrorList {
	s := &obj.Status
	errs := notNegative(statusPath,
		count{"currentNumberScheduled", int64(s.CurrentNumberScheduled)},
		count{"numberMisscheduled", int64(s.NumberMisscheduled)},
		count{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)},
		count{"numberReady", int64(s.NumberReady)},
		count{"observedGeneration", s.ObservedGeneration},
		count{"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		count{"numberAvailable", int64(s.NumberAvailable)},
		count{"numberUnavailable", int64(s.NumberUnavailable)},
		count{"collisionCount", deref(s.CollisionCount)})
	return append(errs, notDecremented(s.CollisionCount, old.Status.CollisionCount)...)
}

func daemonSetColumns() []resource.Column[*appsv1.DaemonSet] {
	type daemonSet = *appsv1.DaemonSet
	spec := func(ds daemonSet) *v1.PodSpec { return &ds.Spec.Template.Spec }
	number := func(name, field string, value func(*appsv1.DaemonSetStatus) int32) resource.Column[daemonSet] {
		return table.Number(name, table.Doc(appsv1.DaemonSetStatus{}, field), func(ds daemonSet) int64 { return int64(value(&ds.Status)) })
	}
	return []resource.Column[daemonSet]{
		resource.NameColumn[daemonSet](),
		number("Desired", "desiredNumberScheduled", func(s *appsv1.DaemonSetStatus) int32 { return s.DesiredNumberScheduled }),
		number("Current", "currentNumberScheduled", func(s *appsv1.DaemonSetStatus) int32 { return s.CurrentNumberScheduled }),
		number("Ready", "numberReady", func(s *appsv1.DaemonSetStatus) int32 { return s.NumberReady }),
		number("Up-to-date", "updatedNumberScheduled", func(s *appsv1.DaemonSetStatus) int32 { return s.UpdatedNumberScheduled }),
		number("Available", "numberAvailable", func(s *appsv1.DaemonSetStatus) int32 { return s.NumberAvailable }),
		table.Text("Node Selector", table.Doc(v1.PodSpec{}, "nodeSelector"), func(ds daemonSet) string { return table.Labels(ds.Spec.Template.Spec.NodeSelector) }),
		resource.AgeColumn[daemonSet](),
		table.Wide(podspec.ContainersColumn(spec)),
		table.Wide(podspec.ImagesColumn(spec)),
		table.Wide(table.Text("Selector", table.Doc(appsv1.DaemonSetSpec{}, "selector"), func(ds daemonSet) string { return table.Selector(ds.Spec.Selector) })),
	}
}
