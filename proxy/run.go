package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/guard/clientgo"
)

const (
	// retry is how long after a failed Apply the next is tried.
	retry = time.Second
	// check is how long it takes at most, when nothing changes, until rules that
	// another program on the node has removed are missed.
	check = 10 * time.Second
	// rest is how long changes join at most while they keep coming.
	rest = time.Second
)

// Connections forgets what the kernel remembers of flows that a change of
// endpoints makes wrong (package conntrack).
type Connections interface {
	Forget(ctx context.Context, old, new *Table) error
}

// Config says what a proxy needs.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	// Pods are the ranges of all pods of the cluster, at most one of each family.
	Pods []netip.Prefix
	// Services are the ranges of the cluster IPs; what is sent there and is no
	// Service's is refused. Optional.
	Services []netip.Prefix
	// NodePorts are ranges of the node's addresses at which node ports answer; nil:
	// at all.
	NodePorts []netip.Prefix
	Backend   Backend
	// Connections may be nil: then flows without a connection (UDP) may go on to
	// an endpoint that is gone.
	Connections Connections
	// HealthListen is where /healthz and /livez answer; empty: nowhere. Health check
	// ports of Services are opened where node ports answer.
	HealthListen string
	Log          *slog.Logger
}

// Proxy keeps the service traffic of one node.
type Proxy struct {
	Config
	factory  informers.SharedInformerFactory // of services and endpoints
	self     informers.SharedInformerFactory // of the node alone
	services cache.Store                     // of *keptService
	slices   cache.Indexer                   // of *keptSlice
	nodes    corelisters.NodeLister
	told     []cache.DoneChecker // whether changes has all that was there at the start
	changes  *changes
	ledger   *Ledger
	health   *healthServer
	applied  atomic.Pointer[time.Time] // when a table was applied last
	events   record.EventRecorder      // while Run runs
}

// New returns a proxy that Run starts.
func New(c Config) (*Proxy, error) {
	p := &Proxy{Config: c, changes: newChanges()}
	p.health = &healthServer{listen: c.HealthListen, nodePorts: c.NodePorts, health: p.healthNow, eligible: func() bool { return eligible(p.node()) }}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	// Services of other proxies and headless ones are not sent to us at all.
	p.factory = informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTransform(keep), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = "!" + labelProxyName + ",!" + corev1.IsHeadlessService
	}))
	p.services = p.factory.Core().V1().Services().Informer().GetStore()
	slices := p.factory.Discovery().V1().EndpointSlices().Informer()
	if err := slices.AddIndexers(cache.Indexers{byService: func(o any) ([]string, error) { return []string{serviceOf(o)}, nil }}); err != nil {
		return nil, err
	}
	p.slices = slices.GetIndexer()
	p.self = informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, c.NodeName).String()
	}))
	p.nodes = p.self.Core().V1().Nodes().Lister()
	ofServices := cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { p.changes.note(serviceOf(o)) },
		UpdateFunc: func(old, now any) {
			p.changes.note(serviceOf(old))
			p.changes.note(serviceOf(now))
		},
		DeleteFunc: func(o any) { p.changes.note(serviceOf(o)) },
	}
	// A node's status changes every few seconds; here only its zone matters.
	ofNode := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { p.changes.noteNode() },
		UpdateFunc: func(old, now any) {
			if zone(old.(*corev1.Node)) != zone(now.(*corev1.Node)) {
				p.changes.noteNode()
			}
		},
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		p.factory.Core().V1().Services().Informer(): ofServices, slices: ofServices, p.self.Core().V1().Nodes().Informer(): ofNode,
	} {
		registered, err := informer.AddEventHandler(clientgo.Handler("proxy's events", handler))
		if err != nil {
			return nil, err
		}
		p.told = append(p.told, registered.HasSyncedChecker())
	}
	return p, nil
}

// node is the node; nil if it is not known.
func (p *Proxy) node() *corev1.Node {
	n, err := p.nodes.Get(p.NodeName)
	if err != nil { // a lister knows one error: there is none
		return nil
	}
	return n
}

func (p *Proxy) healthNow() ProxyHealth {
	var applied time.Time
	if at := p.applied.Load(); at != nil {
		applied = *at
	}
	return newProxyHealth(time.Now(), p.changes.waiting(), applied, familiesOf(p.Pods))
}

func zone(n *corev1.Node) string { return strings.TrimSpace(n.Labels[corev1.LabelTopologyZone]) }

