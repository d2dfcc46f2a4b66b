// Package node registers the node with the API and keeps its status and its lease alive.
//
// The status is measured every ten seconds (measure.go) and written when it changed or is five minutes
// old. What others put into it, extended resources and conditions, stays.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	goruntime "runtime"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/guard"
)

// How often the status is measured, and how old it may become when nothing changes.
const (
	measureEvery = 10 * time.Second
	// unreadyEvery is the same while the pods' network is not ready: the runtime
	// does not tell when it becomes so, and nothing can start before.
	unreadyEvery = 100 * time.Millisecond
	reportEvery  = 5 * time.Minute
	// downAfter is how long the runtime may fail to answer before the node is not ready.
	downAfter = 30 * time.Second
)

// Version is the Kubernetes release whose kubelet this one behaves like.
const Version = "v1.36.3"

// Runtime is what the node's readiness depends on.
type Runtime interface {
	Status(ctx context.Context) (*cri.StatusResponse, error)
	RuntimeVersion() string
	ListImages(ctx context.Context) ([]*cri.Image, error)
}

// Config describes the node.
type Config struct {
	Client   kubernetes.Interface
	Recorder record.EventRecorder
	Runtime  Runtime

	Name   string
	IPs    []string // addresses of type InternalIP
	Port   int32    // of the kubelet's API
	Labels map[string]string
	Taints []v1.Taint // of a node that is new
	// Capacity overrides what is measured, for nodes that share a machine.
	Capacity v1.ResourceList
	// Reserved is taken off the capacity to make what is allocatable.
	Reserved v1.ResourceList
	MaxPods  int64
	RootDir  string // whose file system is the node's ephemeral storage

	// Pressure says which resources run out.
	Pressure func() Pressure
	// NetworkChanged is called when pods' networks can be made again.
	NetworkChanged func()
}

// Pressure is what the node is short of.
type Pressure struct{ Memory, Disk, PIDs bool }

// Manager keeps the node's objects. It is safe for concurrent use.
type Manager struct {
	cfg  Config
	poke chan struct{}

	mu       sync.Mutex
	node     *v1.Node // as last seen in the API
	network  error
	answered time.Time // when the runtime last answered
	reported time.Time
}

// New makes a Manager.
func New(cfg Config) *Manager {
	return &Manager{
		cfg: cfg, poke: make(chan struct{}, 1),
		network: fmt.Errorf("the container runtime was not asked yet"),
	}
}

// Reference is how events name the node.
func Reference(name string) *v1.ObjectReference {
	return &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: name, UID: types.UID(name)}
}

// Node is the node as the API has it to our knowledge, complete enough to judge pods by from the start.
func (m *Manager) Node() *v1.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node == nil {
		return m.initial()
	}
	return m.node
}

// Saw takes the node as it now is in the API.
func (m *Manager) Saw(node *v1.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node = node
}

// NetworkReady is nil when the runtime can make pods' networks.
func (m *Manager) NetworkReady() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.network
}

// RuntimeHealthy takes the outcome of the newest call to the runtime.
func (m *Manager) RuntimeHealthy(err error) {
	if err != nil {
		return
	}
	m.mu.Lock()
	back := time.Since(m.answered) > downAfter
	m.answered = time.Now()
	m.mu.Unlock()
	if back {
		m.Changed()
	}
}

// Changed has the status measured now rather than in a few seconds.
func (m *Manager) Changed() {
	select {
	case m.poke <- struct{}{}:
	default:
	}
}

// Run registers the node and then reports until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.register(ctx); err != nil {
		return err // only when ctx ended
	}
	var group guard.Group
	group.Go("node lease", func() {
		_ = guard.Keep(ctx, "node lease", func(ctx context.Context) error { m.renew(ctx); return nil })
	})
	defer group.Wait()
	for {
		if err := m.report(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("node status not written, will try again", "node", m.cfg.Name, "error", err)
		}
		pause := measureEvery
		if m.NetworkReady() != nil {
			pause = unreadyEvery
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.poke:
		case <-time.After(pause):
		}
	}
}

