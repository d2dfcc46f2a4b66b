package autoscaling

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
)

func validateAutoscaler(a, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	at := field.NewPath("spec")
	var errs field.ErrorList
	least := int32(1)
	if old != nil && old.Spec.MinReplicas != nil && *old.Spec.MinReplicas == 0 {
		least = 0
	}
	low, high := a.Spec.MinReplicas, a.Spec.MaxReplicas
	if low != nil && *low < least {
		errs = append(errs, field.Invalid(at.Child("minReplicas"), *low, fmt.Sprintf("must be greater than or equal to %d", least)))
	}
	switch {
	case high == 0:
		errs = append(errs, field.Required(at.Child("maxReplicas"), "must be set and greater than 0"))
	case high < 0:
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), high, "must be greater than or equal to 1"))
	}
	if low != nil && high < *low {
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), high, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateScaled(a, old, at.Child("scaleTargetRef"))...)
	external := false
	for i := range a.Spec.Metrics {
		m := &a.Spec.Metrics[i]
		errs = append(errs, validateMetric(m, at.Child("metrics").Index(i))...)
		external = external || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if low != nil && *low == 0 && !external {
		errs = append(errs, field.Forbidden(at.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if b := a.Spec.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, at.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, at.Child("behavior", "scaleDown"))...)
	}
	return errs
}

// validateRef wants the target of scaling, or the object of a metric.
func validateRef(ref autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	errs := segment(ref.Kind, at.Child("kind"), "")
	errs = append(errs, segment(ref.Name, at.Child("name"), "")...)
	if _, err := schema.ParseGroupVersion(ref.APIVersion); err != nil {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), ref.APIVersion, err.Error()))
	}
	return errs
}

// validateScaled is stricter about the version: only one kind without a group
// can be scaled. What was stored before this rule may stay.
func validateScaled(a, old *autoscalingv2.HorizontalPodAutoscaler, at *field.Path) field.ErrorList {
	ref := a.Spec.ScaleTargetRef
	same := old != nil && old.Spec.ScaleTargetRef.Kind == ref.Kind && old.Spec.ScaleTargetRef.APIVersion == ref.APIVersion
	if same {
		ref.APIVersion = ""
		return validateRef(ref, at)
	}
	errs := validateRef(ref, at)
	version, err := schema.ParseGroupVersion(ref.APIVersion)
	if err == nil && version.Group == "" && ref.Kind != "ReplicationController" {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), ref.APIVersion, "apiVersion must specify API group"))
	}
	return errs
}

func segment(s string, at *field.Path, missing string) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(at, missing)}
	}
	return check.Invalid(at, s, path.IsValidPathSegmentName(s))
}

