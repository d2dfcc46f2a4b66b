package apps

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func deployments() *resource.Resource {
	return resource.Define[appsv1.DeploymentList](resource.Definition[appsv1.Deployment]{
		Group: "apps", Version: "v1", Kind: "Deployment", Plural: "deployments",
		ShortNames: []string{"deploy"}, Categories: []string{"all"},
		Default: defaultDeployment,
		Prepare: func(obj, old *appsv1.Deployment) {
			podspec.DropDisabled(&obj.Spec.Template.Spec)
			obj.Status = appsv1.DeploymentStatus{}
			if old != nil {
				obj.Status = old.Status
			}
		},
		Validate: validateDeployment,
		Warn: func(obj, old *appsv1.Deployment) []string {
			if old == nil {
				return append(podspec.WarnName(obj.Name), podspec.WarnTemplate(&obj.Spec.Template, nil, tmplPath)...)
			}
			if !deploymentChanged(obj, old) {
				return nil
			}
			return podspec.WarnTemplate(&obj.Spec.Template, &old.Spec.Template, tmplPath)
		},
		Generation: deploymentChanged,
		Columns:    deploymentColumns(),
		Subresources: []resource.Subresource[appsv1.Deployment]{
			{Name: "scale", Kind: scaleKind, Scale: &resource.Scale[*appsv1.Deployment]{
				Replicas:    func(d *appsv1.Deployment) *int32 { return d.Spec.Replicas },
				Status:      func(d *appsv1.Deployment) int32 { return d.Status.Replicas },
				Selector:    func(d *appsv1.Deployment) string { return selectorString(d.Spec.Selector) },
				SetReplicas: func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n },
			}},
			{Name: "status", View: true,
				Prepare: func(obj, old *appsv1.Deployment) {
					obj.Spec = old.Spec
					obj.Labels = old.Labels
				},
				Reset:    []string{"spec", "metadata.labels"},
				Validate: validateDeploymentStatus,
			},
		},
	})
}

// deploymentChanged reports a change of the desired state. Annotations count
// because they are copied to the replica sets.
func deploymentChanged(obj, old *appsv1.Deployment) bool {
	return changed(obj.Spec, old.Spec) || changed(obj.Annotations, old.Annotations)
}

