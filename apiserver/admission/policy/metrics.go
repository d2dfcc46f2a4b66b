package policy

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have the names and labels of kube-apiserver's.
type metrics struct {
	checks, mutations     *prometheus.CounterVec
	seconds, mutationTime *prometheus.HistogramVec

	// Those of match conditions are shared with webhooks.
	conditionErrors  *prometheus.CounterVec
	conditionSeconds *prometheus.HistogramVec
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
	labels := []string{"name", "kind", "type", "operation"}
	m.conditionErrors = shared(registry, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_admission_match_condition_evaluation_errors_total",
		Help: "Match conditions that could not be evaluated."}, labels))
	m.conditionSeconds = shared(registry, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_admission_match_condition_evaluation_seconds",
		Help: "Time to evaluate match conditions in seconds, by name, kind and operation.", Buckets: []float64{0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25}}, labels))
	if registry != nil {
		registry.MustRegister(m.checks, m.seconds, m.mutations, m.mutationTime)
	}
	return m
}

// shared registers a metric, or finds the one that somebody else has registered under its name.
func shared[C prometheus.Collector](registry prometheus.Registerer, c C) C {
	if registry == nil {
		return c
	}
	var there prometheus.AlreadyRegisteredError
	switch err := registry.Register(c); {
	case errors.As(err, &there):
		return there.ExistingCollector.(C)
	case err != nil:
		panic("policy: register a metric: " + err.Error())
	}
	return c
}

// conditions counts how the match conditions of a policy were evaluated, of which errs could not be.
func (m *metrics) conditions(policy, verb string, took time.Duration, errs int) {
	labels := []string{policy, "policy", "validate", strings.ToUpper(verb)}
	m.conditionSeconds.WithLabelValues(labels...).Observe(took.Seconds())
	if errs > 0 {
		m.conditionErrors.WithLabelValues(labels...).Add(float64(errs))
	}
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
