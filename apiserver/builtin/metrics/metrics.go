// Package metrics holds the kinds of the group metrics.k8s.io: what nodes and pods use now. Nothing is stored.
//
// The group gives way to metrics-server or another program that serves it: see resource.Definition.Yields.
package metrics

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Source says what is used. With a name it tells of that node or pod alone, and an error may say that there is none.
type Source interface {
	Nodes(ctx context.Context, name string) ([]*metricsv1beta1.NodeMetrics, error)
	Pods(ctx context.Context, namespace, name string) ([]*metricsv1beta1.PodMetrics, error)
}

// Resources are the rows of the group.
func Resources(s Source) []*resource.Resource { return []*resource.Resource{nodes(s), pods(s)} }

var verbs = []string{"get", "list"}

func nodes(s Source) *resource.Resource {
	type metrics = metricsv1beta1.NodeMetrics
	return resource.Define[metricsv1beta1.NodeMetricsList](resource.Definition[metrics]{
		Group: metricsv1beta1.GroupName, Version: "v1beta1", Kind: "NodeMetrics", Plural: "nodes", Verbs: verbs,
		ClusterScoped: true, Yields: true,
		Columns: columns(
			func(m *metrics) corev1.ResourceList { return m.Usage },
			func(m *metrics) string { return m.Window.Duration.String() }),
		Live: func(ctx context.Context, _, name string) ([]*metrics, error) { return s.Nodes(ctx, name) },
	})
}

func pods(s Source) *resource.Resource {
	type metrics = metricsv1beta1.PodMetrics
	return resource.Define[metricsv1beta1.PodMetricsList](resource.Definition[metrics]{
		Group: metricsv1beta1.GroupName, Version: "v1beta1", Kind: "PodMetrics", Plural: "pods", Verbs: verbs,
		Yields: true,
		Columns: columns(
			sum,
			func(m *metrics) string { return m.Window.Duration.String() }),
		Live: s.Pods,
	})
}

// columns are those of metrics-server, which has none at all in an empty table.
func columns[P resource.Object](usage func(P) corev1.ResourceList, window func(P) string) []resource.Column[P] {
	quantity := func(of corev1.ResourceName) resource.Column[P] {
		return resource.Column[P]{Name: string(of), Type: "string", Format: "quantity", Value: func(m P) any {
			q := usage(m)[of]
			return q.String()
		}}
	}
	name := resource.NameColumn[P]()
	name.Description = "Name of the resource"
	return []resource.Column[P]{
		name, quantity(corev1.ResourceCPU), quantity(corev1.ResourceMemory),
		{Name: "Window", Type: "string", Format: "duration", Value: func(m P) any { return window(m) }},
	}
}

// sum is what all containers use.
func sum(m *metricsv1beta1.PodMetrics) corev1.ResourceList {
	total := corev1.ResourceList{}
	for _, c := range m.Containers {
		for name, used := range c.Usage {
			q := total[name]
			q.Add(used)
			total[name] = q
		}
	}
	return total
}
