// Package probe runs the startup, liveness and readiness probes of containers.
//
// Every probe of every running container is a worker (worker.go) with a goroutine of its own, so that a
// slow probe delays nobody. What a probe does is in exec.go, http.go, tcp.go and grpc.go; what its
// results mean is a pure count (tally).
package probe

import (
	"context"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/guard"
)

// Kind is which of a container's probes.
type Kind string

// The kinds, as events write them.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// takeoverGrace is how long before the manager a container may have started and still count as new.
const takeoverGrace = 10 * time.Second

// Change is a probe whose thresholds turned its result over.
type Change struct {
	PodUID      types.UID
	Container   string // name
	ContainerID string
	Kind        Kind
	Success     bool
	Message     string // "Liveness probe failed: …" on failure
	// Grace is the probe's own terminationGracePeriodSeconds, nil when the pod's counts.
	Grace *int64
}

// Config is what a Manager needs.
type Config struct {
	// Exec runs cmd in a container; an expired timeout is an error.
	Exec func(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (output []byte, exitCode int, err error)
	// Event reports a failing probe (Warning, "Unhealthy") or "ProbeWarning" on a container.
	Event func(pod *v1.Pod, container, eventType, reason, message string)
}

// Manager runs the probes of all containers. It is safe for concurrent use.
type Manager struct {
	cfg     Config
	begun   time.Time
	ctx     context.Context // of all workers
	stop    context.CancelFunc
	workers guard.Group
	changes chan Change
	metrics *metrics

	mu      sync.Mutex
	targets map[string]*target // by container ID
}

// target is a running container.
type target struct {
	container *v1.Container
	id, podIP string
	startedAt time.Time

	// Guarded by Manager.mu:
	pod     *v1.Pod
	started bool
	ready   bool // its readiness probe succeeded, or it has none

	isStarted chan struct{} // closed with started
	stop      context.CancelFunc
	stopEarly context.CancelFunc // ends startup and liveness
}

// New returns a Manager; Close ends it.
func New(cfg Config) *Manager {
	ctx, stop := context.WithCancel(context.Background())
	return &Manager{cfg: cfg, begun: time.Now(), ctx: ctx, stop: stop, changes: make(chan Change), metrics: newMetrics(), targets: map[string]*target{}}
}

// Start begins the probes of a running container; for a containerID it knows it only takes the newer
// pod. A container that ran before the kubelet did keeps what the pod's status says of it.
func (m *Manager) Start(pod *v1.Pod, container *v1.Container, containerID, podIP string, startedAt time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	if t := m.targets[containerID]; t != nil {
		t.pod = pod
		return
	}

	ctx, stop := context.WithCancel(m.ctx)
	early, stopEarly := context.WithCancel(ctx)
	t := &target{
		pod: pod, container: container, id: containerID, podIP: podIP, startedAt: startedAt,
		started: container.StartupProbe == nil, ready: container.ReadinessProbe == nil,
		isStarted: make(chan struct{}), stop: stop, stopEarly: stopEarly,
	}
	if startedAt.Before(m.begun.Add(-takeoverGrace)) {
		t.takeOver()
	}
	if t.started {
		close(t.isStarted)
	}
	m.targets[containerID] = t

	m.run(early, t, Startup, container.StartupProbe)
	m.run(early, t, Liveness, container.LivenessProbe)
	m.run(ctx, t, Readiness, container.ReadinessProbe)
}

// takeOver begins with what the pod's status says of this container.
func (t *target) takeOver() {
	for _, list := range [][]v1.ContainerStatus{t.pod.Status.InitContainerStatuses, t.pod.Status.ContainerStatuses} {
		for _, s := range list {
			if !strings.HasSuffix(s.ContainerID, "://"+t.id) {
				continue
			}
			t.started = t.started || isTrue(s.Started)
			t.ready = t.ready || s.Ready
		}
	}
}

func (m *Manager) run(ctx context.Context, t *target, kind Kind, spec *v1.Probe) {
	if spec == nil || kind == Startup && t.started {
		return
	}
	w := &worker{m: m, target: t, kind: kind, spec: spec}
	m.workers.Go("probes", func() {
		_ = guard.Keep(ctx, "probes", func(ctx context.Context) error { w.run(ctx); return nil })
	})
}

// Stop ends the probes of a container. Its results are gone.
func (m *Manager) Stop(containerID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.targets[containerID]; t != nil {
		t.stopEarly()
		t.stop()
		delete(m.targets, containerID)
	}
}

// StopPod ends the probes of all containers of a pod.
func (m *Manager) StopPod(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, t := range m.targets {
		if t.pod.UID == uid {
			t.stopEarly()
			t.stop()
			delete(m.targets, id)
		}
	}
}

// Terminating ends the liveness and startup probes of a pod that is being deleted; readiness goes on.
func (m *Manager) Terminating(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.targets {
		if t.pod.UID == uid {
			t.stopEarly()
		}
	}
}

// Started says that a running container's startup probe succeeded or that it has none.
func (m *Manager) Started(containerID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.targets[containerID]
	return t != nil && t.started
}

// Ready says that a running container is started and that its readiness probe succeeded or that it has none.
func (m *Manager) Ready(containerID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.targets[containerID]
	return t != nil && t.started && t.ready
}

// Changes delivers changed results; it must be read.
func (m *Manager) Changes() <-chan Change { return m.changes }

// Close ends all probes and waits for them.
func (m *Manager) Close() {
	m.mu.Lock()
	m.stop()
	m.mu.Unlock()
	m.workers.Wait()
}

func isTrue(b *bool) bool { return b != nil && *b }
