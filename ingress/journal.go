package ingress

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-k8s/skiff/ingress/route"
)

// journal counts requests and writes the access log.
type journal struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	changes  prometheus.Histogram

	mu  sync.Mutex
	log io.Writer // nil: none
}

func newJournal(log io.Writer) *journal {
	j := &journal{
		log:      log,
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skiff_ingress_requests_total", Help: "Requests that were answered, by Ingress and code.",
		}, []string{"namespace", "ingress", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "skiff_ingress_request_duration_seconds", Help: "Time until the whole answer was written.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 60},
		}, []string{"namespace", "ingress"}),
		changes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "skiff_ingress_change_duration_seconds", Help: "Time from the first of some changes that came together until they were in effect.",
			Buckets: []float64{.005, .01, .02, .05, .1, .2, .5, 1, 5},
		}),
	}
	j.registry.MustRegister(j.requests, j.duration, j.changes)
	return j
}

// forget drops the figures of an Ingress that is gone.
func (j *journal) forget(key route.Key) {
	labels := prometheus.Labels{"namespace": key.Namespace, "ingress": key.Name}
	j.requests.DeletePartialMatch(labels)
	j.duration.DeletePartialMatch(labels)
}

// entry is one request, and the ResponseWriter that learns what was answered.
type entry struct {
	http.ResponseWriter
	journal  *journal
	request  *http.Request
	begun    time.Time
	location *route.Location
	code     int
	bytes    int64
}

func (j *journal) begin(w http.ResponseWriter, r *http.Request) *entry {
	return &entry{ResponseWriter: w, journal: j, request: r, begun: time.Now()}
}

// Unwrap lets http.ResponseController find what the connection can do.
func (e *entry) Unwrap() http.ResponseWriter { return e.ResponseWriter }

func (e *entry) WriteHeader(code int) {
	if e.code < 200 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		e.code = code
	}
	e.ResponseWriter.WriteHeader(code)
}

func (e *entry) Write(p []byte) (int, error) {
	if e.code == 0 {
		e.code = http.StatusOK
	}
	n, err := e.ResponseWriter.Write(p)
	e.bytes += int64(n)
	return n, err
}

// statusGone is what nginx calls a client that did not wait for its answer.
const statusGone = 499

func (e *entry) end() {
	if e.code == 0 {
		e.code = http.StatusOK
		if e.request.Context().Err() != nil {
			e.code = statusGone
		}
	}
	var key route.Key
	if e.location != nil {
		key = e.location.Ingress
	}
	took := time.Since(e.begun)
	e.journal.requests.WithLabelValues(key.Namespace, key.Name, strconv.Itoa(e.code)).Inc()
	e.journal.duration.WithLabelValues(key.Namespace, key.Name).Observe(took.Seconds())
	e.journal.write(e, key, took)
}

// write adds a line in the format that nginx calls combined, with host, Ingress and seconds after it.
func (j *journal) write(e *entry, key route.Key, took time.Duration) {
	if j.log == nil {
		return
	}
	r := e.request
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	line := fmt.Sprintf("%s - - [%s] %q %d %d %q %q %q %s %.3f\n", client, e.begun.Format("02/Jan/2006:15:04:05 -0700"),
		r.Method+" "+r.RequestURI+" "+r.Proto, e.code, e.bytes, r.Referer(), r.UserAgent(), r.Host, ingressName(key), took.Seconds())
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = io.WriteString(j.log, line)
}

func ingressName(key route.Key) string {
	if key.Name == "" {
		return "-"
	}
	return key.String()
}
