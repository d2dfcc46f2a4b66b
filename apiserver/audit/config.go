package audit

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// Config says what is written down and where. Its flags are kube-apiserver's.
type Config struct {
	// PolicyFile is a Policy of audit.k8s.io/v1. Without it, and without a backend, nothing is written down.
	PolicyFile string
	File       File
	Webhook    Webhook
	// Metrics is where events are counted; nil: nowhere.
	Metrics prometheus.Registerer
	// Log is told of events that are lost; nil means slog.Default().
	Log *slog.Logger
}

// File is the backend that writes lines of JSON.
type File struct {
	// Path of the file, or "-" for standard output; empty: there is none.
	Path string
	// A file is rotated when it has MaxSize megabytes. Of the rotated ones those are kept that are younger than MaxAge days, MaxBackups at
	// most; 0 means all.
	MaxAge, MaxBackups, MaxSize int
	Compress                    bool // rotated files, with gzip
	Format                      string
	Version                     string
	Delivery
}

// Webhook is the backend that posts events to a server.
type Webhook struct {
	// ConfigFile is a kubeconfig that names the server; empty: there is none.
	ConfigFile string
	// InitialBackoff is the pause after the first attempt that failed.
	InitialBackoff time.Duration
	Version        string
	Delivery
}

// Delivery is when and in which pieces a backend gets events.
type Delivery struct {
	Mode Mode
	// BufferSize is how many events wait for batches at most. More are dropped.
	BufferSize int
	// A batch is sent when it has MaxBatchSize events, or MaxBatchWait after its first one came.
	MaxBatchSize int
	MaxBatchWait time.Duration
	// ThrottleEnable limits batches to ThrottleQPS a second, after the first ThrottleBurst.
	ThrottleEnable bool
	ThrottleQPS    float32
	ThrottleBurst  int
	// TruncateEnabled leaves the objects out of events with more than TruncateMaxEventSize bytes, and divides batches that have more than
	// TruncateMaxBatchSize.
	TruncateEnabled                            bool
	TruncateMaxEventSize, TruncateMaxBatchSize int64
}

// AddFlags adds the flags of c, and sets their defaults.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.PolicyFile, "audit-policy-file", "", "Policy of audit.k8s.io/v1: what is written to the audit log; nothing if empty")
	f, w := &c.File, &c.Webhook
	flags.StringVar(&f.Path, "audit-log-path", "", "file the audit log is written to, - for standard output")
	flags.IntVar(&f.MaxAge, "audit-log-maxage", 366, "how many days rotated audit logs are kept")
	flags.IntVar(&f.MaxBackups, "audit-log-maxbackup", 100, "how many rotated audit logs are kept; 0: all")
	flags.IntVar(&f.MaxSize, "audit-log-maxsize", 100, "megabytes at which the audit log is rotated")
	flags.BoolVar(&f.Compress, "audit-log-compress", false, "compress rotated audit logs with gzip")
	flags.StringVar(&f.Format, "audit-log-format", "json", "format of the audit log: json")
	flags.StringVar(&f.Version, "audit-log-version", auditv1.SchemeGroupVersion.String(), "version of the events in the audit log")
	f.addFlags(flags, "log", Delivery{Mode: Blocking, BufferSize: 10_000, MaxBatchSize: 1})
	flags.StringVar(&w.ConfigFile, "audit-webhook-config-file", "", "kubeconfig of a server that audit events are sent to")
	flags.DurationVar(&w.InitialBackoff, "audit-webhook-initial-backoff", 10*time.Second, "pause before a batch is sent again that failed")
	flags.StringVar(&w.Version, "audit-webhook-version", auditv1.SchemeGroupVersion.String(), "version of the events sent")
	w.addFlags(flags, "webhook", Delivery{
		Mode: Batch, BufferSize: 10_000, MaxBatchSize: 400, MaxBatchWait: 30 * time.Second, ThrottleEnable: true, ThrottleQPS: 10, ThrottleBurst: 15,
	})
}

func (d *Delivery) addFlags(flags *pflag.FlagSet, backend string, standard Delivery) {
	*d = standard
	name := func(name string) string { return "audit-" + backend + "-" + name }
	flags.Var(&d.Mode, name("mode"), "batch: events are sent later; blocking: before the request goes on; blocking-strict: a request whose coming cannot be written down is refused")
	flags.IntVar(&d.BufferSize, name("batch-buffer-size"), standard.BufferSize, "how many events wait to be sent; more are dropped (batch)")
	flags.IntVar(&d.MaxBatchSize, name("batch-max-size"), standard.MaxBatchSize, "how many events are sent at once (batch)")
	flags.DurationVar(&d.MaxBatchWait, name("batch-max-wait"), standard.MaxBatchWait, "how long events wait for others (batch)")
	flags.BoolVar(&d.ThrottleEnable, name("batch-throttle-enable"), standard.ThrottleEnable, "limit how often batches are sent (batch)")
	flags.Float32Var(&d.ThrottleQPS, name("batch-throttle-qps"), standard.ThrottleQPS, "batches a second (batch)")
	flags.IntVar(&d.ThrottleBurst, name("batch-throttle-burst"), standard.ThrottleBurst, "batches that are not limited at first (batch)")
	flags.BoolVar(&d.TruncateEnabled, name("truncate-enabled"), false, "leave the objects out of events that are too large, and divide batches")
	flags.Int64Var(&d.TruncateMaxBatchSize, name("truncate-max-batch-size"), 10<<20, "bytes of a batch")
	flags.Int64Var(&d.TruncateMaxEventSize, name("truncate-max-event-size"), 100<<10, "bytes of an event")
}

// validate says what is wrong with the configuration of the backends that are used.
func (c *Config) validate() error {
	if f := c.File; f.Path != "" {
		if f.Format != "" && f.Format != "json" {
			return fmt.Errorf("invalid audit log format %s: only json is served", f.Format)
		}
		for name, n := range map[string]int{"maxage": f.MaxAge, "maxbackup": f.MaxBackups, "maxsize": f.MaxSize} {
			if n < 0 {
				return fmt.Errorf("--audit-log-%s %d can't be a negative number", name, n)
			}
		}
		if err := f.Delivery.validate("log", f.Version); err != nil {
			return err
		}
	}
	if c.Webhook.ConfigFile != "" {
		return c.Webhook.Delivery.validate("webhook", c.Webhook.Version)
	}
	return nil
}

func (d Delivery) validate(backend, version string) error {
	if version != "" && version != auditv1.SchemeGroupVersion.String() {
		return fmt.Errorf("invalid audit %s version %s: only %s is served", backend, version, auditv1.SchemeGroupVersion)
	}
	if d.TruncateEnabled && (d.TruncateMaxEventSize <= 0 || d.TruncateMaxBatchSize < d.TruncateMaxEventSize) {
		return fmt.Errorf("invalid audit truncate %s sizes: an event of %d bytes must fit into a batch of %d", backend, d.TruncateMaxEventSize, d.TruncateMaxBatchSize)
	}
	if d.Mode != Batch {
		return nil
	}
	type number struct {
		name  string
		value float32
	}
	numbers := []number{{"buffer size", float32(d.BufferSize)}, {"max batch size", float32(d.MaxBatchSize)}}
	if d.ThrottleEnable {
		numbers = append(numbers, number{"throttle QPS", d.ThrottleQPS}, number{"throttle burst", float32(d.ThrottleBurst)})
	}
	for _, n := range numbers {
		if n.value <= 0 {
			return fmt.Errorf("invalid audit batch %s %s %v, must be a positive number", backend, n.name, n.value)
		}
	}
	return nil
}
