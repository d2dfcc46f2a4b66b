// Package volume makes the volumes of pods on the node, keeps their contents up to date and takes them down.
//
// A volume type is a row of kinds (kind.go) and a file of its own with what the type does: where the
// volume is on the host, how it is made, how its contents are renewed. Taking down (teardown.go) is the
// same for all types and needs nothing but the disk and the mount table, so that it also works for what
// an earlier run left. Whatever Mount does can be repeated after a crash.
package volume

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/guard"
)

// Config is what a Manager needs.
type Config struct {
	Client      kubernetes.Interface
	RootDir     string // the kubelet's directory; volumes are in <RootDir>/pods/<uid>/volumes
	NodeName    string
	Allocatable func() v1.ResourceList // stands in for missing limits in downwardAPI volumes and sizes tmpfs
}

const (
	// refreshPeriod bounds the age of contents that no watch announces: tokens, and what a failed write left.
	refreshPeriod = time.Minute
	// mountTimeout bounds one Mount, which asks the API server for many objects at once.
	mountTimeout = 15 * time.Second
	// parallelRefreshes bounds the pods refreshed at once.
	parallelRefreshes = 4
)

// Manager makes, refreshes and takes down volumes. It is safe for concurrent use.
type Manager struct {
	cfg        Config
	root       string // RootDir without symbolic links, as the mount table shows it
	configMaps *objects[*v1.ConfigMap]
	secrets    *objects[*v1.Secret]
	tokens     *tokens

	mu        sync.Mutex
	pods      map[types.UID]*podState
	exclusive map[string]types.UID // the pods that alone may use a PersistentVolume, by its name

	dirty chan struct{} // has an element when a pod is stale
}

// podState is a pod with volumes. Its volumes change only under its mutex.
type podState struct {
	mu      sync.Mutex
	pod     *v1.Pod
	ready   map[string]bool // volumes by name
	stale   bool            // contents may have changed since they were written; guarded by Manager.mu
	retired bool            // being taken down: nothing may be written any more
}

// New returns a Manager. Watches of ConfigMaps and Secrets live as long as pods refer to them.
func New(cfg Config) *Manager {
	m := &Manager{
		cfg:    cfg,
		root:   cfg.RootDir,
		tokens: newTokens(cfg.Client),
		pods:   map[types.UID]*podState{},
		dirty:  make(chan struct{}, 1),

		exclusive: map[string]types.UID{},
	}
	// A root that is not there yet has no links to follow.
	if real, err := filepath.EvalSymlinks(cfg.RootDir); err == nil {
		m.root = real
	}
	m.configMaps = newObjects("configmap", watchConfigMaps(cfg.Client), m.changed)
	m.secrets = newObjects("secret", watchSecrets(cfg.Client), m.changed)
	return m
}

// Run keeps configMap, secret, projected and downwardAPI volumes of mounted pods up to date until ctx
// ends, and ends the watches then.
func (m *Manager) Run(ctx context.Context) error {
	defer m.secrets.close()
	defer m.configMaps.close()
	tick := time.NewTicker(refreshPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			m.refresh(ctx, m.take(func(*podState) bool { return true }))
		case <-m.dirty:
			m.refresh(ctx, m.take(func(p *podState) bool { return p.stale }))
		}
	}
}

// Mount makes every volume of the pod ready. It may be repeated, and takes the newest pod object for the
// contents of downwardAPI volumes. Every volume is tried; the error is that of the first that failed and
// names it as the FailedMount event does.
func (m *Manager) Mount(ctx context.Context, pod *v1.Pod) error {
	p := m.state(pod)
	m.Update(pod)
	m.refer(pod) // all watches start now, to be waited for one by one below
	ctx, cancel := context.WithTimeout(ctx, mountTimeout)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()

	var first error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if p.ready[v.Name] || p.retired {
			continue
		}
		if err := kindOf(v).setUp(ctx, m.volumeOf(pod, v)); err != nil {
			err = fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
			slog.Debug("volume not ready", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			if first == nil {
				first = err
			}
			continue
		}
		p.ready[v.Name] = true
	}
	return first
}

