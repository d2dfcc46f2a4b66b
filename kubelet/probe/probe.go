// Package probe runs the startup, liveness and readiness probes of containers.
package probe

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Kind is which of a container's probes.
type Kind string

// The kinds, as events and metrics write them.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

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
type Manager struct{ changes chan Change }

// New returns a Manager; Close ends it.
func New(cfg Config) *Manager { return &Manager{changes: make(chan Change)} }

// Start begins the probes of a running container; for a containerID it knows it only takes the newer pod.
func (m *Manager) Start(pod *v1.Pod, container *v1.Container, containerID, podIP string, startedAt time.Time) {
}

// Stop ends the probes of a container. Its results are gone.
func (m *Manager) Stop(containerID string) {}

// StopPod ends the probes of all containers of a pod.
func (m *Manager) StopPod(uid types.UID) {}

// Terminating ends the liveness and startup probes of a pod that is being deleted; readiness goes on.
func (m *Manager) Terminating(uid types.UID) {}

// Started says that a running container's startup probe succeeded or that it has none.
func (m *Manager) Started(containerID string) bool { return false }

// Ready says that a running container is started and that its readiness probe succeeded or that it has none.
func (m *Manager) Ready(containerID string) bool { return false }

// Changes delivers changed results; it must be read.
func (m *Manager) Changes() <-chan Change { return m.changes }

// Close ends all probes and waits for them.
func (m *Manager) Close() {}
