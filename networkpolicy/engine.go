// Package networkpolicy decides which packets the pods of a node may send and get, as NetworkPolicies say,
// and keeps a backend doing so (package nftables). World is the pure part: objects in, Table out. Engine
// follows the API, and tells the kubelet when the rules for a new pod are in force.
//
// What policies say counts from the moment their rules are applied, for flows that were there before as well:
// packets that go the way of a flow's first packet are judged one by one, those that answer them are not.
package networkpolicy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/guard/clientgo"
)

const (
	// settle is the least time between two changes of the rules, which lets changes join. One that comes
	// alone waits for none.
	settle = 20 * time.Millisecond
	// retry is how long after a failed Apply the next is tried.
	retry = time.Second
	// check is how long rules that another program on the node has removed are missed at most.
	check = 10 * time.Second
)

// Backend enforces tables.
type Backend interface {
	// Apply makes t be in force, at once and as a whole.
	Apply(t *Table) error
	// Intact reports whether what is in force is what was last applied. If not, the next Apply makes all of
	// it anew.
	Intact() (bool, error)
}

// Config says what an Engine needs. All fields but Log are required.
type Config struct {
	Client   kubernetes.Interface // that may list and watch pods, namespaces and network policies
	NodeName string
	Backend  Backend
	Log      *slog.Logger
}

// Engine keeps the policies of one node in force.
type Engine struct {
	Config
	policies, peers source
	changed         chan struct{}

	mu    sync.Mutex
	world *World
	// asked counts the changes of world, applied says how many of them are in force. It is -1 until the first
	// Apply, which waits for all that the API has.
	asked, applied int
	progress       chan struct{} // closed and replaced when applied grows
}

// source is a part of what the engine follows in the API.
type source struct {
	informers.SharedInformerFactory
	told    []cache.DoneChecker // whether the world knows all that was there at the start
	started bool
}

// start has the world know all that there is; false if ctx ended.
func (s *source) start(ctx context.Context) bool {
	s.Start(ctx.Done())
	s.started = true
	return cache.WaitFor(ctx, "", s.told...)
}

// follow adds a handler to one of the informers of the source.
func (s *source) follow(informer cache.SharedIndexInformer, handler cache.ResourceEventHandler) error {
	registered, err := informer.AddEventHandler(clientgo.Handler("network policies", handler))
	if err != nil {
		return err
	}
	s.told = append(s.told, registered.HasSyncedChecker())
	return nil
}

// New returns an engine that Run starts.
func New(c Config) (*Engine, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	newSource := func() source {
		return source{SharedInformerFactory: informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTransform(strip))}
	}
	e := &Engine{
		Config: c, policies: newSource(), peers: newSource(),
		changed: make(chan struct{}, 1), world: NewWorld(c.NodeName), applied: -1, progress: make(chan struct{}),
	}
	return e, errors.Join(
		e.policies.follow(e.policies.Networking().V1().NetworkPolicies().Informer(), handle(e, func(w *World, old, now *networkingv1.NetworkPolicy) bool {
			if now != nil {
				return w.SetPolicy(now)
			}
			w.DeletePolicy(old.Namespace, old.Name)
			return true
		})),
		e.peers.follow(e.peers.Core().V1().Namespaces().Informer(), handle(e, func(w *World, old, now *corev1.Namespace) bool {
			if now != nil {
				return w.SetNamespace(now)
			}
			w.DeleteNamespace(old.Name)
			return true
		})),
		e.peers.follow(e.peers.Core().V1().Pods().Informer(), handle(e, func(w *World, old, now *corev1.Pod) bool {
			replaced := old != nil && (now == nil || now.UID != old.UID)
			if replaced {
				w.DeletePod(old.UID)
			}
			return now != nil && w.SetPod(now) || replaced
		})),
	)
}

// handle tells the world of changes; now is nil for what is gone, old for what is new.
func handle[T any](e *Engine, tell func(w *World, old, now *T) bool) cache.ResourceEventHandler {
	do := func(old, now *T) { e.change(func(w *World) bool { return tell(w, old, now) }) }
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(now any) { do(nil, now.(*T)) },
		UpdateFunc: func(old, now any) { do(old.(*T), now.(*T)) },
		DeleteFunc: func(old any) {
			if unknown, ok := old.(cache.DeletedFinalStateUnknown); ok {
				old = unknown.Obj
			}
			do(old.(*T), nil)
		},
	}
}

