package skifftest

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/dynamic"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/features"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controlplane"
	"github.com/skiff-k8s/skiff/fakenodes"
	"github.com/skiff-k8s/skiff/family"
)

// life is an API server over a backend, with what stands beside it, from its start to its end. A cluster that is
// restored has several, one after the other.
type life struct {
	backend Engine
	server  *apiserver.Server
	stop    context.CancelFunc // of the server's watches, and of what serves
	cancel  context.CancelFunc // of the parts
	parts   chan error         // has what became of the parts when they have ended
	serving sync.WaitGroup
	serve   func(net.Listener, *tls.Config) // until stop is called
}

// A day of a cluster in a bubble of testing/synctest takes as much time as what happens in it by the clock alone.
const (
	seldom = 60
	// renewEvery is half of the time after which a node is lost, so that one that is late is not.
	renewEvery = 25 * time.Second
)

// advertise is an address of documentation: nothing is there.
var advertise = netip.MustParseAddrPort("192.0.2.1:6443")

// pods is the range of the addresses of pods.
const pods = "10.244.0.0/16"

// begin opens the cluster with a server over b, which it closes if that fails. fresh is said of a b that is empty.
func (c *Cluster) begin(b Engine, fresh bool) error {
	var beside controlplane.Parts
	log := slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelError}))
	l, err := c.options.serve(b, beside.Probes(), log)
	if err != nil {
		return errors.Join(err, b.Close())
	}
	if fresh {
		if err := rights(context.Background(), l.server); err != nil {
			return errors.Join(err, l.end(), b.Close())
		}
	}
	config := c.options.beside()
	config.Server, config.Log = l.server, log
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go func() {
		err := beside.Run(ctx, config)
		if ctx.Err() == nil { // they have ended by themselves: without them nothing goes on
			log.Error("what runs beside the API server has ended", "error", err)
			l.stop()
		}
		l.parts <- err
	}()
	c.open(l)
	return nil
}

// serve starts a server over b.
func (o options) serve(b Engine, probes map[string]func(context.Context) error, log *slog.Logger) (*life, error) {
	keys := apiservertest.Authority()
	ctx, stop := context.WithCancel(context.Background())
	server, err := apiserver.Standard(ctx, apiserver.Options{
		Backend: b, ClientCA: keys.Certificate, ServiceAccountKey: keys.Key, Advertise: advertise,
		Settings: apiserver.Settings{Admission: admission.Choice{Enable: o.enable, Disable: o.disable}, Features: features.OfGates(o.gates)}, Components: probes, Log: log, Seldom: seldom,
	})
	if err != nil {
		stop()
		return nil, err
	}
	l := &life{backend: b, server: server, stop: stop, parts: make(chan error, 1)}
	l.serve = func(listener net.Listener, config *tls.Config) {
		l.serving.Go(func() {
			_ = server.Serve(ctx, listener, config) // it fails if somebody else closes the listener
		})
	}
	return l, nil
}

// beside is what runs beside the server.
func (o options) beside() controlplane.Config {
	c := controlplane.Config{WithoutScheduler: !o.scheduler, FakeNodes: fakenodes.Config{Count: o.nodes, Behave: o.behave, RenewEvery: renewEvery}}
	if keys := apiservertest.Authority(); o.controllers {
		c.Controllers = &controllers.Config{
			RootCA: keys.Certificate, ServiceAccountKey: keys.Key, SigningCA: keys.Certificate, SigningKey: keys.Key,
			PodCIDRs: family.MustParse(pods), NodeVolumes: volumes{}, DiscoveryPeriod: seldom * 10 * time.Minute,
		}
	}
	return c
}

// rights gives the parts those that no default role gives them.
func rights(ctx context.Context, s *apiserver.Server) error {
	client, err := dynamic.NewForConfig(controlplane.Reach(s, &user.DefaultInfo{Name: admin, Groups: []string{user.SystemPrivilegedGroup}}, "skifftest"))
	if err != nil {
		return err
	}
	return controlplane.Apply(ctx, client, controlplane.Rights)
}

// open lets clients in.
func (c *Cluster) open(l *life) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = l
	close(c.opened)
}

// end stops the parts, then the server, and waits for them. The backend stays open.
func (l *life) end() error {
	var err error
	if l.cancel != nil {
		l.cancel()
		err = <-l.parts
	}
	l.stop()
	l.serving.Wait()
	l.server.Close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// volumes pretends to make the volumes of nodes, so that claims are bound.
type volumes struct{}

func (volumes) Make(_ context.Context, _, name string) (path string, err error) {
	return "/fake/" + name, nil
}

func (volumes) Wipe(context.Context, string, string) error { return nil }

// output has what a cluster says appear with what its test says, until that has ended.
type output struct {
	mu    sync.Mutex
	t     testing.TB
	ended bool
}

// Write implements io.Writer.
func (o *output) Write(line []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.t.Logf("%s", line)
	}
	return len(line), nil
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}
