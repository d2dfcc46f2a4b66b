package authz

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// metrics have the names and labels of kube-apiserver's.
type metrics struct {
	server                             string // hash of its id
	decided, calls, failOpen           *prometheus.CounterVec
	callTime                           *prometheus.HistogramVec
	conditionErrors, conditionExcludes *prometheus.CounterVec
	conditionTime                      *prometheus.HistogramVec
	reloads                            *prometheus.CounterVec
	reloadTime, config                 *prometheus.GaugeVec
}

// newMetrics registers those of the file only where there is one.
func newMetrics(registry prometheus.Registerer, server string, file bool) *metrics {
	const prefix, reload = "apiserver_authorization_", "apiserver_authorization_config_controller_"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		server:            hashed([]byte(server)),
		decided:           counter(prefix+"decisions_total", "Number of requests that an authorizer allowed or denied.", "type", "name", "decision"),
		calls:             counter(prefix+"webhook_evaluations_total", "Number of times a webhook was asked, by how that ended.", "name", "result"),
		failOpen:          counter(prefix+"webhook_evaluations_fail_open_total", "Number of requests that a webhook did not decide because it failed.", "name", "result"),
		callTime:          histogram(prefix+"webhook_duration_seconds", "Time that a webhook took to answer.", prometheus.DefBuckets, "name", "result"),
		conditionErrors:   counter(prefix+"match_condition_evaluation_errors_total", "Number of requests for which a match condition failed.", "type", "name"),
		conditionExcludes: counter(prefix+"match_condition_exclusions_total", "Number of requests that a webhook was not asked about because of its match conditions.", "type", "name"),
		conditionTime: histogram(prefix+"match_condition_evaluation_seconds", "Time that the match conditions of a webhook took.",
			[]float64{.001, .005, .01, .025, .1, .2, .25}, "type", "name"),
		reloads:    counter(reload+"automatic_reloads_total", "Number of new versions of the configuration, taken or not.", "status", "apiserver_id_hash"),
		reloadTime: gauge(reload+"automatic_reload_last_timestamp_seconds", "When a new version of the configuration was last taken or not.", "status", "apiserver_id_hash"),
		config:     gauge(reload+"last_config_info", "Always 1; its labels say which configuration is in force.", "apiserver_id_hash", "hash"),
	}
	if registry != nil {
		registry.MustRegister(m.decided, m.calls, m.failOpen, m.callTime, m.conditionErrors, m.conditionExcludes, m.conditionTime)
	}
	if registry != nil && file {
		registry.MustRegister(m.reloads, m.reloadTime, m.config)
	}
	return m
}

// decisions count those of one authorizer.
type decisions struct {
	allowed prometheus.Counter
	denied  func() prometheus.Counter // few authorizers ever deny
}

func (m *metrics) decisions(kind, name string) decisions {
	return decisions{m.decided.WithLabelValues(kind, name, "allowed"), func() prometheus.Counter { return m.decided.WithLabelValues(kind, name, "denied") }}
}

func (d decisions) count(decision authorizer.Decision) {
	if decision == authorizer.DecisionAllow {
		d.allowed.Inc()
		return
	}
	d.denied().Inc()
}

// called counts an attempt to ask a webhook.
func (m *metrics) called(name, result string, began time.Time) {
	m.calls.WithLabelValues(name, result).Inc()
	m.callTime.WithLabelValues(name, result).Observe(time.Since(began).Seconds())
}

// reloaded counts a new version of the file. data is nil if it was not taken.
func (m *metrics) reloaded(data []byte) {
	status := "success"
	if data == nil {
		status = "failure"
	}
	m.reloads.WithLabelValues(status, m.server).Inc()
	m.reloadTime.WithLabelValues(status, m.server).SetToCurrentTime()
	if data != nil {
		m.inForce(data)
	}
}

func (m *metrics) inForce(data []byte) {
	m.config.Reset()
	m.config.WithLabelValues(m.server, hashed(data)).Set(1)
}

func hashed(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data))
}
