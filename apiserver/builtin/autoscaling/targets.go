package autoscaling

import (
	"fmt"
	"strconv"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
)

func minColumn(a *autoscalingv2.HorizontalPodAutoscaler) string {
	if a.Spec.MinReplicas == nil {
		return "<unset>"
	}
	return strconv.Itoa(int(*a.Spec.MinReplicas))
}

func targetsColumn(a *autoscalingv2.HorizontalPodAutoscaler) string {
	const most = 2
	if len(a.Spec.Metrics) == 0 {
		return "<none>"
	}
	var list []string
	for i := range a.Spec.Metrics {
		var status autoscalingv2.MetricStatus
		if i < len(a.Status.CurrentMetrics) {
			status = a.Status.CurrentMetrics[i]
		}
		list = append(list, metricText(&a.Spec.Metrics[i], status))
	}
	if len(list) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// metricText is current/target of one metric.
func metricText(m *autoscalingv2.MetricSpec, status autoscalingv2.MetricStatus) string {
	switch {
	case m.External != nil:
		var now *autoscalingv2.MetricValueStatus
		if status.External != nil {
			now = &status.External.Current
		}
		return valueText(m.External.Target, now)
	case m.Object != nil:
		var now *autoscalingv2.MetricValueStatus
		if status.Object != nil {
			now = &status.Object.Current
		}
		return valueText(m.Object.Target, now)
	case m.Pods != nil:
		var now *autoscalingv2.MetricValueStatus
		if status.Pods != nil {
			now = &status.Pods.Current
		}
		return quantityText(average(now)) + "/" + quantityText(m.Pods.Target.AverageValue)
	case m.Resource != nil:
		var now *autoscalingv2.MetricValueStatus
		if status.Resource != nil {
			now = &status.Resource.Current
		}
		return string(m.Resource.Name) + ": " + usageText(m.Resource.Target, now)
	case m.ContainerResource != nil:
		var now *autoscalingv2.MetricValueStatus
		if status.ContainerResource != nil {
			now = &status.ContainerResource.Current
		}
		return string(m.ContainerResource.Name) + ": " + usageText(m.ContainerResource.Target, now)
	}
	return "<unknown type>"
}

func average(now *autoscalingv2.MetricValueStatus) *resource.Quantity {
	if now == nil {
		return nil
	}
	return now.AverageValue
}

// valueText is for metrics that have a value, or an average per pod.
func valueText(target autoscalingv2.MetricTarget, now *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantityText(average(now)) + "/" + quantityText(target.AverageValue) + " (avg)"
	}
	var value *resource.Quantity
	if now != nil {
		value = now.Value
	}
	return quantityText(value) + "/" + quantityText(target.Value)
}

// usageText is for resources, counted per pod or in percent of the request.
func usageText(target autoscalingv2.MetricTarget, now *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantityText(average(now)) + "/" + quantityText(target.AverageValue)
	}
	current, wanted := "<unknown>", "<auto>"
	if now != nil && now.AverageUtilization != nil {
		current = fmt.Sprintf("%d%%", *now.AverageUtilization)
	}
	if target.AverageUtilization != nil {
		wanted = fmt.Sprintf("%d%%", *target.AverageUtilization)
	}
	return current + "/" + wanted
}

func quantityText(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}
