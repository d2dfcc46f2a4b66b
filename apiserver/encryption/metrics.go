package encryption

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The directions, as labels.
const (
	toStorage   = "to_storage"
	fromStorage = "from_storage"
)

// metrics have the names and labels of kube-apiserver's.
type metrics struct {
	server     string // hash of its id
	operations *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	misses     prometheus.Counter
	generated  prometheus.Histogram
	calls      *prometheus.HistogramVec
	keyUses    *prometheus.CounterVec
	keyTimes   *prometheus.GaugeVec
	keyTold    *prometheus.GaugeVec
	badKeys    *prometheus.CounterVec
	sources    *prometheus.GaugeVec
	reloads    *prometheus.CounterVec
	reloadTime *prometheus.GaugeVec
	config     *prometheus.GaugeVec

	mu   sync.Mutex
	uses labels
	tell labels
}

func newMetrics(registry prometheus.Registerer, server string) *metrics {
	const storage, envelope, reload = "apiserver_storage_", "apiserver_envelope_encryption_", "apiserver_encryption_config_controller_"
	m := &metrics{
		server: hashed(server),
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: storage + "transformation_operations_total",
			Help: "Number of values encrypted (to_storage) and decrypted (from_storage), by what they begin with and how it ended."},
			[]string{"resource", "transformation_type", "transformer_prefix", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: storage + "transformation_duration_seconds",
			Help: "Time that it took to encrypt or decrypt a value.", Buckets: prometheus.ExponentialBuckets(5e-6, 2, 25)},
			[]string{"transformation_type", "transformer_prefix"}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{Name: storage + "envelope_transformation_cache_misses_total",
			Help: "Number of times a KMS plugin was asked to decrypt a key."}),
		generated: prometheus.NewHistogram(prometheus.HistogramOpts{Name: storage + "data_key_generation_duration_seconds",
			Help: "Time that it took to make a key for data.", Buckets: prometheus.ExponentialBuckets(5e-6, 2, 14)}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: envelope + "kms_operations_latency_seconds",
			Help: "Time that calls of KMS plugins took.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20)},
			[]string{"provider_name", "method_name", "grpc_status_code"}),
		keyUses: prometheus.NewCounterVec(prometheus.CounterOpts{Name: envelope + "key_id_hash_total", Help: "Number of times a key was used."},
			[]string{"transformation_type", "provider_name", "key_id_hash", "apiserver_id_hash"}),
		keyTimes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: envelope + "key_id_hash_last_timestamp_seconds", Help: "When a key was last used."},
			[]string{"transformation_type", "provider_name", "key_id_hash", "apiserver_id_hash"}),
		keyTold: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: envelope + "key_id_hash_status_last_timestamp_seconds", Help: "When a plugin last said that a key is its key."},
			[]string{"provider_name", "key_id_hash", "apiserver_id_hash"}),
		badKeys: prometheus.NewCounterVec(prometheus.CounterOpts{Name: envelope + "invalid_key_id_from_status_total", Help: "Number of ids of keys that a plugin may not give."},
			[]string{"provider_name", "error"}),
		sources: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: envelope + "dek_source_cache_size",
			Help: "Number of keys for data that are known: after a restart a plugin is asked about as often."}, []string{"provider_name"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: reload + "automatic_reloads_total", Help: "Number of new versions of the configuration, taken or not."},
			[]string{"status", "apiserver_id_hash"}),
		reloadTime: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: reload + "automatic_reload_last_timestamp_seconds", Help: "When a new version of the configuration was last taken or not."},
			[]string{"status", "apiserver_id_hash"}),
		config: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: reload + "last_config_info", Help: "Always 1; its labels say which configuration is in force."},
			[]string{"apiserver_id_hash", "hash"}),
	}
	m.uses.forget = func(labels []string) {
		m.keyUses.DeleteLabelValues(labels...)
		m.keyTimes.DeleteLabelValues(labels...)
	}
	m.tell.forget = func(labels []string) { m.keyTold.DeleteLabelValues(labels...) }
	if registry != nil {
		failures := prometheus.NewCounter(prometheus.CounterOpts{Name: storage + "data_key_generation_failures_total",
			Help: "Always 0: randomness does not fail."})
		registry.MustRegister(m.operations, m.seconds, m.misses, m.generated, failures, m.calls, m.keyUses, m.keyTimes, m.keyTold, m.badKeys,
			m.sources, m.reloads, m.reloadTime, m.config)
	}
	return m
}

// transformed counts a value.
func (m *metrics) transformed(r schema.GroupResource, direction, prefix string, took time.Duration, err error) {
	m.operations.WithLabelValues(r.String(), direction, prefix, statusOf(err)).Inc()
	if err == nil {
		m.seconds.WithLabelValues(direction, prefix).Observe(took.Seconds())
	}
}

// called counts a call of a plugin.
func (m *metrics) called(name, method string, took time.Duration, err error) {
	m.calls.WithLabelValues(name, method, statusOf(err)).Observe(took.Seconds())
}

// used counts the use of a plugin's key.
func (m *metrics) used(direction, name, keyID string) {
	labels := []string{direction, name, hashed(keyID), m.server}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uses.add(labels)
	m.keyUses.WithLabelValues(labels...).Inc()
	m.keyTimes.WithLabelValues(labels...).SetToCurrentTime()
}

// told notes that a plugin said which key it has.
func (m *metrics) told(name, keyID string) {
	labels := []string{name, hashed(keyID), m.server}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell.add(labels)
	m.keyTold.WithLabelValues(labels...).SetToCurrentTime()
}

// misnamed counts an id that a key may not have.
func (m *metrics) misnamed(name, keyID string) {
	problem := "too_long"
	if keyID == "" {
		problem = "empty"
	}
	m.badKeys.WithLabelValues(name, problem).Inc()
}

// loaded says which file is in force.
func (m *metrics) loaded(hash string) {
	m.config.Reset()
	m.config.WithLabelValues(m.server, hash).Set(1)
}

func (m *metrics) reloaded(hash string) {
	m.loaded(hash)
	m.reload("success")
}

func (m *metrics) reloadFailed() { m.reload("failure") }

func (m *metrics) reload(status string) {
	m.reloads.WithLabelValues(status, m.server).Inc()
	m.reloadTime.WithLabelValues(status, m.server).SetToCurrentTime()
}

// hashed is the form in which ids are told.
func hashed(id string) string {
	if id == "" {
		return ""
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(id)))
}

func statusOf(err error) string {
	var of interface{ GRPCStatus() *status.Status }
	switch {
	case err == nil:
		return codes.OK.String()
	case errors.As(err, &of):
		return of.GRPCStatus().Code().String()
	}
	return "unknown-non-grpc"
}

// maxKeys is how many keys have metrics.
const maxKeys = 100

// labels are the sets of labels in use that have a key in them, oldest first.
// Those that are too many are forgotten.
type labels struct {
	sets   [][]string
	forget func([]string)
}

func (l *labels) add(set []string) {
	for i := len(l.sets) - 1; i >= 0; i-- {
		if slices.Equal(l.sets[i], set) {
			l.sets = append(slices.Delete(l.sets, i, i+1), set)
			return
		}
	}
	l.sets = append(l.sets, set)
	if len(l.sets) > maxKeys {
		l.forget(l.sets[0])
		l.sets = l.sets[1:]
	}
}
