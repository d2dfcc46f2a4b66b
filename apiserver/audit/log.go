// Package audit writes down who asked the API server for what, and what became of it, as a policy of audit.k8s.io/v1 says.
//
// A request has a Record from when its user is known. At some stages the Record becomes an event, which goes to the backends: a log of
// lines of JSON, a webhook, or both. A backend that is batched is told later and never delays a request; when it is slower than the
// requests, events are dropped and counted. One that blocks is told before the request goes on, and one that blocks strictly refuses
// requests whose coming it cannot write down.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// Log is where events go. A nil Log has nothing written down.
type Log struct {
	policy   *policy
	backends []*backend
	metrics  *metrics
	logger   *slog.Logger
}

// Open makes the Log of a configuration: nil if it has no policy or no backend. It must be closed.
func Open(c Config) (*Log, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.PolicyFile == "" || c.File.Path == "" && c.Webhook.ConfigFile == "" {
		return nil, nil
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	rules, err := readPolicy(c.PolicyFile, func(err error) { c.Log.Warn("the audit policy has mistakes that are ignored", "error", err) })
	if err != nil {
		return nil, err
	}
	l := &Log{policy: rules, metrics: newMetrics(c.Metrics), logger: c.Log}
	if c.File.Path != "" {
		f, err := openFile(c.File)
		if err != nil {
			return nil, err
		}
		l.backends = append(l.backends, newBackend("log", f, c.File.Delivery, l.failed))
	}
	if c.Webhook.ConfigFile != "" {
		w, err := newWebhook(c.Webhook)
		if err != nil {
			return nil, errors.Join(err, l.Close(context.Background()))
		}
		l.backends = append(l.backends, newBackend("webhook", w, c.Webhook.Delivery, l.failed))
	}
	return l, nil
}

// Close writes what is waiting to be written, until ctx ends.
func (l *Log) Close(ctx context.Context) error {
	if l == nil {
		return nil
	}
	var errs []error
	for _, b := range l.backends {
		errs = append(errs, b.close(ctx))
	}
	return errors.Join(errs...)
}

// write gives an event, which is not changed any more, to the backends. It reports whether all have it that must.
func (l *Log) write(e *auditv1.Event) bool {
	l.metrics.events.Inc()
	i, ok := &item{event: e}, true
	for _, b := range l.backends {
		ok = b.take(i) && ok
	}
	return ok
}

// failed tells that events did not reach a backend.
func (l *Log) failed(plugin string, events int, err error) {
	l.metrics.errors.WithLabelValues(plugin).Add(float64(events))
	l.logger.Error("audit events are lost", "plugin", plugin, "events", events, "error", err)
}

// item is an event on its way to the backends, encoded when the first of them needs it.
type item struct {
	event *auditv1.Event

	once sync.Once
	data []byte // without kind and apiVersion
	err  error
}

func (i *item) json() ([]byte, error) {
	i.once.Do(func() { i.data, i.err = json.Marshal(i.event) })
	return i.data, i.err
}

// truncated is the annotation of events that were too large.
const truncated = "audit.k8s.io/truncated"

var errTooLarge = errors.New("event is too large even after truncating")

// within is the item if it has at most so many bytes, else the item without the objects.
func (i *item) within(most int64) (*item, error) {
	data, err := i.json()
	if err != nil || int64(len(data)) <= most {
		return i, err
	}
	e := *i.event
	e.RequestObject, e.ResponseObject = nil, nil
	if e.Annotations = maps.Clone(e.Annotations); e.Annotations == nil {
		e.Annotations = make(map[string]string)
	}
	e.Annotations[truncated] = "true"
	less := &item{event: &e}
	if data, err = less.json(); err == nil && int64(len(data)) > most {
		err = errTooLarge
	}
	return less, err
}

// metrics have the names of kube-apiserver's.
type metrics struct {
	events, rejected prometheus.Counter
	errors, levels   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	name := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "apiserver", Subsystem: "audit", Name: name, Help: help}
	}
	m := &metrics{
		events:   prometheus.NewCounter(name("event_total", "Events that were given to the backends.")),
		rejected: prometheus.NewCounter(name("requests_rejected_total", "Requests that were refused because their coming could not be written down.")),
		errors:   prometheus.NewCounterVec(name("error_total", "Events that were lost, by the plugin that lost them."), []string{"plugin"}),
		levels:   prometheus.NewCounterVec(name("level_total", "Requests by the level the policy gives them."), []string{"level"}),
	}
	if r != nil {
		r.MustRegister(m.events, m.rejected, m.errors, m.levels)
	}
	return m
}

// Mode is when a backend is told.
type Mode string

// The modes, as kube-apiserver has them.
const (
	Batch          Mode = "batch"
	Blocking       Mode = "blocking"
	BlockingStrict Mode = "blocking-strict"
)

var modes = []Mode{Batch, Blocking, BlockingStrict}

func (m *Mode) Set(s string) error {
	if !slices.Contains(modes, Mode(s)) {
		return fmt.Errorf("must be one of %q", modes)
	}
	*m = Mode(s)
	return nil
}

func (m *Mode) String() string { return string(*m) }

// Type is what the help of a flag says.
func (m *Mode) Type() string { return "mode" }
