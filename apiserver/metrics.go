package apiserver

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/version"
)

// metrics are named and labelled as those of kube-apiserver, so that the
// dashboards and alerts people have go on to work.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	sli      *prometheus.HistogramVec
	sizes    *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
	long     *prometheus.GaugeVec
	drops    *prometheus.CounterVec
	served   func(*request.Info) bool

	mu    sync.RWMutex
	known map[seriesKey]*series
}

var requestLabels = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}

// withLabels are requestLabels and more.
func withLabels(more ...string) []string { return append(slices.Clone(requestLabels), more...) }

// newMetrics counts in registry. served reports whether a request names what
// this server has.
func newMetrics(registry prometheus.Registerer, served func(*request.Info) bool) *metrics {
	m := &metrics{
		served: served, known: make(map[seriesKey]*series),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code."},
			withLabels("code", "dry_run")),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}}, withLabels("dry_run")),
		sli: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_sli_duration_seconds",
			Help:    "Response latency in seconds of requests that are no dry runs, without the time that others took.",
			Buckets: []float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}}, requestLabels),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_response_sizes",
			Help: "Size in bytes of answers to gets and lists.", Buckets: prometheus.ExponentialBuckets(1000, 10, 7)}, requestLabels),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
			Help: "Number of requests being served now, per kind."}, []string{"request_kind"}),
		long: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
			Help: "Number of long-running requests being served now."}, requestLabels),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_dropped_requests_total",
			Help: "Number of requests answered with 429."}, []string{"request_kind"}),
	}
	if registry != nil {
		registry.MustRegister(m.requests, m.seconds, m.sli, m.sizes, m.inflight, m.long, m.drops, buildInfo())
	}
	return m
}

func (m *metrics) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, out := time.Now(), &response{ResponseWriter: w}
		next.ServeHTTP(out, r)
		info := request.From(r.Context())
		m.series(seriesKey{m.labels(info), out.code, dryRunLabel(r.URL), info.IsLongRunning(r)}).count(time.Since(began), out.bytes)
	})
}

// labelValues are those of requestLabels but for the component.
type labelValues struct{ verb, group, version, resource, subresource, scope string }

func (l labelValues) values() []string {
	return []string{l.verb, l.group, l.version, l.resource, l.subresource, l.scope, "apiserver"}
}

// series are what a request is counted in; nil where it is not.
type series struct {
	requests            prometheus.Counter
	seconds, sli, sizes prometheus.Observer
}

// seriesKey is what requests that are counted in the same have in common.
type seriesKey struct {
	labelValues
	code   int
	dryRun string
	long   bool // it is long-running
}

func (s *series) count(took time.Duration, bytes int64) {
	s.requests.Inc()
	for _, c := range []struct {
		in    prometheus.Observer
		value float64
	}{{s.seconds, took.Seconds()}, {s.sli, took.Seconds()}, {s.sizes, float64(bytes)}} {
		if c.in != nil {
			c.in.Observe(c.value)
		}
	}
}

// series finds what requests of some labels are counted in. It is remembered: to find it by its labels costs more than to
// count. There are as many as the metrics have series.
func (m *metrics) series(key seriesKey) *series {
	m.mu.RLock()
	known := m.known[key]
	m.mu.RUnlock()
	if known != nil {
		return known
	}
	values := key.values()
	made := &series{requests: m.requests.WithLabelValues(append(slices.Clone(values), strconv.Itoa(key.code), key.dryRun)...)}
	if !key.long {
		made.seconds = m.seconds.WithLabelValues(append(slices.Clone(values), key.dryRun)...)
		if key.dryRun == "" {
			made.sli = m.sli.WithLabelValues(values...)
		}
		if key.verb == "GET" || key.verb == "LIST" {
			made.sizes = m.sizes.WithLabelValues(values...)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[key] = made
	return made
}

// dryRunLabel has three values, whatever a client writes.
func dryRunLabel(u *url.URL) string {
	if !strings.Contains(u.RawQuery, "dryRun") {
		return ""
	}
	stages := u.Query()["dryRun"]
	if slices.ContainsFunc(stages, func(s string) bool { return s != metav1.DryRunAll }) {
		return "invalid"
	}
	if len(stages) == 0 {
		return ""
	}
	return metav1.DryRunAll
}

// buildInfo is the document of /version as a metric.
func buildInfo() prometheus.Collector {
	v := version.Info()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubernetes_build_info", Help: "Always 1; its labels say which build this is."},
		[]string{"major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform"})
	info.WithLabelValues(v.Major, v.Minor, v.GitVersion, v.GitCommit, v.GitTreeState, v.BuildDate, v.GoVersion, v.Compiler, v.Platform).Set(1)
	return info
}

// labels are those of a request. All that is not served shares one
// value: anybody can invent paths and methods, and each value stays in memory.
func (m *metrics) labels(info *request.Info) labelValues {
	if !m.served(info) {
		return labelValues{verb: metricMethod(info.Verb)}
	}
	scope := "cluster"
	switch {
	case info.Name != "" && info.Verb != "list" && info.Verb != "watch":
		scope = "resource"
	case info.Namespace != "":
		scope = "namespace"
	}
	return labelValues{metricVerb(info.Verb), info.Group, info.Version, info.Resource, info.Subresource, scope}
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
	g := m.long.WithLabelValues(m.labels(info).values()...)
	g.Inc()
	return g.Dec
}

func (m *metrics) serving(kind string) func() {
	g := m.inflight.WithLabelValues(kind)
	g.Inc()
	return g.Dec
}

func (m *metrics) dropped(kind string) { m.drops.WithLabelValues(kind).Inc() }

// attempts counts something that is allowed or denied in a mode, and how long that took to find out.
type attempts struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newAttempts(name, what string, registry prometheus.Registerer) attempts {
	labels := []string{"mode", "decision"}
	a := attempts{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_impersonation_" + name + "_total",
			Help: "Total number of " + what + " split by mode and decision."}, labels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_impersonation_" + name + "_duration_seconds",
			Help: "Latency of " + what + " in seconds split by mode and decision.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, labels),
	}
	if registry != nil {
		registry.MustRegister(a.total, a.seconds)
	}
	return a
}

func (a attempts) count(mode string, allowed bool, began time.Time) {
	decision := "denied"
	if allowed {
		decision = "allowed"
	}
	a.total.WithLabelValues(mode, decision).Inc()
	a.seconds.WithLabelValues(mode, decision).Observe(time.Since(began).Seconds())
}