// Run keeps the rules up to date until ctx ends. It leaves them in place:
// traffic flows on while the proxy restarts. Config.Backend.Remove takes them
// away.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.health.close()
	if err := p.health.open(); err != nil {
		p.Log.Error("open the port for health", "error", err) // it is tried again
	}
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: p.Client.CoreV1().Events("")})
	p.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kube-proxy", Host: p.NodeName})
	for _, factory := range []informers.SharedInformerFactory{p.factory, p.self} {
		factory.Start(ctx.Done())
		defer factory.Shutdown()
	}
	// What handlers have yet to tell would be a change after the first table.
	if !cache.WaitFor(ctx, "", p.told...) {
		return fmt.Errorf("read Services and endpoints: %w", ctx.Err())
	}
	var last *Table
	for checked := time.Now(); ; {
		if time.Since(checked) >= check {
			checked = time.Now()
			if !p.intact(ctx) {
				last = nil // what came meanwhile went where nobody knows
			}
		}
		begun := time.Now()
		table, err := p.apply(ctx, last)
		next := check
		if err != nil && ctx.Err() == nil {
			p.Log.Error("apply service rules", "error", err)
			next = retry
		} else {
			last = table
		}
		if !p.wait(ctx, next, time.Since(begun)) {
			return nil
		}
	}
}

// intact reports whether the rules are as they were last applied.
func (p *Proxy) intact(ctx context.Context) bool {
	intact, err := p.Backend.Intact(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		p.Log.Error("look at the service rules", "error", err)
	case !intact:
		p.Log.Warn("another program took service rules away, they are made again")
	}
	return intact
}

// wait returns after a change or after a time without one; false if ctx ended. A
// change that comes alone does not wait. When one has come while the proxy worked, it
// rests for as long as that took, and what comes meanwhile is applied together.
func (p *Proxy) wait(ctx context.Context, atMost, worked time.Duration) bool {
	if len(p.changes.there) > 0 {
		return pause(ctx, min(worked, rest, atMost), nil)
	}
	return pause(ctx, atMost, p.changes.there)
}

// pause returns after a time, or before if it is woken; false if ctx ended.
func pause(ctx context.Context, atMost time.Duration, wake <-chan struct{}) bool {
	clock := time.NewTimer(atMost)
	defer clock.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-clock.C:
	case <-wake:
	}
	return true
}

func (p *Proxy) apply(ctx context.Context, last *Table) (*Table, error) {
	table, err := p.compute()
	if err != nil {
		return nil, err
	}
	if err := p.Backend.Apply(ctx, table); err != nil {
		return nil, err
	}
	p.changes.done()
	now := time.Now()
	p.applied.Store(&now)
	errs := []error{p.health.open()}
	if p.Connections != nil {
		errs = append(errs, p.Connections.Forget(ctx, last, table))
	}
	errs = append(errs, p.health.update(table.Health))
	p.tell(last, table)
	return table, errors.Join(errs...)
}

// tell says which Services have just been refused an address.
func (p *Proxy) tell(last, table *Table) {
	known := make(map[string]bool)
	if last != nil {
		for _, r := range last.Refused {
			known[r.String()] = true
		}
	}
	for _, r := range table.Refused {
		if known[r.String()] {
			continue
		}
		p.Log.Warn("a Service does not get an address", "refused", r.String())
		if r.Front.Kind != LoadBalancer {
			continue
		}
		namespace, name := r.Service()
		if s := p.service(namespace + "/" + name); s != nil {
			p.events.Eventf(s.reference(), corev1.EventTypeWarning, "LoadBalancerPortInUse", "%s takes no traffic at %s port %d/%s: it is %s's",
				p.NodeName, r.Front.Addr.Addr(), r.Front.Addr.Port(), r.Protocol, r.Holder)
		}
	}
}

// compute brings the ledger up to date.
func (p *Proxy) compute() (*Table, error) {
	names, nodeChanged := p.changes.take()
	if p.ledger == nil || nodeChanged {
		node := Node{Name: p.NodeName, Pods: p.Pods, Services: p.Services, NodePorts: p.NodePorts, Taken: inUse}
		if n := p.node(); n != nil {
			node.Zone = zone(n)
		}
		for _, s := range p.services.List() {
			names[serviceOf(s)] = true
		}
		if p.ledger == nil {
			p.ledger = NewLedger(node)
		}
		p.ledger.node = node
	}
	for name := range names {
		if err := p.look(name); err != nil {
			return nil, err
		}
	}
	p.ledger.Retry()
	return p.ledger.Table(), nil
}

// look tells the ledger what a Service is now.
func (p *Proxy) look(name string) error {
	objects, err := p.slices.ByIndex(byService, name)
	if err != nil {
		return err
	}
	list := make([]*keptSlice, 0, len(objects))
	for _, o := range objects {
		list = append(list, o.(*keptSlice))
	}
	p.ledger.set(name, p.service(name), list)
	return nil
}

// service is what is kept of a Service; nil if there is none.
func (p *Proxy) service(name string) *keptService {
	s, found, err := p.services.GetByKey(name)
	if err != nil || !found { // a store in memory has no errors
		return nil
	}
	return s.(*keptService)
}
