package health

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// results are what checks found, by the names and labels that service level objectives are written with.
type results struct {
	registry *prometheus.Registry
	last     *prometheus.GaugeVec
	total    *prometheus.CounterVec
}

func newResults() *results {
	r := &results{
		registry: prometheus.NewRegistry(),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubernetes_healthcheck",
			Help: "What a health check found when it was last run: 1 if all was well, else 0."}, []string{"name", "type"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubernetes_healthchecks_total",
			Help: "Number of times a health check was run, by what it found."}, []string{"name", "type", "status"}),
	}
	r.registry.MustRegister(r.last, r.total)
	return r
}

func (r *results) handler() http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{})
}

func (r *results) note(set, check string, ok bool) {
	value, status := 0.0, "error"
	if ok {
		value, status = 1, "success"
	}
	r.last.WithLabelValues(check, set).Set(value)
	r.total.WithLabelValues(check, set, status).Inc()
}
