// Package pods brings the pods of the node to life and to their end.
//
// Manager keeps one worker per pod UID (worker.go). A worker looks at the pod's definition and at the
// runtime's state and goes through an ordered list of steps (steps.go): one list for a pod that should
// run, one for a pod that is over. MakePlan (plan.go, pure) says which containers to start and to stop.
// Whatever takes long (pulls, hooks, stopping) runs beside the worker, which so can always report.
// Every step may be repeated, also by another process: nothing but the API and the runtime is needed to
// take over running pods.
package pods

import (
	"context"
	"net/netip"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/kubelet/env"
	"github.com/skiff-k8s/skiff/kubelet/hooks"
	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/resources"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/status"
	"github.com/skiff-k8s/skiff/kubelet/sysctl"
	"github.com/skiff-k8s/skiff/kubelet/volume"
)

// Config is what a Manager needs. All fields are required unless they say otherwise.
type Config struct {
	Client   kubernetes.Interface // deletes pods, reads runtime classes and pull secrets
	Recorder record.EventRecorder
	Runtime  *runtime.Client
	Volumes  Volumes
	Probes   Probes
	Cgroups  Cgroups
	Devices  Devices
	Images   *images.Puller
	Hooks    *hooks.Runner

	Node     func() *v1.Node // the node as the API has it
	Services func() []*v1.Service
	// NetworkReady is nil when pods off the host's network can start.
	NetworkReady func() error
	// Policies are asked before containers start; nil if nobody enforces network policies.
	Policies Policies
	// Pressure is why pods of low quality of service are not taken, nil when they are.
	Pressure func(pod *v1.Pod) *status.Failure

	// Sysctls are the kernel settings that pods may have.
	Sysctls *sysctl.List

	RootDir   string // pods' files, in pods/<uid>
	LogDir    string // containers' logs, in <namespace>_<name>_<uid>/<container>
	HostIPs   []string
	DNS       DNS
	Resources resources.Node

	AppArmor          bool // whether the node's kernel has it
	RecursiveReadOnly bool // whether the runtime can do it
}

// Volumes makes pods' volumes; volume.Manager does it.
type Volumes interface {
	env.Objects
	Mount(ctx context.Context, pod *v1.Pod) error
	Unmount(ctx context.Context, uid types.UID) error
	HostPath(pod *v1.Pod, volume string) string
	ReadOnly(v *v1.Volume) bool
	SubPath(ctx context.Context, pod *v1.Pod, container string, index int, mount v1.VolumeMount, subPath string) (string, error)
	Pods() ([]types.UID, error)
}

// Devices prepares the devices of pods' claims; dra.Manager does it.
type Devices interface {
	Prepare(ctx context.Context, pod *v1.Pod) error
	Unprepare(ctx context.Context, uid types.UID) error
	// IDs are what the runtime calls the devices of a container.
	IDs(pod *v1.Pod, container *v1.Container) ([]string, error)
	Pods() ([]types.UID, error)
}

// Policies enforces network policies.
type Policies interface {
	// Admit returns when what policies say about a pod is in force for its addresses.
	Admit(ctx context.Context, pod *v1.Pod, addresses []netip.Addr) error
	// Release says that the addresses of a pod are nobody's any more.
	Release(uid types.UID)
}

// Probes probes containers; probe.Manager does it.
type Probes interface {
	Start(pod *v1.Pod, container *v1.Container, containerID, podIP string, startedAt time.Time)
	Stop(containerID string)
	StopPod(uid types.UID)
	Terminating(uid types.UID)
	Started(containerID string) bool
	Ready(containerID string) bool
	Changes() <-chan probe.Change
}

// Cgroups makes pods' control groups; resources.Cgroups does it.
type Cgroups interface {
	EnsurePod(pod *v1.Pod) error
	RemovePod(uid types.UID) error
	PodParent(pod *v1.Pod) string
	Pods() ([]types.UID, error)
}

var (
	_ Volumes = (*volume.Manager)(nil)
	_ Probes  = (*probe.Manager)(nil)
	_ Cgroups = (*resources.Cgroups)(nil)
)

// Manager runs the pods it is told of. It is safe for concurrent use.
type Manager struct {
	cfg    Config
	status *status.Writer
	fresh  chan *worker

	mu      sync.Mutex
	workers map[types.UID]*worker

	admission sync.Mutex // one pod is admitted at a time
}

// New makes a Manager.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, fresh: make(chan *worker), workers: map[types.UID]*worker{}}
	m.status = status.NewWriter(cfg.Client, func(pod *v1.Pod) { m.Wake(pod.UID) })
	return m
}

