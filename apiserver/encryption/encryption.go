// Package encryption encrypts objects before they are stored, as the
// EncryptionConfiguration of Kubernetes says, and in the same form: what
// kube-apiserver wrote with a file is read here with it, and the other way
// round.
//
// A file says which providers a resource has. The first one writes, all read.
// Keys are in the file itself (aescbc, aesgcm, secretbox), or with a plugin that
// answers on a socket (KMS v2): it encrypts a seed, from which the server
// derives a key for each write, and is not asked for each object.
package encryption

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/guard"
)

// Config of Open. File is required.
type Config struct {
	// File is an EncryptionConfiguration.
	File string
	// Reload takes a new version of the file while the server runs.
	Reload bool
	// ServerID tells the servers of a cluster apart in metrics.
	ServerID string
	// Metrics is where is counted; nil: nowhere.
	Metrics prometheus.Registerer
	// Log gets what operators need to know; nil means slog.Default().
	Log *slog.Logger
	// Times are how often and how long.
	Times Times
}

// AddFlags adds the flags of c, which are kube-apiserver's.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.File, "encryption-provider-config", "", "EncryptionConfiguration: how objects are encrypted in the storage; they are not if empty")
	flags.BoolVar(&c.Reload, "encryption-provider-config-automatic-reload", false, "take new versions of that file while running")
}

// Times have the values of Kubernetes where they are zero.
type Times struct {
	// Look is the time between looks at the file: a minute.
	Look time.Duration
	// Poll is the time between questions to a plugin that is well: a minute. One
	// that is not is asked every Retry: 10 seconds.
	Poll, Retry time.Duration
	// Trust is how long a seed writes after the plugin last said that its key
	// still holds: three minutes.
	Trust time.Duration
	// Well and Ill are how long an answer of a plugin about its health holds: 20
	// and 3 seconds. For as long as Ill it is not asked again what it did not
	// answer.
	Well, Ill time.Duration
	// Settle is how long the plugins of a new file may take to be well, at least:
	// 10 seconds.
	Settle time.Duration
}

func (t Times) withDefaults() Times {
	return Times{
		Look: cmp.Or(t.Look, time.Minute), Poll: cmp.Or(t.Poll, time.Minute), Retry: cmp.Or(t.Retry, 10*time.Second),
		Trust: cmp.Or(t.Trust, 3*time.Minute), Well: cmp.Or(t.Well, 20*time.Second), Ill: cmp.Or(t.Ill, 3*time.Second),
		Settle: cmp.Or(t.Settle, 10*time.Second),
	}
}

// Encryption is what the file says, always in its last good version. Its methods
// may be called concurrently.
type Encryption struct {
	config  Config
	metrics *metrics
	now     atomic.Pointer[version]
	changed notice
}

// Open reads the file, and asks the plugins once; those that do not answer are
// asked again by Run. Close or Run must be called.
func Open(ctx context.Context, c Config) (*Encryption, error) {
	c.Times = c.Times.withDefaults()
	if c.Log == nil {
		c.Log = slog.Default()
	}
	e := &Encryption{config: c, metrics: newMetrics(c.Metrics, c.ServerID)}
	v, err := e.open(c.File)
	if err != nil {
		return nil, err
	}
	e.now.Store(v)
	e.metrics.loaded(v.hash)
	for _, p := range v.plugins {
		if err := p.check(ctx); err != nil {
			c.Log.ErrorContext(ctx, "KMS plugin is not well; what it has keys for can neither be read nor written", "name", p.name, "error", err)
		}
	}
	return e, nil
}

// Close lets go of the plugins. It is for who does not call Run.
func (e *Encryption) Close() { e.now.Load().close() }

// Run keeps the keys of plugins up to date, and follows the file if that was
// asked for, until ctx ends.
func (e *Encryption) Run(ctx context.Context) error {
	var running guard.Group
	defer running.Wait()
	e.now.Load().run(ctx, &running)
	if !e.config.Reload {
		<-ctx.Done()
		return ctx.Err()
	}
	return e.follow(ctx, &running)
}

// Encrypt makes what is to be stored of an object under key.
func (e *Encryption) Encrypt(ctx context.Context, r schema.GroupResource, key string, value []byte) ([]byte, error) {
	return e.now.Load().rules.of(r).encrypt(ctx, place{r, key}, nil, value)
}

// Decrypt is the opposite. stale says that the object should be written anew,
// as another key writes now than the one it was written by.
func (e *Encryption) Decrypt(ctx context.Context, r schema.GroupResource, key string, stored []byte) (value []byte, stale bool, err error) {
	return e.now.Load().rules.of(r).decrypt(ctx, place{r, key}, stored)
}

// Changed is closed when keys are there that were not before the call.
func (e *Encryption) Changed() <-chan struct{} { return e.changed.wait() }

// HealthName is what the check of the plugins is called.
const HealthName = "kms-providers"

// HasHealth reports whether there are plugins whose health is to be told, or
// may be later.
func (e *Encryption) HasHealth() bool { return e.config.Reload || len(e.now.Load().plugins) > 0 }

// Check says which plugins are not well.
func (e *Encryption) Check(ctx context.Context) error { return e.now.Load().check(ctx) }

// version is a file that was read. It works from when it was opened to when it
// is closed.
type version struct {
	rules   rules
	plugins []*plugin
	hash    string
	end     context.CancelFunc // of what run started; nil before
}

// open makes the file that is at path work.
func (e *Encryption) open(path string) (*version, error) {
	file, hash, err := load(path, e.config.Reload)
	if err != nil {
		return nil, fmt.Errorf("error while parsing file: %w", err)
	}
	v := &version{hash: hash}
	if v.rules, err = e.rules(file, v); err != nil {
		v.close()
		return nil, fmt.Errorf("error while building transformers: %w", err)
	}
	return v, nil
}

// run keeps the plugins of v up to date until ctx ends or v is closed.
func (v *version) run(ctx context.Context, running *guard.Group) {
	ctx, v.end = context.WithCancel(ctx)
	for _, p := range v.plugins {
		running.Go("KMS plugin "+p.name, func() {
			_ = guard.Keep(ctx, "KMS plugin "+p.name, p.follow) // the error of ctx
			p.close()
		})
	}
}

// close is called once, when nobody uses v any more.
func (v *version) close() {
	if v.end != nil {
		v.end() // run closes the plugins
		return
	}
	for _, p := range v.plugins {
		p.close()
	}
}

// grace is how long whoever uses v may still be at it.
func (v *version) grace() (sum time.Duration) {
	for _, p := range v.plugins {
		sum += 2 * p.timeout
	}
	return sum
}

func (v *version) check(ctx context.Context) error {
	var problems []error
	for i, p := range v.plugins {
		if err := p.check(ctx); err != nil {
			problems = append(problems, fmt.Errorf("kms-provider-%d: %w", i, err))
		}
	}
	return joined(problems)
}

// notice tells any number of waiters that something has happened.
type notice struct {
	mu sync.Mutex
	c  chan struct{}
}

func (n *notice) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil {
		n.c = make(chan struct{})
	}
	return n.c
}

func (n *notice) give() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c != nil {
		close(n.c)
		n.c = nil
	}
}
