package probe

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts tries; /metrics/probes serves it. Name and labels are those of Kubernetes.
type metrics struct {
	registry *prometheus.Registry
	tries    *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total",
			Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
	}
	m.registry.MustRegister(m.tries)
	return m
}

// Metrics are the counts of tries of the containers that are probed.
func (m *Manager) Metrics() prometheus.Gatherer { return m.metrics.registry }

// resultNames are how outcomes are labelled: a warning is a success.
var resultNames = map[outcome]string{failure: "failed", success: "successful", warning: "successful", unknown: "unknown"}

func (w *worker) count(result outcome) {
	pod := w.pod()
	w.m.metrics.tries.WithLabelValues(string(w.kind), resultNames[result], w.target.container.Name, pod.Name, pod.Namespace, string(pod.UID)).Inc()
}

// forget drops the counts of a probe that ended, unless the container's next run is being probed already.
func (w *worker) forget() {
	pod := w.pod()
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	for _, t := range w.m.targets {
		if t != w.target && t.pod.UID == pod.UID && t.container.Name == w.target.container.Name {
			return
		}
	}
	w.m.metrics.tries.DeletePartialMatch(prometheus.Labels{
		"probe_type": string(w.kind), "container": w.target.container.Name, "pod_uid": string(pod.UID),
	})
}
