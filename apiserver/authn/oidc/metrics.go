package oidc

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have the names and labels of kube-apiserver's.
type metrics struct {
	server     string // hash of its id
	seconds    *prometheus.HistogramVec
	fetchTime  *prometheus.GaugeVec
	keySet     *prometheus.GaugeVec
	reloads    *prometheus.CounterVec
	reloadTime *prometheus.GaugeVec
	config     *prometheus.GaugeVec

	mu   sync.Mutex
	sets map[string]string // the hash of the keys of an issuer, both as labels
}

func newMetrics(registry prometheus.Registerer, server string) *metrics {
	const authentication, reload = "apiserver_authentication_", "apiserver_authentication_config_controller_"
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{server: hashed(server), sets: make(map[string]string),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: authentication + "jwt_authenticator_latency_seconds",
			Help: "Time that it took to authenticate by a token of an issuer.", Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}},
			[]string{"result", "jwt_issuer_hash"}),
		fetchTime:  gauge(authentication+"jwt_authenticator_jwks_fetch_last_timestamp_seconds", "When the keys of an issuer were last fetched, or were not.", "result", "jwt_issuer_hash", "apiserver_id_hash"),
		keySet:     gauge(authentication+"jwt_authenticator_jwks_fetch_last_key_set_info", "Always 1; its labels say which keys of an issuer were fetched last.", "jwt_issuer_hash", "apiserver_id_hash", "hash"),
		reloads:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: reload + "automatic_reloads_total", Help: "Number of new versions of the configuration, taken or not."}, []string{"status", "apiserver_id_hash"}),
		reloadTime: gauge(reload+"automatic_reload_last_timestamp_seconds", "When a new version of the configuration was last taken or not.", "status", "apiserver_id_hash"),
		config:     gauge(reload+"last_config_info", "Always 1; its labels say which configuration is in force.", "apiserver_id_hash", "hash"),
	}
	if registry != nil {
		registry.MustRegister(m.seconds, m.fetchTime, m.keySet, m.reloads, m.reloadTime, m.config)
	}
	return m
}

func result(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}

func (m *metrics) authenticated(issuer string, took time.Duration, err error) {
	m.seconds.WithLabelValues(result(err), hashed(issuer)).Observe(took.Seconds())
}

func (m *metrics) fetched(issuer, keys string, err error) {
	issuer = hashed(issuer)
	m.fetchTime.WithLabelValues(result(err), issuer, m.server).SetToCurrentTime()
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keySet.DeleteLabelValues(issuer, m.server, m.sets[issuer])
	m.sets[issuer] = hashed(keys)
	m.keySet.WithLabelValues(issuer, m.server, m.sets[issuer]).Set(1)
}

// forget ends the metrics of an issuer that is no longer one.
func (m *metrics) forget(issuer string) {
	issuer = hashed(issuer)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keySet.DeleteLabelValues(issuer, m.server, m.sets[issuer])
	delete(m.sets, issuer)
	for _, r := range []string{"success", "failure"} {
		m.fetchTime.DeleteLabelValues(r, issuer, m.server)
	}
}

// loaded says which file is in force.
func (m *metrics) loaded(data string) {
	m.config.Reset()
	m.config.WithLabelValues(m.server, hashed(data)).Set(1)
}

func (m *metrics) reloaded(data string, old, now map[string]*issuer) {
	for name := range old {
		if now[name] == nil {
			m.forget(name)
		}
	}
	m.loaded(data)
	m.reload("success")
}

func (m *metrics) reloadFailed() { m.reload("failure") }

func (m *metrics) reload(status string) {
	m.reloads.WithLabelValues(status, m.server).Inc()
	m.reloadTime.WithLabelValues(status, m.server).SetToCurrentTime()
}