// Run works until ctx ends; the pods then run on.
func (m *Manager) Run(ctx context.Context) error {
	var group guard.Group
	keep := func(part string, work func(context.Context)) {
		group.Go(part, func() {
			_ = guard.Keep(ctx, part, func(ctx context.Context) error { work(ctx); return nil })
		})
	}
	keep("pod status", func(ctx context.Context) { _ = m.status.Run(ctx) })
	keep("probes", m.followProbes)
	defer group.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-m.fresh:
			keep("pod worker", w.run)
		}
	}
}

// Sync takes a pod as it now is in the API. It may block until Run runs.
func (m *Manager) Sync(ctx context.Context, pod *v1.Pod) {
	m.mu.Lock()
	w, found := m.workers[pod.UID]
	if !found {
		w = newWorker(m, pod)
		m.workers[pod.UID] = w
	}
	m.mu.Unlock()
	if found {
		w.update(pod)
		return
	}
	m.start(ctx, w)
}

func (m *Manager) start(ctx context.Context, w *worker) {
	select {
	case m.fresh <- w:
	case <-ctx.Done():
	}
}

// Gone takes that the API has the pod no longer; whatever runs of it is stopped and cleared away.
func (m *Manager) Gone(uid types.UID) {
	if w := m.worker(uid); w != nil {
		w.lose()
	}
}

// Adopt takes over what the runtime has of pods that neither the API nor the Manager knows, to stop it.
// Call it only when all pods of the API have been synced.
func (m *Manager) Adopt(ctx context.Context) error {
	known, err := m.cfg.Runtime.Pods(ctx)
	if err != nil {
		return err
	}
	add := func(uid types.UID, namespace, name string) {
		m.mu.Lock()
		if m.workers[uid] != nil {
			m.mu.Unlock()
			return
		}
		w := newWorker(m, &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Namespace: namespace, Name: name}})
		w.gone = true
		m.workers[uid] = w
		m.mu.Unlock()
		m.start(ctx, w)
	}
	for uid, brief := range known {
		add(uid, brief.Namespace, brief.Name)
	}
	for _, list := range []func() ([]types.UID, error){m.cfg.Volumes.Pods, m.cfg.Cgroups.Pods, m.cfg.Devices.Pods} {
		uids, err := list()
		if err != nil {
			return err
		}
		for _, uid := range uids {
			add(uid, "", "")
		}
	}
	return nil
}

// Wake makes the pod's worker look again.
func (m *Manager) Wake(uid types.UID) {
	if w := m.worker(uid); w != nil {
		w.poke()
	}
}

// WakeAll makes all workers look again, as when the network became ready.
func (m *Manager) WakeAll() {
	for _, w := range m.all() {
		w.poke()
	}
}

// Evict ends a pod for the node's sake. It says whether the pod was there to be evicted.
func (m *Manager) Evict(uid types.UID, failure status.Failure, grace time.Duration) bool {
	w := m.worker(uid)
	return w != nil && w.evict(failure, grace)
}

// Pods are the pods the API has on this node, with their newest status. The objects must not be changed.
func (m *Manager) Pods() []*v1.Pod {
	var pods []*v1.Pod
	for _, w := range m.all() {
		if pod := w.published(); pod != nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

// Exists says whether the pod is known or still being cleared away.
func (m *Manager) Exists(uid types.UID) bool { return m.worker(uid) != nil }

func (m *Manager) worker(uid types.UID) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[uid]
}

func (m *Manager) all() []*worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		all = append(all, w)
	}
	return all
}

func (m *Manager) drop(w *worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.workers, w.uid)
}

// followProbes hands failures of probes to the workers, and wakes them for every change.
func (m *Manager) followProbes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case change := <-m.cfg.Probes.Changes():
			if w := m.worker(change.PodUID); w != nil {
				w.probed(change)
			}
		}
	}
}

// event reports on a pod, or on one of its containers unless that is "".
func (m *Manager) event(pod *v1.Pod, container, eventType, reason, message string) {
	m.cfg.Recorder.Event(Reference(pod, container), eventType, reason, message)
}

// Reference is how events name a pod or one of its containers.
func Reference(pod *v1.Pod, container string) *v1.ObjectReference {
	ref := &v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1",
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = fieldPath(&pod.Spec, container)
	}
	return ref
}

func fieldPath(spec *v1.PodSpec, container string) string {
	for i := range spec.Containers {
		if spec.Containers[i].Name == container {
			return "spec.containers{" + container + "}"
		}
	}
	for i := range spec.InitContainers {
		if spec.InitContainers[i].Name == container {
			return "spec.initContainers{" + container + "}"
		}
	}
	for i := range spec.EphemeralContainers {
		if spec.EphemeralContainers[i].Name == container {
			return "spec.ephemeralContainers{" + container + "}"
		}
	}
	return ""
}