func defaultDeployment(d *appsv1.Deployment) {
	podspec.DefaultTemplate(&d.Spec.Template)
	podspec.SetDefault(&d.Spec.Replicas, 1)
	strategy := &d.Spec.Strategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		podspec.SetDefault(&strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		podspec.SetDefault(&strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		podspec.SetDefault(&strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	podspec.SetDefault(&d.Spec.RevisionHistoryLimit, 10)
	podspec.SetDefault(&d.Spec.ProgressDeadlineSeconds, 600)
}

func validateDeployment(obj, old *appsv1.Deployment) field.ErrorList {
	spec, opts := &obj.Spec, podspec.Options{}
	if old != nil {
		opts = podspec.OptionsFor(&old.Spec.Template)
	}
	errs := notNegative(specPath, count{"replicas", int64(*spec.Replicas)})
	errs = append(errs, validateReplicated(spec.Selector, &spec.Template, opts)...)
	errs = append(errs, validateDeploymentStrategy(&spec.Strategy, specPath.Child("strategy"))...)
	errs = append(errs, notNegative(specPath,
		count{"minReadySeconds", int64(spec.MinReadySeconds)},
		count{"revisionHistoryLimit", int64(*spec.RevisionHistoryLimit)},
		count{"progressDeadlineSeconds", int64(*spec.ProgressDeadlineSeconds)})...)
	if *spec.ProgressDeadlineSeconds <= spec.MinReadySeconds {
		errs = append(errs, field.Invalid(specPath.Child("progressDeadlineSeconds"), spec.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
	}
	if old != nil {
		errs = append(errs, apivalidation.ValidateImmutableField(spec.Selector, old.Spec.Selector, specPath.Child("selector"))...)
	}
	return errs
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		return validateRollingUpdate(s.RollingUpdate, rolling)
	}
	return field.ErrorList{field.NotSupported(path, podspec.Untagged(s), []string{string(appsv1.RecreateDeploymentStrategyType), string(appsv1.RollingUpdateDeploymentStrategyType)})}
}

func validateRollingUpdate(r *appsv1.RollingUpdateDeployment, path *field.Path) field.ErrorList {
	errs := check.CountOrPercent(*r.MaxUnavailable, path.Child("maxUnavailable"))
	errs = append(errs, check.CountOrPercent(*r.MaxSurge, path.Child("maxSurge"))...)
	if amount(*r.MaxUnavailable) == 0 && amount(*r.MaxSurge) == 0 {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, check.AtMostAll(*r.MaxUnavailable, path.Child("maxUnavailable"))...)
}

func validateDeploymentStatus(obj, old *appsv1.Deployment) field.ErrorList {
	s := &obj.Status
	errs := notNegative(statusPath,
		count{"observedGeneration", s.ObservedGeneration},
		count{"replicas", int64(s.Replicas)},
		count{"updatedReplicas", int64(s.UpdatedReplicas)},
		count{"readyReplicas", int64(s.ReadyReplicas)},
		count{"availableReplicas", int64(s.AvailableReplicas)},
		count{"unavailableReplicas", int64(s.UnavailableReplicas)},
		count{"terminatingReplicas", deref(s.TerminatingReplicas)},
		count{"collisionCount", deref(s.CollisionCount)})
	errs = append(errs, notAbove(statusPath, s.Replicas, "status.replicas",
		count{"updatedReplicas", int64(s.UpdatedReplicas)},
		count{"readyReplicas", int64(s.ReadyReplicas)},
		count{"availableReplicas", int64(s.AvailableReplicas)})...)
	errs = append(errs, notAbove(statusPath, s.ReadyReplicas, "readyReplicas", count{"availableReplicas", int64(s.AvailableReplicas)})...)
	return append(errs, notDecremented(s.CollisionCount, old.Status.CollisionCount)...)
}

func deploymentColumns() []resource.Column[*appsv1.Deployment] {
	type deployment = *appsv1.Deployment
	spec := func(d deployment) *v1.PodSpec { return &d.Spec.Template.Spec }
	return []resource.Column[deployment]{
		resource.NameColumn[deployment](),
		table.Text("Ready", "Number of the pod with ready state", func(d deployment) string {
			return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, *d.Spec.Replicas)
		}),
		textNumber("Up-to-date", table.Doc(appsv1.DeploymentStatus{}, "updatedReplicas"), func(d deployment) int64 { return int64(d.Status.UpdatedReplicas) }),
		textNumber("Available", table.Doc(appsv1.DeploymentStatus{}, "availableReplicas"), func(d deployment) int64 { return int64(d.Status.AvailableReplicas) }),
		resource.AgeColumn[deployment](),
		table.Wide(podspec.ContainersColumn(spec)),
		table.Wide(podspec.ImagesColumn(spec)),
		table.Wide(table.Text("Selector", table.Doc(appsv1.DeploymentSpec{}, "selector"), func(d deployment) string { return selectorString(d.Spec.Selector) })),
	}
}

// textNumber is a column that says string and holds numbers, as some columns of
// the API do.
func textNumber[P any](name, doc string, value func(P) int64) resource.Column[P] {
	c := table.Number(name, doc, value)
	c.Type = "string"
	return c
}

// amount is the number or the percentage, whichever v is.
func amount(v intstr.IntOrString) int {
	if digits, ok := strings.CutSuffix(v.StrVal, "%"); ok && v.Type == intstr.String {
		if n, err := strconv.Atoi(digits); err == nil {
			return n
		}
	}
	return v.IntValue()
}