// strip keeps of pods what policies can know of.
func strip(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Pod:
		return stripPod(o), nil
	case *corev1.Namespace:
		o.ManagedFields, o.Annotations = nil, nil
	case *networkingv1.NetworkPolicy:
		o.ManagedFields, o.Annotations = nil, nil
	}
	return object, nil
}

func stripPod(p *corev1.Pod) *corev1.Pod {
	kept := &corev1.Pod{
		TypeMeta: p.TypeMeta, Spec: corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIPs: p.Status.PodIPs},
	}
	kept.Name, kept.Namespace, kept.UID, kept.ResourceVersion = p.Name, p.Namespace, p.UID, p.ResourceVersion
	kept.Labels, kept.CreationTimestamp = p.Labels, p.CreationTimestamp
	for _, c := range p.Spec.InitContainers {
		kept.Spec.InitContainers = append(kept.Spec.InitContainers, corev1.Container{Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	for _, c := range p.Spec.Containers {
		kept.Spec.Containers = append(kept.Spec.Containers, corev1.Container{Ports: c.Ports})
	}
	return kept
}

// change makes a change and returns how many there have been.
func (e *Engine) change(do func(*World) bool) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if do(e.world) {
		e.asked++
		e.stir()
	}
	return e.asked
}

func (e *Engine) stir() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// Admit returns when what policies say about a pod of this node is in force for its addresses. The containers
// of the pod must not run before.
func (e *Engine) Admit(ctx context.Context, pod *corev1.Pod, addresses []netip.Addr) error {
	want := e.change(func(w *World) bool { return w.Claim(pod, addresses) })
	for {
		e.mu.Lock()
		done, progress := e.applied >= want, e.progress
		e.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return fmt.Errorf("network policies are not in force for the pod: %w", ctx.Err())
		}
	}
}

// Release says that the addresses of a pod are nobody's any more.
func (e *Engine) Release(uid types.UID) {
	e.change(func(w *World) bool { return w.Release(uid) })
}

// Run keeps the policies in force until ctx ends. It leaves the rules in place: pods outlive the engine. An
// error means that the host cannot enforce any.
func (e *Engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer e.policies.Shutdown()
	defer e.peers.Shutdown()
	defer cancel() // first, for which Shutdown waits
	if !e.policies.start(ctx) || !e.meet(ctx) {
		return nil
	}
	if err := e.apply(); err != nil {
		return fmt.Errorf("network policies: %w", err)
	}
	next := check
	for checked := time.Now(); e.wait(ctx, next) && e.meet(ctx); {
		anew := next == retry
		if time.Since(checked) >= check {
			checked = time.Now()
			anew = !e.intact() || anew
		}
		next = check
		if err := e.applyIf(anew); err != nil {
			e.Log.Error("apply network policies", "error", err)
			next = retry
		}
	}
	return nil
}

// meet follows the pods and namespaces of the cluster from the first policy on. Without any, which pods there are
// changes nothing, and a node of a large cluster need not know them. It returns false if ctx ended.
func (e *Engine) meet(ctx context.Context) bool {
	e.mu.Lock()
	needed := e.world.HasPolicies()
	e.mu.Unlock()
	return !needed || e.peers.started || e.peers.start(ctx)
}

// wait returns after a change, but not before others could join the last one, or after a time without one;
// false if ctx ended.
func (e *Engine) wait(ctx context.Context, atMost time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(settle):
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-e.changed:
	}
	return true
}

// applyIf applies what has changed, and in any case if anew.
func (e *Engine) applyIf(anew bool) error {
	e.mu.Lock()
	same := e.applied == e.asked
	e.mu.Unlock()
	if same && !anew {
		return nil
	}
	return e.apply()
}

func (e *Engine) apply() error {
	e.mu.Lock()
	table, asked := e.world.Table(), e.asked
	e.mu.Unlock()
	if err := e.Backend.Apply(table); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.applied = asked
	close(e.progress)
	e.progress = make(chan struct{})
	return nil
}

// intact reports whether the rules are as they were last applied.
func (e *Engine) intact() bool {
	intact, err := e.Backend.Intact()
	switch {
	case err != nil:
		e.Log.Error("look at the rules of network policies", "error", err)
	case !intact:
		e.Log.Warn("another program took rules of network policies away, they are made again")
	}
	return intact || err != nil
}
