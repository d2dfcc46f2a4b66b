package usage

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// fresh is the age from which a container that started since the last reading is told of: its start, when it had used
// nothing, stands in for the reading that is missing. Younger ones are too inexact.
const fresh = 10 * time.Second

// Nodes are what nodes use, of all or of the one of a name. Nodes without two readings are left out.
func (c *Collector) Nodes(ctx context.Context, name string) ([]*metricsv1beta1.NodeMetrics, error) {
	nodes, err := list[*corev1.Node](ctx, c.cluster, "nodes", "", name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(corev1.Resource("node"), name) // metrics-server's word for it
	}
	if err != nil {
		return nil, err
	}
	c.ask(ctx)
	used := make([]*metricsv1beta1.NodeMetrics, 0, len(nodes))
	for _, node := range nodes {
		prev, last := c.between(node.Name)
		if prev == nil || prev.node == nil || last.node == nil {
			continue
		}
		use, window, ok := last.node.since(*prev.node)
		if !ok {
			continue
		}
		used = append(used, &metricsv1beta1.NodeMetrics{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: maps.Clone(node.Labels), CreationTimestamp: metav1.Now()},
			Timestamp:  metav1.NewTime(last.node.at), Window: metav1.Duration{Duration: window}, Usage: use,
		})
	}
	if name != "" && len(used) == 0 {
		return nil, apierrors.NewNotFound(metricsv1beta1.Resource("nodemetrics"), name)
	}
	return used, nil
}

// Pods are what pods use, of a namespace or of all, or of the one of a name. Pods of which a container has not two
// readings are left out.
func (c *Collector) Pods(ctx context.Context, namespace, name string) ([]*metricsv1beta1.PodMetrics, error) {
	pods, err := list[*corev1.Pod](ctx, c.cluster, "pods", namespace, name)
	if err != nil {
		return nil, err
	}
	c.ask(ctx)
	used := make([]*metricsv1beta1.PodMetrics, 0, len(pods))
	for _, pod := range pods {
		prev, last := c.between(pod.Spec.NodeName)
		if prev == nil {
			continue
		}
		if m := ofPod(pod, prev.pods[keyOf(pod)], last.pods[keyOf(pod)]); m != nil {
			used = append(used, m)
		}
	}
	if name != "" && len(used) == 0 {
		return nil, apierrors.NewNotFound(metricsv1beta1.Resource("podmetrics"), namespace+"/"+name)
	}
	return used, nil
}

// ofPod is what a pod used between two readings of its containers, nil if that is not known. Its time is that of the
// container that was measured first.
func ofPod(pod *corev1.Pod, prev, last map[string]point) *metricsv1beta1.PodMetrics {
	if len(prev) == 0 || len(last) == 0 {
		return nil
	}
	m := &metricsv1beta1.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, Labels: maps.Clone(pod.Labels), CreationTimestamp: metav1.Now(),
		},
		Containers: []metricsv1beta1.ContainerMetrics{},
	}
	for _, name := range slices.Sorted(maps.Keys(last)) {
		before, known := prev[name]
		if !known {
			return nil
		}
		use, window, ok := last[name].since(before)
		if !ok {
			continue
		}
		m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{Name: name, Usage: use})
		if at := last[name].at; m.Timestamp.IsZero() || m.Timestamp.After(at) {
			m.Timestamp, m.Window = metav1.NewTime(at), metav1.Duration{Duration: window}
		}
	}
	return m
}

// since is what was used between two points; false: they do not belong together.
func (p point) since(prev point) (corev1.ResourceList, time.Duration, bool) {
	window := p.at.Sub(prev.at)
	if p.start.Before(prev.start) || p.cpu < prev.cpu || window <= 0 {
		return nil, 0, false
	}
	perSecond := float64(p.cpu-prev.cpu) / window.Seconds()
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(min(perSecond, math.MaxInt64/2)), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(min(p.memory, math.MaxInt64)), resource.BinarySI),
	}, window, true
}

// advance takes in the next reading of a node. A point that was measured at the same time as the last one leaves the
// two that there are. nil is a node that did not answer, of which nothing is known any more.
func advance(prev, last, next *reading) (newPrev, newLast *reading) {
	if next == nil {
		return nil, nil
	}
	if last == nil {
		last = &reading{}
	}
	if prev == nil {
		prev = &reading{}
	}
	before := &reading{node: earlier(prev.node, last.node, next.node), pods: make(podPoints, len(next.pods))}
	for pod, containers := range next.pods {
		points := make(map[string]point, len(containers))
		for name, now := range containers {
			if p, ok := beforeContainer(prev.pods[pod], last.pods[pod], name, now); ok {
				points[name] = p
			}
		}
		if len(points) > 0 {
			before.pods[pod] = points
		}
	}
	if before.node == nil && len(before.pods) == 0 {
		before = nil
	}
	return before, next
}

// beforeContainer is the point to measure a container against.
func beforeContainer(prev, last map[string]point, name string, now point) (point, bool) {
	if age := now.at.Sub(now.start); age > 0 && age < resolution && age >= fresh {
		return point{start: now.start, at: now.start, memory: now.memory}, true
	}
	l, known := last[name]
	if !known || !now.start.Before(l.at) {
		return point{}, false // it is new, or started again since
	}
	var p *point
	if q, ok := prev[name]; ok {
		p = &q
	}
	if e := earlier(p, &l, &now); e != nil {
		return *e, true
	}
	return point{}, false
}

// earlier is that of two points which next is to be measured against, nil if there is none.
func earlier(prev, last, next *point) *point {
	switch {
	case next == nil || last == nil:
		return nil
	case next.at.After(last.at):
		return last
	case prev != nil && prev.at.Before(next.at):
		return prev
	}
	return nil
}
