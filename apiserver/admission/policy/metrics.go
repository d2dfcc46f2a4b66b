package policy

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have the names and labels of kube-apiserver's.
type metrics struct {
	checks, mutations     *prometheus.CounterVec
	seconds, mutationTime *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	validating, mutating := []string{"policy", "policy_binding", "error_type", "enforcement_action"}, []string{"policy", "policy_binding", "error_type"}
	buckets := []float64{0.0000005, 0.001, 0.01, 0.1, 1.0}
	m := &metrics{
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_validating_admission_policy_check_total",
			Help: "Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken."}, validating),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_validating_admission_policy_check_duration_seconds", Buckets: buckets,
			Help: "Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken."}, validating),
		mutations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_mutating_admission_policy_check_total",
			Help: "Mutation admission policy check total, labeled by policy and further identified by binding."}, mutating),
		mutationTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_mutating_admission_policy_check_duration_seconds", Buckets: buckets,
			Help: "Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding."}, mutating),
	}
	if registry != nil {
		registry.MustRegister(m.checks, m.seconds, m.mutations, m.mutationTime)
	}
	return m
}

// checked counts a decision and what was done about it.
func (m *metrics) checked(policy, binding string, d decision, action string) {
	kind := "no_error"
	if d.deny || d.failed {
		kind = errorType(d.message)
	}
	m.checks.WithLabelValues(policy, binding, kind, action).Inc()
	m.seconds.WithLabelValues(policy, binding, kind, action).Observe(d.took.Seconds())
}

// mutated counts one mutation.
func (m *metrics) mutated(policy, binding string, took time.Duration, err error) {
	kind := "no_error"
	if err != nil {
		kind = errorType(err.Error())
	}
	m.mutations.WithLabelValues(policy, binding, kind).Inc()
	m.mutationTime.WithLabelValues(policy, binding, kind).Observe(took.Seconds())
}

// errorType is told by the text, as in kube-apiserver: what a validation found wrong counts as an invalid_error there too.
func errorType(text string) string {
	switch {
	case strings.HasPrefix(text, "compilation"):
		return "compile_error"
	case strings.HasPrefix(text, "validation failed due to running out of cost budget"):
		return "out_of_budget"
	}
	return "invalid_error"
}
