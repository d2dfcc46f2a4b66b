package apiserver

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-k8s/skiff/apiserver/request"
)

// metrics are named and labelled as those of kube-apiserver, so that the
// dashboards and alerts people have go on to work.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
	long     *prometheus.GaugeVec
	drops    *prometheus.CounterVec
	served   func(*request.Info) bool
}

var requestLabels = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}

// newMetrics counts in registry. served reports whether a request names what
// this server has.
func newMetrics(registry prometheus.Registerer, served func(*request.Info) bool) *metrics {
	m := &metrics{
		served: served,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code."},
			append(requestLabels[:len(requestLabels):len(requestLabels)], "code")),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}}, requestLabels),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
			Help: "Number of requests being served now, per kind."}, []string{"request_kind"}),
		long: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
			Help: "Number of long-running requests being served now."}, requestLabels),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_dropped_requests_total",
			Help: "Number of requests answered with 429."}, []string{"request_kind"}),
	}
	if registry != nil {
		registry.MustRegister(m.requests, m.seconds, m.inflight, m.long, m.drops)
	}
	return m
}

func (m *metrics) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, out := time.Now(), &response{ResponseWriter: w}
		next.ServeHTTP(out, r)
		info := request.From(r.Context())
		values := m.labelValues(info)
		m.requests.WithLabelValues(append(values, strconv.Itoa(out.code))...).Inc()
		if !info.IsLongRunning(r) {
			m.seconds.WithLabelValues(values...).Observe(time.Since(began).Seconds())
		}
	})
}

// labelValues are those of requestLabels. All that is not served shares one
// value: anybody can invent paths and methods, and each value stays in memory.
func (m *metrics) labelValues(info *request.Info) []string {
	if !m.served(info) {
		return []string{metricMethod(info.Verb), "", "", "", "", "", "apiserver"}
	}
	scope := "cluster"
	switch {
	case info.Name != "" && info.Verb != "list" && info.Verb != "watch":
		scope = "resource"
	case info.Namespace != "":
		scope = "namespace"
	}
	return []string{metricVerb(info.Verb), info.Group, info.Version, info.Resource, info.Subresource, scope, "apiserver"}
}

func metricMethod(verb string) string {
	verb = metricVerb(verb)
	if !slices.Contains([]string{"GET", "LIST", "WATCH", "PROXY", "POST", "PUT", "PATCH", "DELETE", "DELETECOLLECTION", "HEAD", "OPTIONS", "CONNECT"}, verb) {
		return "OTHER"
	}
	return verb
}

func metricVerb(verb string) string {
	switch verb {
	case "create":
		return "POST"
	case "update":
		return "PUT"
	}
	return strings.ToUpper(verb)
}

// running and serving count a request until what they return is called.
func (m *metrics) running(info *request.Info) func() {
	g := m.long.WithLabelValues(m.labelValues(info)...)
	g.Inc()
	return g.Dec
}

func (m *metrics) serving(kind string) func() {
	g := m.inflight.WithLabelValues(kind)
	g.Inc()
	return g.Dec
}

func (m *metrics) dropped(kind string) { m.drops.WithLabelValues(kind).Inc() }