// Update tells that the pod object changed (labels, annotations, resources), for its mounted downwardAPI
// volumes. A pod that was never mounted is ignored.
func (m *Manager) Update(pod *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pods[pod.UID]
	if p == nil {
		return
	}
	if !sameDownward(p.pod, pod) {
		m.markLocked(p)
	}
	p.pod = pod
}

// HostPath is the volume's directory or file on the host, "" for volumes that have none (image).
func (m *Manager) HostPath(pod *v1.Pod, volume string) string {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == volume {
			return kindOf(v).hostPath(m.volumeOf(pod, v))
		}
	}
	return ""
}

// ReadOnly says that containers must not write to the volume, whatever their mount says: the pod says so
// of its claim, or the volume's contents come from the API and are replaced as a whole.
func (m *Manager) ReadOnly(v *v1.Volume) bool {
	_, ours := kindOf(v).(contents)
	return ours || v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
}

// ConfigMap returns a ConfigMap that the pod refers to, from the shared watch; for env too. A missing
// object is an apierrors.IsNotFound error.
func (m *Manager) ConfigMap(ctx context.Context, pod *v1.Pod, name string) (*v1.ConfigMap, error) {
	m.state(pod)
	return m.configMaps.get(ctx, pod, name)
}

// Secret is like ConfigMap.
func (m *Manager) Secret(ctx context.Context, pod *v1.Pod, name string) (*v1.Secret, error) {
	m.state(pod)
	return m.secrets.get(ctx, pod, name)
}

// Pods lists the pods that have directories on disk, also from an earlier run.
func (m *Manager) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(filepath.Join(m.root, "pods"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	var uids []types.UID
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	return uids, err
}

// PodDir is the pod's directory, <RootDir>/pods/<uid>.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.root, "pods", string(uid)) }

func (m *Manager) state(pod *v1.Pod) *podState {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pods[pod.UID]
	if p == nil {
		p = &podState{pod: pod, ready: map[string]bool{}}
		m.pods[pod.UID] = p
	}
	return p
}

func (m *Manager) volumeOf(pod *v1.Pod, v *v1.Volume) *volume {
	return &volume{Volume: v, m: m, pod: pod, podDir: m.PodDir(pod.UID)}
}

// changed marks the pods that refer to a changed object.
func (m *Manager) changed(uids []types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, uid := range uids {
		if p := m.pods[uid]; p != nil {
			m.markLocked(p)
		}
	}
}

func (m *Manager) markLocked(p *podState) {
	p.stale = true
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

// take returns the chosen pods and counts them as fresh, as of now.
func (m *Manager) take(choose func(*podState) bool) []*podState {
	m.mu.Lock()
	defer m.mu.Unlock()
	var chosen []*podState
	for p := range maps.Values(m.pods) {
		if choose(p) {
			p.stale = false
			chosen = append(chosen, p)
		}
	}
	return chosen
}

func (m *Manager) refresh(ctx context.Context, pods []*podState) {
	var group errgroup.Group
	group.SetLimit(parallelRefreshes)
	for _, p := range pods {
		group.Go(guard.Try("volumes", func() error {
			m.refreshPod(ctx, p)
			return nil
		}))
	}
	_ = group.Wait() // every pod logs for itself
}

func (m *Manager) refreshPod(ctx context.Context, p *podState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.mu.Lock()
	pod := p.pod
	m.mu.Unlock()
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if p.retired || !p.ready[v.Name] || ctx.Err() != nil {
			continue
		}
		// A failure leaves the old contents, which is what containers should see.
		if err := kindOf(v).refresh(ctx, m.volumeOf(pod, v)); err != nil {
			slog.Warn("refresh volume", "pod", pod.Namespace+"/"+pod.Name, "volume", v.Name, "error", err)
		}
	}
}

// sameDownward says that no downwardAPI file can differ between the two.
func sameDownward(a, b *v1.Pod) bool {
	return a == b || maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		reflect.DeepEqual(resourcesOf(a), resourcesOf(b))
}

func resourcesOf(pod *v1.Pod) []v1.ResourceRequirements {
	var all []v1.ResourceRequirements
	for i := range pod.Spec.Containers {
		all = append(all, pod.Spec.Containers[i].Resources)
	}
	return all
}
