package autoscaling

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"github.com/skiff-k8s/skiff/controllers/autoscaling/decide"
)

// metrics reads the three APIs of metrics. That of resources is served by the API server itself, the others by
// programs that are installed.
type metrics struct {
	resources metricsclient.PodMetricsesGetter
	custom    custom_metrics.CustomMetricsClient
	external  external_metrics.ExternalMetricsClient
}

func newMetrics(d Deps, t *targets) (*metrics, error) {
	resources, err := metricsclient.NewForConfig(inJSON(d.API))
	if err != nil {
		return nil, err
	}
	external, err := external_metrics.NewForConfig(inJSON(d.API))
	if err != nil {
		return nil, err
	}
	versions := custom_metrics.NewAvailableAPIsGetter(d.Client.Discovery())
	t.reset = append(t.reset, versions.Invalidate)
	return &metrics{resources, custom_metrics.NewForConfig(inJSON(d.API), t.mapper, versions), external}, nil
}

// read finds what a metric of an autoscaler says. selector selects the pods of its target.
func (m *metrics) read(ctx context.Context, namespace string, selector labels.Selector, spec autoscalingv2.MetricSpec) decide.Metric {
	switch spec.Type {
	case autoscalingv2.ResourceMetricSourceType:
		return m.ofResource(ctx, namespace, selector, spec.Resource.Name, "")
	case autoscalingv2.ContainerResourceMetricSourceType:
		return m.ofResource(ctx, namespace, selector, spec.ContainerResource.Name, spec.ContainerResource.Container)
	case autoscalingv2.PodsMetricSourceType:
		return m.ofPods(namespace, selector, spec.Pods.Metric)
	case autoscalingv2.ObjectMetricSourceType:
		return m.ofObject(namespace, spec.Object)
	case autoscalingv2.ExternalMetricSourceType:
		return m.ofExternal(namespace, spec.External.Metric)
	}
	return decide.Metric{} // a type that is not known is told by what decides
}

func unknown(format string, args ...any) decide.Metric {
	return decide.Metric{Err: fmt.Errorf(format, args...)}
}

// ofResource is the use of a resource by pods, or by one container of each.
func (m *metrics) ofResource(ctx context.Context, namespace string, selector labels.Selector, of corev1.ResourceName, container string) decide.Metric {
	list, err := m.resources.PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return unknown("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return decide.Metric{Err: errors.New("no metrics returned from resource metrics API")}
	}
	samples := make(map[string]decide.Sample, len(list.Items))
	for _, pod := range list.Items {
		if used, known := useOf(pod.Containers, of, container); known {
			samples[pod.Name] = decide.Sample{Value: used, At: pod.Timestamp.Time, Window: pod.Window.Duration}
		}
	}
	return decide.Metric{Pods: samples}
}

// useOf is what the container of a name uses, or what all do if all are known.
func useOf(containers []metricsv1beta1.ContainerMetrics, of corev1.ResourceName, container string) (used int64, known bool) {
	for _, c := range containers {
		if container != "" && c.Name != container {
			continue
		}
		use, measured := c.Usage[of]
		if !measured {
			return 0, false
		}
		used, known = used+use.MilliValue(), true
	}
	return used, known
}

// defaultWindow is that of custom metrics that do not say.
const defaultWindow = time.Minute

// ofPods is a metric that each pod has.
func (m *metrics) ofPods(namespace string, selector labels.Selector, of autoscalingv2.MetricIdentifier) decide.Metric {
	which, err := metav1.LabelSelectorAsSelector(of.Selector)
	if err != nil {
		return decide.Metric{Err: err}
	}
	list, err := m.custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, selector, of.Name, which)
	if err != nil {
		return unknown("unable to fetch metrics from custom metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return decide.Metric{Err: errors.New("no metrics returned from custom metrics API")}
	}
	samples := make(map[string]decide.Sample, len(list.Items))
	for _, v := range list.Items {
		samples[v.DescribedObject.Name] = decide.Sample{Value: v.Value.MilliValue(), At: v.Timestamp.Time, Window: windowOf(v)}
	}
	return decide.Metric{Pods: samples}
}

func windowOf(v customv1beta2.MetricValue) time.Duration {
	if v.WindowSeconds == nil {
		return defaultWindow
	}
	return time.Duration(*v.WindowSeconds) * time.Second
}

// ofObject is a metric of one object of the namespace, or of the namespace itself, by whatever name.
func (m *metrics) ofObject(namespace string, spec *autoscalingv2.ObjectMetricSource) decide.Metric {
	which, err := metav1.LabelSelectorAsSelector(spec.Metric.Selector)
	if err != nil {
		return decide.Metric{Err: err}
	}
	kind := schema.FromAPIVersionAndKind(spec.DescribedObject.APIVersion, spec.DescribedObject.Kind).GroupKind()
	var value *customv1beta2.MetricValue
	if kind == (schema.GroupKind{Kind: "Namespace"}) {
		value, err = m.custom.RootScopedMetrics().GetForObject(kind, namespace, spec.Metric.Name, which)
	} else {
		value, err = m.custom.NamespacedMetrics(namespace).GetForObject(kind, spec.DescribedObject.Name, spec.Metric.Name, which)
	}
	if err != nil {
		return unknown("unable to fetch metrics from custom metrics API: %w", err)
	}
	return decide.Metric{Values: []int64{value.Value.MilliValue()}}
}

// ofExternal are the values of a metric of something outside the cluster.
func (m *metrics) ofExternal(namespace string, of autoscalingv2.MetricIdentifier) decide.Metric {
	which, err := metav1.LabelSelectorAsSelector(of.Selector)
	if err != nil {
		return decide.Metric{Err: err}
	}
	list, err := m.external.NamespacedMetrics(namespace).List(of.Name, which)
	if err != nil {
		return unknown("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return decide.Metric{Err: errors.New("no metrics returned from external metrics API")}
	}
	values := make([]int64, len(list.Items))
	for i, v := range list.Items {
		values[i] = v.Value.MilliValue()
	}
	return decide.Metric{Values: values}
}
