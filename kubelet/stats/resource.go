package stats

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// collectTimeout bounds how long one answer of /metrics/resource may take.
const collectTimeout = 20 * time.Second

// collector tells /metrics/resource from a summary. Names and labels are the stable ones of Kubernetes.
type collector struct{ p *Provider }

var (
	ofContainer = []string{"container", "pod", "namespace"}
	ofPod       = []string{"pod", "namespace"}

	nodeCPU    = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	nodeSwap   = prometheus.NewDesc("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems", nil, nil)

	containerCPU    = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", ofContainer, nil)
	containerMemory = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", ofContainer, nil)
	containerSwap   = prometheus.NewDesc("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", ofContainer, nil)
	containerStart  = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", ofContainer, nil)

	podCPU    = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", ofPod, nil)
	podMemory = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", ofPod, nil)

	scrapeError = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		nodeCPU, nodeMemory, nodeSwap, containerCPU, containerMemory, containerSwap, containerStart, podCPU, podMemory, scrapeError,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	summary, err := c.p.Summary(ctx, true)
	if err != nil {
		slog.Warn("measure for resource metrics", "error", err)
		to <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 1)
		return
	}
	to <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 0)
	writeCPU(to, nodeCPU, summary.Node.CPU)
	writeMemory(to, nodeMemory, summary.Node.Memory)
	writeSwap(to, nodeSwap, summary.Node.Swap)
	for _, pod := range summary.Pods {
		ref := pod.PodRef
		writeCPU(to, podCPU, pod.CPU, ref.Name, ref.Namespace)
		writeMemory(to, podMemory, pod.Memory, ref.Name, ref.Namespace)
		for _, c := range pod.Containers {
			writeCPU(to, containerCPU, c.CPU, c.Name, ref.Name, ref.Namespace)
			writeMemory(to, containerMemory, c.Memory, c.Name, ref.Name, ref.Namespace)
			writeSwap(to, containerSwap, c.Swap, c.Name, ref.Name, ref.Namespace)
			if !c.StartTime.IsZero() {
				to <- prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue,
					float64(c.StartTime.UnixNano())/1e9, c.Name, ref.Name, ref.Namespace)
			}
		}
	}
}

func writeCPU(to chan<- prometheus.Metric, d *prometheus.Desc, s *statsapi.CPUStats, labels ...string) {
	if s != nil && s.UsageCoreNanoSeconds != nil {
		write(to, d, prometheus.CounterValue, s.Time, float64(*s.UsageCoreNanoSeconds)/1e9, labels)
	}
}

func writeMemory(to chan<- prometheus.Metric, d *prometheus.Desc, s *statsapi.MemoryStats, labels ...string) {
	if s != nil && s.WorkingSetBytes != nil {
		write(to, d, prometheus.GaugeValue, s.Time, float64(*s.WorkingSetBytes), labels)
	}
}

func writeSwap(to chan<- prometheus.Metric, d *prometheus.Desc, s *statsapi.SwapStats, labels ...string) {
	if s != nil && s.SwapUsageBytes != nil {
		write(to, d, prometheus.GaugeValue, s.Time, float64(*s.SwapUsageBytes), labels)
	}
}

// write tells a value with the time it was measured at.
func write(to chan<- prometheus.Metric, d *prometheus.Desc, kind prometheus.ValueType, at metav1.Time, value float64, labels []string) {
	to <- prometheus.NewMetricWithTimestamp(at.Time, prometheus.MustNewConstMetric(d, kind, value, labels...))
}
