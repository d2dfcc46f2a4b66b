// Package controlplane joins an API server with what stands beside it in its process: controllers, scheduler and fake
// nodes. Each reaches the server without a socket, under an identity of its own, and all share one set of informers.
// Package cluster runs a control plane with real nodes, package skifftest one inside a test.
package controlplane

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/fakenodes"
	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/scheduler"
)

// component is whom a part is to the API server, and how it names itself there.
type component struct{ user, agent string }

// The components have the rights that the default roles of Kubernetes give to their users, or those of Rights.
var (
	asControllers = component{user.KubeControllerManager, "skiff/controllers"}
	asScheduler   = component{user.KubeScheduler, "skiff/scheduler"}
	asFakeNodes   = component{"skiff:fake-nodes", "skiff/fake-nodes"}
)

func (c component) info() user.Info {
	return &user.DefaultInfo{Name: c.user, Groups: []string{user.AllAuthenticated}}
}

// Reach is how a component with an identity reaches s in process.
func Reach(s *apiserver.Server, who user.Info, agent string) *rest.Config {
	config := &rest.Config{Host: "https://in-process", Transport: s.ComponentTransport(who), UserAgent: agent}
	Tune(config)
	return config
}

// Tune makes a component speak protobuf and leaves limits to its work queues.
func Tune(config *rest.Config) {
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.QPS = -1
	// A controller cannot do without what the API calls deprecated.
	config.WarningHandler = rest.NoWarnings{}
}

// Config says what runs beside a server.
type Config struct {
	Server *apiserver.Server
	// Controllers is what the controllers work with, without clients and informers, which Run makes; nil: there are none.
	Controllers *controllers.Config
	// WithoutScheduler leaves pods without a node.
	WithoutScheduler bool
	// FakeNodes says which nodes are played. Client and Informers are made by Run. Without a Count there are none.
	FakeNodes fakenodes.Config
	// Log gets what no object tells; nil: nothing is logged.
	Log *slog.Logger
}

// Parts run beside an API server. The zero value is ready for use. It is there before the server is, which asks by Probes
// how the parts are.
type Parts struct{ controllers, scheduler part }

// part is one that runs, or does not.
type part struct{ running atomic.Bool }

func (p *part) run(ctx context.Context, work func(context.Context) error) error {
	p.running.Store(true)
	defer p.running.Store(false)
	return work(ctx)
}

func (p *part) probe(context.Context) error {
	if !p.running.Load() {
		return errors.New("not running")
	}
	return nil
}

// Probes are what apiserver.Options.Components takes.
func (p *Parts) Probes() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"controller-manager": p.controllers.probe, "scheduler": p.scheduler.probe}
}

// Run runs the parts that c has until ctx ends, or one of them does, and leaves no goroutine behind.
func (p *Parts) Run(ctx context.Context, c Config) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	reach := Reach(c.Server, asControllers.info(), asControllers.agent)
	client, err := kubernetes.NewForConfig(reach)
	if err != nil {
		return err
	}
	factory := inprocess.Informers(c.Server, asControllers.info(), asControllers.agent, client)
	work, err := p.make(c, factory)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	ended := make(chan error, len(work))
	for name, run := range work {
		guard.Go(name, func() {
			defer cancel()
			ended <- guard.Call(name, func() error { return run(ctx) })
		})
	}
	<-ctx.Done()
	var errs []error
	for range work {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// make makes the parts of c and registers what they need with factory, which must not have been started.
func (p *Parts) make(c Config, factory informers.SharedInformerFactory) (map[string]func(context.Context) error, error) {
	work := make(map[string]func(context.Context) error)
	if c.Controllers != nil {
		manager, err := newControllers(c, factory)
		if err != nil {
			return nil, err
		}
		work["controllers"] = func(ctx context.Context) error { return p.controllers.run(ctx, manager.Run) }
	}
	if !c.WithoutScheduler {
		client, err := kubernetes.NewForConfig(Reach(c.Server, asScheduler.info(), asScheduler.agent))
		if err != nil {
			return nil, err
		}
		s, err := scheduler.New(scheduler.Config{Client: client, Informers: factory, Log: c.Log.With("component", "scheduler")})
		if err != nil {
			return nil, err
		}
		work["scheduler"] = func(ctx context.Context) error { return p.scheduler.run(ctx, s.Run) }
	}
	if c.FakeNodes.Count > 0 {
		nodes, err := newFakeNodes(c, factory)
		if err != nil {
			return nil, err
		}
		work["fake nodes"] = nodes.Run
	}
	return work, nil
}

func newControllers(c Config, factory informers.SharedInformerFactory) (*controllers.Manager, error) {
	config := *c.Controllers
	config.API = Reach(c.Server, asControllers.info(), asControllers.agent)
	config.Informers = factory
	var err error
	if config.Client, err = kubernetes.NewForConfig(config.API); err != nil {
		return nil, err
	}
	if config.Metadata, err = metadata.NewForConfig(config.API); err != nil {
		return nil, err
	}
	return controllers.New(config)
}

func newFakeNodes(c Config, factory informers.SharedInformerFactory) (*fakenodes.Nodes, error) {
	config := c.FakeNodes
	config.Informers, config.Log = factory, c.Log.With("component", "fake nodes")
	var err error
	if config.Client, err = kubernetes.NewForConfig(Reach(c.Server, asFakeNodes.info(), asFakeNodes.agent)); err != nil {
		return nil, err
	}
	return fakenodes.New(config)
}
