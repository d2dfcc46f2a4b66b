package skifftest

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/fakenodes"
)

// Engine is a storage engine that can be filled.
type Engine interface {
	backend.Backend
	backend.Loader
}

// Option says how a cluster differs from what Start makes without options.
type Option func(*options)

type options struct {
	controllers, scheduler bool
	nodes                  int
	behave                 func(*corev1.Pod) Behaviour
	open                   func() (Engine, error)
	enable, disable        []string
	gates                  map[string]bool
}

func with(opts []Option) options {
	o := options{controllers: true, scheduler: true, nodes: 1, open: func() (Engine, error) { return memory.New(), nil }}
	for _, change := range opts {
		change(&o)
	}
	return o
}

// WithoutControllers leaves out all controllers: nothing is collected, no namespace ends, as with envtest. Pods need a
// ServiceAccount that the test makes, or WithoutAdmission("ServiceAccount").
func WithoutControllers() Option { return func(o *options) { o.controllers = false } }

// Whole has all controllers, the scheduler and a node run, and admission be as it is for users: what Start makes without
// options, for those who have some to begin with.
func Whole() Option { return func(o *options) { *o = with(nil) } }

// WithoutScheduler leaves pods without a node.
func WithoutScheduler() Option { return func(o *options) { o.scheduler = false } }

// Nodes is how many nodes there are: fake-node-1, fake-node-2, …; without this option there is one.
func Nodes(count int) Option { return func(o *options) { o.nodes = count } }

// Behaviour is how the containers of a pod behave, which are never run. The zero value is that of a pod that is ready as
// soon as it has a node. Annotations of the pod (fake.skiff.dev/start-after, …/run-for, …/exit-code, …/ready) count for
// more.
type Behaviour = fakenodes.Behaviour

// Pods says how pods behave. It is asked again whenever a pod changes, and must not change it.
func Pods(behave func(*corev1.Pod) Behaviour) Option { return func(o *options) { o.behave = behave } }

// Storage has another engine keep the objects than the one in memory. open returns an empty one; it is called at the start
// and for each Restore. The cluster closes it.
func Storage(open func() (Engine, error)) Option { return func(o *options) { o.open = open } }

// WithAdmission turns admission plugins on that are off unless somebody asks for them.
func WithAdmission(plugins ...string) Option {
	return func(o *options) { o.enable = append(o.enable, plugins...) }
}

// WithoutAdmission turns admission plugins off.
func WithoutAdmission(plugins ...string) Option {
	return func(o *options) { o.disable = append(o.disable, plugins...) }
}

// WithFeatureGates turns feature gates of Kubernetes on and off, as --feature-gates does. Start fails with those that Kubernetes
// does not have, and with those that Skiff would not act on.
func WithFeatureGates(gates map[string]bool) Option {
	return func(o *options) {
		all := make(map[string]bool)
		maps.Copy(all, o.gates)
		maps.Copy(all, gates)
		o.gates = all
	}
}

// startLimit is how long a cluster may take to start, which is much more than it needs.
const startLimit = time.Minute