// register makes the node's object, or takes over the one that is there; it goes on until that works.
func (m *Manager) register(ctx context.Context) error {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 7*time.Second) {
		err := m.tryRegister(ctx)
		if err == nil {
			slog.Info("node registered", "node", m.cfg.Name)
			return nil
		}
		if ctx.Err() == nil {
			slog.Warn("node not registered, will try again", "node", m.cfg.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

func (m *Manager) tryRegister(ctx context.Context) error {
	nodes := m.cfg.Client.CoreV1().Nodes()
	fresh := m.initial()
	m.measure(ctx, fresh)
	created, err := nodes.Create(ctx, fresh, metav1.CreateOptions{})
	if err == nil {
		m.announce(&v1.Node{}, created)
		m.Saw(created)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create node %s: %w", m.cfg.Name, err)
	}
	found, err := nodes.Get(ctx, m.cfg.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", m.cfg.Name, err)
	}
	want := found.DeepCopy()
	want.Labels, want.Annotations = merged(want.Labels, fresh.Labels), merged(want.Annotations, fresh.Annotations)
	if !equality.Semantic.DeepEqual(found.ObjectMeta, want.ObjectMeta) {
		if found, err = m.patch(ctx, found, want); err != nil {
			return fmt.Errorf("label node %s: %w", m.cfg.Name, err)
		}
	}
	m.Saw(found)
	return nil
}

func merged(base, over map[string]string) map[string]string {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, over)
	return out
}

// initial is the node's object before anything was measured.
func (m *Manager) initial() *v1.Node {
	labels := map[string]string{
		v1.LabelHostname:   m.cfg.Name,
		v1.LabelOSStable:   goruntime.GOOS,
		v1.LabelArchStable: goruntime.GOARCH,
		// The names from before these were stable, which old manifests select by.
		"beta.kubernetes.io/os":   goruntime.GOOS,
		"beta.kubernetes.io/arch": goruntime.GOARCH,
	}
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        m.cfg.Name,
			Labels:      merged(labels, m.cfg.Labels),
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
		},
		Spec: v1.NodeSpec{Taints: m.cfg.Taints},
	}
}

// report measures, and writes what changed.
func (m *Manager) report(ctx context.Context) error {
	m.mu.Lock()
	have, last := m.node, m.reported
	m.mu.Unlock()
	want := have.DeepCopy()
	m.measure(ctx, want)
	if !changed(have, want) && time.Since(last) < reportEvery {
		return nil
	}
	result, err := m.patch(ctx, have, want, "status")
	if apierrors.IsNotFound(err) {
		slog.Warn("node object is gone, registering again", "node", m.cfg.Name)
		return m.tryRegister(ctx)
	}
	if err != nil {
		return err
	}
	m.announce(have, want)
	m.mu.Lock()
	m.node, m.reported = result, time.Now()
	m.mu.Unlock()
	return nil
}

// changed compares two statuses without their heartbeats.
func changed(a, b *v1.Node) bool {
	without := func(n *v1.Node) v1.NodeStatus {
		s := *n.Status.DeepCopy()
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return s
	}
	return !equality.Semantic.DeepEqual(without(a), without(b))
}

// patch writes the difference between two versions of the node.
func (m *Manager) patch(ctx context.Context, from, to *v1.Node, subresource ...string) (*v1.Node, error) {
	before, err := json.Marshal(from)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(to)
	if err != nil {
		return nil, err
	}
	body, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Node{})
	if err != nil {
		return nil, err
	}
	return m.cfg.Client.CoreV1().Nodes().Patch(ctx, from.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, subresource...)
}

// announce tells of conditions that turned over, as events.
func (m *Manager) announce(before, after *v1.Node) {
	for _, c := range after.Status.Conditions {
		old := conditionOf(before, c.Type)
		if old != nil && old.Status == c.Status || old == nil && c.Type != v1.NodeReady {
			continue
		}
		reason := c.Reason
		if c.Type == v1.NodeReady {
			reason = "NodeNotReady"
			if c.Status == v1.ConditionTrue {
				reason = "NodeReady"
			}
		}
		m.cfg.Recorder.Eventf(Reference(m.cfg.Name), v1.EventTypeNormal, reason, "Node %s status is now: %s", m.cfg.Name, reason)
	}
}

func conditionOf(n *v1.Node, t v1.NodeConditionType) *v1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}
