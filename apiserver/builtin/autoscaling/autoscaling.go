// Package autoscaling holds the kinds of the group autoscaling. Objects are
// kept as v2; v1 shows what it has fields for and carries the rest in
// annotations, so that a client of v1 loses nothing.
package autoscaling

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group, the preferred version first.
func Resources() []*resource.Resource {
	stored := autoscalersV2()
	return []*resource.Resource{stored, autoscalersV1(stored)}
}

func autoscalersV2() *resource.Resource {
	type hpa = autoscalingv2.HorizontalPodAutoscaler
	return resource.Define[autoscalingv2.HorizontalPodAutoscalerList](resource.Definition[hpa]{
		Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler", Plural: "horizontalpodautoscalers",
		ShortNames: []string{"hpa"}, Categories: []string{"all"},
		Default: defaultAutoscaler,
		Prepare: func(a, old *hpa) {
			a.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
			if old != nil {
				a.Status = *old.Status.DeepCopy()
			}
		},
		Validate: validateAutoscaler,
		Columns:  columns,
		Subresources: []resource.Subresource[hpa]{{
			Name: "status", View: true,
			Prepare:  func(a, old *hpa) { a.Spec = *old.Spec.DeepCopy() },
			Validate: validateStatus,
		}},
	})
}

func autoscalersV1(stored *resource.Resource) *resource.Resource {
	type hpa = autoscalingv1.HorizontalPodAutoscaler
	r := resource.Define[autoscalingv1.HorizontalPodAutoscalerList](resource.Definition[hpa]{
		Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler", Plural: "horizontalpodautoscalers",
		ShortNames: []string{"hpa"}, Categories: []string{"all"},
		Default: func(a *hpa) {
			if a.Spec.MinReplicas == nil {
				a.Spec.MinReplicas = ptr.To[int32](1)
			}
		},
		Columns:      columnsV1(),
		Subresources: []resource.Subresource[hpa]{{Name: "status", View: true}},
	})
	resource.Alias(r, stored, toV2, toV1)
	r.Subresources = stored.Subresources
	return r
}

// Scaling where a policy is named but not described, as it was before there
// were policies.
func defaultUp() *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: ptr.To[int32](0),
		SelectPolicy:               ptr.To(autoscalingv2.MaxChangePolicySelect),
		Policies: []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
			{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
		},
	}
}

// defaultDown leaves the window to the controller's configuration.
func defaultDown() *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{
		SelectPolicy: ptr.To(autoscalingv2.MaxChangePolicySelect),
		Policies:     []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}},
	}
}

func defaultAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) {
	if a.Spec.MinReplicas == nil {
		a.Spec.MinReplicas = ptr.To[int32](1)
	}
	if len(a.Spec.Metrics) == 0 {
		a.Spec.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(80)}
	}
	if b := a.Spec.Behavior; b != nil {
		b.ScaleUp = overlay(b.ScaleUp, defaultUp())
		b.ScaleDown = overlay(b.ScaleDown, defaultDown())
	}
}

func cpuUtilization(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name:   corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

// overlay is base with what rules says.
func overlay(rules, base *autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	if rules == nil {
		return base
	}
	if rules.SelectPolicy != nil {
		base.SelectPolicy = rules.SelectPolicy
	}
	if rules.StabilizationWindowSeconds != nil {
		base.StabilizationWindowSeconds = rules.StabilizationWindowSeconds
	}
	if rules.Policies != nil {
		base.Policies = rules.Policies
	}
	base.Tolerance = rules.Tolerance
	return base
}

var columns = func() []resource.Column[*autoscalingv2.HorizontalPodAutoscaler] {
	type hpa = autoscalingv2.HorizontalPodAutoscaler
	spec, status := autoscalingv2.HorizontalPodAutoscalerSpec{}, autoscalingv2.HorizontalPodAutoscalerStatus{}
	return []resource.Column[*hpa]{
		resource.NameColumn[*hpa](),
		table.Text("Reference", table.Doc(spec, "scaleTargetRef"), func(a *hpa) string { return a.Spec.ScaleTargetRef.Kind + "/" + a.Spec.ScaleTargetRef.Name }),
		table.Text("Targets", table.Doc(spec, "metrics"), targetsColumn),
		table.Text("MinPods", table.Doc(spec, "minReplicas"), minColumn),
		table.Count("MaxPods", table.Doc(spec, "maxReplicas"), func(a *hpa) int64 { return int64(a.Spec.MaxReplicas) }),
		table.Count("Replicas", table.Doc(status, "currentReplicas"), func(a *hpa) int64 { return int64(a.Status.CurrentReplicas) }),
		resource.AgeColumn[*hpa](),
	}
}()

func columnsV1() []resource.Column[*autoscalingv1.HorizontalPodAutoscaler] {
	var all []resource.Column[*autoscalingv1.HorizontalPodAutoscaler]
	for _, c := range columns {
		all = append(all, resource.Column[*autoscalingv1.HorizontalPodAutoscaler]{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority,
			Value: func(a *autoscalingv1.HorizontalPodAutoscaler) any { return c.Value(toV2(a)) }})
	}
	return all
}
