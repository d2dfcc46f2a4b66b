package webhook

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/admission"
)

// metrics have the names and labels of kube-apiserver's.
type metrics struct {
	seconds                         *prometheus.HistogramVec
	requests, rejections, openFails *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_admission_webhook_" + name, Help: help}, labels)
	}
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_admission_webhook_admission_duration_seconds",
			Help:    "Latency of calls of admission webhooks in seconds, by name, operation and type (validating or admit).",
			Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10, 25}}, []string{"name", "type", "operation", "rejected"}),
		requests:   counter("request_total", "Calls of admission webhooks.", "name", "type", "operation", "code", "rejected"),
		rejections: counter("rejection_count", "Writes that admission webhooks refused.", "name", "type", "operation", "error_type", "rejection_code"),
		openFails:  counter("fail_open_count", "Calls of admission webhooks that failed and were let pass.", "name", "type"),
	}
	if registry != nil {
		registry.MustRegister(m.seconds, m.requests, m.rejections, m.openFails)
	}
	return m
}

// observe counts a call that ended with err.
func (m *metrics) observe(h *hook, a *admission.Attributes, phase string, took time.Duration, err error) {
	code, kind, rejected := 200, "no_error", err != nil
	var failed *callError
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &failed):
		code, kind, rejected = failed.code, "calling_webhook_error", !h.ignoresFailures()
	case errors.As(err, &status):
		code = int(status.Status().Code)
	}
	number, refused := strconv.Itoa(min(code, 600)), strconv.FormatBool(rejected)
	m.seconds.WithLabelValues(h.Name, phase, operation(a), refused).Observe(took.Seconds())
	m.requests.WithLabelValues(h.Name, phase, operation(a), number, refused).Inc()
	switch {
	case errors.Is(err, context.Canceled):
	case rejected:
		m.rejections.WithLabelValues(h.Name, phase, operation(a), kind, number).Inc()
	case failed != nil:
		m.openFails.WithLabelValues(h.Name, phase).Inc()
	}
}
