package kubelet

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	v1 "k8s.io/api/core/v1"
)

// nodeMetrics counts what runs on the node, under upstream's names.
type nodeMetrics struct {
	pods func() []*v1.Pod

	runningPods, runningContainers *prometheus.Desc
}

// newMetrics is what /metrics serves. It is a registry of its own, as one process may hold several nodes.
func newMetrics(nodeName string, pods func() []*v1.Pod) prometheus.Gatherer {
	name := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kubelet_node_name", Help: "The node's name. The count is always 1.",
		ConstLabels: prometheus.Labels{"node": nodeName},
	})
	name.Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(name, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &nodeMetrics{
		pods:              pods,
		runningPods:       prometheus.NewDesc("kubelet_running_pods", "Number of pods that run.", nil, nil),
		runningContainers: prometheus.NewDesc("kubelet_running_containers", "Number of containers by state.", []string{"container_state"}, nil),
	})
	return r
}

// Describe implements prometheus.Collector.
func (m *nodeMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.runningPods
	ch <- m.runningContainers
}

// Collect implements prometheus.Collector.
func (m *nodeMetrics) Collect(ch chan<- prometheus.Metric) {
	running := 0
	states := map[string]int{}
	for _, pod := range m.pods() {
		if pod.Status.Phase == v1.PodRunning {
			running++
		}
		for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
			for _, c := range list {
				switch {
				case c.State.Running != nil:
					states["running"]++
				case c.State.Terminated != nil:
					states["exited"]++
				}
			}
		}
	}
	ch <- prometheus.MustNewConstMetric(m.runningPods, prometheus.GaugeValue, float64(running))
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(m.runningContainers, prometheus.GaugeValue, float64(n), state)
	}
}