// validateMetric wants exactly the source that the type names.
func validateMetric(m *autoscalingv2.MetricSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	unknown := check.Supported(m.Type, at.Child("type"),
		autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
		autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)
	// Kubernetes says it twice.
	errs = append(append(errs, unknown...), unknown...)
	sources := []struct {
		kind     autoscalingv2.MetricSourceType
		name     string
		set      bool
		validate func(*field.Path) field.ErrorList
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(p *field.Path) field.ErrorList { return validateObject(m.Object, p) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(p *field.Path) field.ErrorList { return validateExternal(m.External, p) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(p *field.Path) field.ErrorList { return validatePods(m.Pods, p) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(p *field.Path) field.ErrorList {
			return validateUsage(m.Resource.Name, m.Resource.Target, p)
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(p *field.Path) field.ErrorList {
			return validateContainer(m.ContainerResource, p)
		}},
	}
	set := 0
	for _, s := range sources {
		if s.set {
			if set++; set == 1 {
				errs = append(errs, s.validate(at.Child(s.name))...)
			}
		}
		if s.kind == m.Type && !s.set {
			errs = append(errs, field.Required(at.Child(s.name), "must populate information for the given metric source"))
		}
	}
	for _, s := range sources {
		if s.set && set > 1 && s.kind != m.Type {
			errs = append(errs, field.Forbidden(at.Child(s.name), "must populate the given metric source only"))
		}
	}
	return errs
}

func validateObject(s *autoscalingv2.ObjectMetricSource, at *field.Path) field.ErrorList {
	errs := validateRef(s.DescribedObject, at.Child("describedObject"))
	errs = append(errs, segment(s.Metric.Name, at.Child("metric", "name"), "must specify a metric name")...)
	errs = append(errs, validateTarget(s.Target, at.Child("target"))...)
	if s.Target.Value == nil && s.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func validateExternal(s *autoscalingv2.ExternalMetricSource, at *field.Path) field.ErrorList {
	errs := segment(s.Metric.Name, at.Child("metric", "name"), "must specify a metric name")
	errs = append(errs, validateTarget(s.Target, at.Child("target"))...)
	switch {
	case s.Target.Value == nil && s.Target.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case s.Target.Value != nil && s.Target.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validatePods(s *autoscalingv2.PodsMetricSource, at *field.Path) field.ErrorList {
	errs := segment(s.Metric.Name, at.Child("metric", "name"), "must specify a metric name")
	errs = append(errs, validateTarget(s.Target, at.Child("target"))...)
	if s.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func validateContainer(s *autoscalingv2.ContainerResourceMetricSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Container == "" {
		errs = append(errs, field.Required(at.Child("container"), "must specify a container"))
	} else {
		errs = append(errs, check.Label(s.Container, at.Child("container"))...)
	}
	return append(errs, validateUsage(s.Name, s.Target, at)...)
}

func validateUsage(name corev1.ResourceName, target autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), "must specify a resource name"))
	}
	errs = append(errs, validateTarget(target, at.Child("target"))...)
	switch {
	case target.AverageUtilization == nil && target.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization"))
	case target.AverageUtilization != nil && target.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateTarget(t autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric target type"))
	}
	if t.Type != autoscalingv2.UtilizationMetricType && t.Type != autoscalingv2.ValueMetricType && t.Type != autoscalingv2.AverageValueMetricType {
		errs = append(errs, field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		errs = append(errs, field.Invalid(at.Child("averageValue"), t.AverageValue, "must be positive"))
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}

const (
	maxWindowSeconds = 3600
	maxPeriodSeconds = 1800
)

func validateRules(r *autoscalingv2.HPAScalingRules, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if w := r.StabilizationWindowSeconds; w != nil {
		if *w < 0 {
			errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), w, "must be greater than or equal to zero"))
		}
		if *w > maxWindowSeconds {
			errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), w, fmt.Sprintf("must be less than or equal to %d", maxWindowSeconds)))
		}
	}
	if r.SelectPolicy != nil {
		errs = append(errs, check.Supported(*r.SelectPolicy, at.Child("selectPolicy"),
			autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(at.Child("policies"), "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		errs = append(errs, validatePolicy(p, at.Child("policies").Index(i))...)
	}
	if r.Tolerance != nil && r.Tolerance.Sign() < 0 {
		errs = append(errs, field.Invalid(at.Child("tolerance"), r.Tolerance.String(), validation.IsNegativeErrorMsg))
	}
	return errs
}

func validatePolicy(p autoscalingv2.HPAScalingPolicy, at *field.Path) field.ErrorList {
	errs := check.Supported(p.Type, at.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
	if p.Value <= 0 {
		errs = append(errs, field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
	}
	if p.PeriodSeconds <= 0 {
		errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
	}
	if p.PeriodSeconds > maxPeriodSeconds {
		errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", maxPeriodSeconds)))
	}
	return errs
}

func validateStatus(a, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	at := field.NewPath("status")
	errs := validation.ValidateNonnegativeField(int64(a.Status.CurrentReplicas), at.Child("currentReplicas"))
	return append(errs, validation.ValidateNonnegativeField(int64(a.Status.DesiredReplicas), at.Child("desiredReplicas"))...)
}
