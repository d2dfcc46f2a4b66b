package fairness

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have the names of kube-apiserver's.
type metrics struct {
	rejected, dispatched                            *prometheus.CounterVec
	queued, queuedSeats, executing, executingSeats  *prometheus.GaugeVec
	queueLength, wait, execution, estimated         *prometheus.HistogramVec
	nominal, lower, upper, current, target          *prometheus.GaugeVec
	demandHigh, demandAverage, demandDev, demandLow *prometheus.GaugeVec
	fraction                                        prometheus.Gauge
}

var (
	byLevel  = []string{"priority_level"}
	bySchema = []string{"priority_level", "flow_schema"}
	seconds  = []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}
)

func newMetrics(r prometheus.Registerer) *metrics {
	const namespace, subsystem = "apiserver", "flowcontrol"
	var all []prometheus.Collector
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
		all = append(all, c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		c := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
		all = append(all, c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		c := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets}, labels)
		all = append(all, c)
		return c
	}
	m := &metrics{
		rejected:       counter("rejected_requests_total", "Requests that got no seat, by reason.", append(bySchema, "reason")...),
		dispatched:     counter("dispatched_requests_total", "Requests that got their seats.", bySchema...),
		queued:         gauge("current_inqueue_requests", "Requests that wait.", bySchema...),
		queuedSeats:    gauge("current_inqueue_seats", "Seats of the requests that wait.", bySchema...),
		executing:      gauge("current_executing_requests", "Requests that have seats.", bySchema...),
		executingSeats: gauge("current_executing_seats", "Seats that are taken.", bySchema...),
		queueLength:    histogram("request_queue_length_after_enqueue", "Requests in a queue after one came.", []float64{0, 10, 25, 50, 100, 250, 500, 1000}, bySchema...),
		wait:           histogram("request_wait_duration_seconds", "How long requests waited, and whether they were served then.", seconds, append(bySchema, "execute")...),
		execution:      histogram("request_execution_seconds", "How long requests had their seats.", seconds, bySchema...),
		estimated:      histogram("work_estimated_seats", "Seats of requests.", []float64{1, 2, 4, 8, 10}, bySchema...),
		nominal:        gauge("nominal_limit_seats", "Seats of a level when nobody borrows.", byLevel...),
		lower:          gauge("lower_limit_seats", "Seats that a level keeps.", byLevel...),
		upper:          gauge("upper_limit_seats", "Seats that a level can have.", byLevel...),
		current:        gauge("current_limit_seats", "Seats of a level now.", byLevel...),
		target:         gauge("target_seats", "Seats that a level would use.", byLevel...),
		demandHigh:     gauge("demand_seats_high_watermark", "Most seats that were used and waited for in the last period.", byLevel...),
		demandAverage:  gauge("demand_seats_average", "Average of these seats.", byLevel...),
		demandDev:      gauge("demand_seats_stdev", "Standard deviation of these seats.", byLevel...),
		demandLow:      gauge("demand_seats_smoothed", "These seats, smoothed over periods.", byLevel...),
		fraction:       prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: "seat_fair_frac", Help: "Part of what they would use that levels get."}),
	}
	if r != nil {
		r.MustRegister(append(all, m.fraction)...)
	}
	return m
}

// levelMetrics are those of a level.
type levelMetrics struct {
	nominal, lower, upper, current, target, high, average, deviation, smoothed prometheus.Gauge
}

func (m *metrics) level(name string) levelMetrics {
	return levelMetrics{
		nominal: m.nominal.WithLabelValues(name), lower: m.lower.WithLabelValues(name), upper: m.upper.WithLabelValues(name),
		current: m.current.WithLabelValues(name), target: m.target.WithLabelValues(name), high: m.demandHigh.WithLabelValues(name),
		average: m.demandAverage.WithLabelValues(name), deviation: m.demandDev.WithLabelValues(name), smoothed: m.demandLow.WithLabelValues(name),
	}
}

func (m levelMetrics) limits(b bounds, current int) {
	m.nominal.Set(float64(b.nominal))
	m.lower.Set(float64(b.lower))
	m.upper.Set(float64(b.upper))
	m.current.Set(float64(current))
}

func (m levelMetrics) demanded(s summary, target float64) {
	m.high.Set(s.high)
	m.average.Set(s.average)
	m.deviation.Set(s.deviation)
	m.smoothed.Set(s.smoothed)
	m.target.Set(target)
}

// schemaMetrics are those of a schema at its level.
type schemaMetrics struct {
	vecs           *metrics
	labels         prometheus.Labels
	dispatched     prometheus.Counter
	inQueue        prometheus.Gauge
	inQueueSeats   prometheus.Gauge
	executing      prometheus.Gauge
	executingSeats prometheus.Gauge
	length         prometheus.Observer
	waited, failed prometheus.Observer
	took, seats    prometheus.Observer
}

func (m *metrics) schema(level, schema string) schemaMetrics {
	return schemaMetrics{
		vecs: m, labels: prometheus.Labels{"priority_level": level, "flow_schema": schema},
		dispatched: m.dispatched.WithLabelValues(level, schema),
		inQueue:    m.queued.WithLabelValues(level, schema), inQueueSeats: m.queuedSeats.WithLabelValues(level, schema),
		executing: m.executing.WithLabelValues(level, schema), executingSeats: m.executingSeats.WithLabelValues(level, schema),
		length: m.queueLength.WithLabelValues(level, schema),
		waited: m.wait.WithLabelValues(level, schema, "true"), failed: m.wait.WithLabelValues(level, schema, "false"),
		took: m.execution.WithLabelValues(level, schema), seats: m.estimated.WithLabelValues(level, schema),
	}
}

func (m schemaMetrics) queued(length, seats int) {
	m.length.Observe(float64(length))
	m.inQueue.Inc()
	m.inQueueSeats.Add(float64(seats))
}

func (m schemaMetrics) unqueued(seats int) {
	m.inQueue.Dec()
	m.inQueueSeats.Sub(float64(seats))
}

func (m schemaMetrics) started(waited time.Duration, seats int) {
	m.dispatched.Inc()
	m.waited.Observe(waited.Seconds())
	m.executing.Inc()
	m.executingSeats.Add(float64(seats))
}

func (m schemaMetrics) ended(took time.Duration, seats int) {
	m.took.Observe(took.Seconds())
	m.executing.Dec()
	m.executingSeats.Sub(float64(seats))
}

func (m schemaMetrics) rejected(why string) {
	m.vecs.rejected.WithLabelValues(m.labels["priority_level"], m.labels["flow_schema"], why).Inc()
}

func (m schemaMetrics) gaveUp(why string, waited time.Duration) {
	m.rejected(why)
	m.failed.Observe(waited.Seconds())
}
