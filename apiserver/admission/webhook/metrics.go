package webhook

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
)

// metrics have the names, labels and buckets of kube-apiserver's.
type metrics struct {
	seconds, conditionSeconds                          *prometheus.HistogramVec
	requests, rejections, openFails, excluded, erratic *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_admission_" + name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_admission_" + name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		seconds: histogram("webhook_admission_duration_seconds", "Latency of calls of admission webhooks in seconds, by name, operation and type (validating or admit).",
			[]float64{0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10, 25}, "name", "type", "operation", "rejected"),
		requests:   counter("webhook_request_total", "Calls of admission webhooks.", "name", "type", "operation", "code", "rejected"),
		rejections: counter("webhook_rejection_count", "Writes that admission webhooks refused.", "name", "type", "operation", "error_type", "rejection_code"),
		openFails:  counter("webhook_fail_open_count", "Calls of admission webhooks that failed and were let pass.", "name", "type"),
		conditionSeconds: histogram("match_condition_evaluation_seconds", "Time to evaluate match conditions in seconds, by name, kind and operation.",
			[]float64{0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25}, "name", "kind", "type", "operation"),
		excluded: counter("match_condition_exclusions_total", "Writes that match conditions kept from what has them.", "name", "kind", "type", "operation"),
		erratic:  counter("match_condition_evaluation_errors_total", "Match conditions that could not be evaluated.", "name", "kind", "type", "operation"),
	}
	if registry != nil {
		registry.MustRegister(m.seconds, m.requests, m.rejections, m.openFails, m.conditionSeconds, m.excluded, m.erratic)
	}
	return m
}

// called counts a call that ended with err.
func (m *metrics) called(h *hook, a *admission.Attributes, phase string, took time.Duration, err error) {
	kind, code, rejected := outcome(err)
	rejected = rejected && !(kind == failure && h.ignoresFailures())
	number, refused := strconv.Itoa(min(code, 600)), strconv.FormatBool(rejected)
	m.seconds.WithLabelValues(h.Name, phase, string(matching.Operation(a)), refused).Observe(took.Seconds())
	m.requests.WithLabelValues(h.Name, phase, string(matching.Operation(a)), number, refused).Inc()
	switch {
	case err == nil || errors.Is(err, context.Canceled):
	case rejected:
		m.rejections.WithLabelValues(h.Name, phase, string(matching.Operation(a)), kind, number).Inc()
	default:
		m.openFails.WithLabelValues(h.Name, phase).Inc()
	}
}

const failure = "calling_webhook_error"

// outcome is what a call came to: why the write is refused, if it is, and by which code.
func outcome(err error) (kind string, code int, rejected bool) {
	var failed *callError
	var no *denial
	switch {
	case err == nil:
		return "no_error", 200, false
	case errors.As(err, &failed):
		return failure, failed.code, true
	case errors.As(err, &no):
		return "no_error", int(no.ErrStatus.Code), true
	}
	return "apiserver_internal_error", 0, true
}

// denial is the error for a write that a webhook refused.
type denial struct{ *apierrors.StatusError }

func (d *denial) Unwrap() error { return d.StatusError }

// conditions counts how match conditions were evaluated, of which errs could not be.
func (m *metrics) conditions(h *hook, a *admission.Attributes, took time.Duration, errs int, excluded bool) {
	labels := []string{h.Name, "webhook", h.phase, string(matching.Operation(a))}
	m.conditionSeconds.WithLabelValues(labels...).Observe(took.Seconds())
	m.erratic.WithLabelValues(labels...).Add(float64(errs))
	if excluded {
		m.excluded.WithLabelValues(labels...).Inc()
	}
}
