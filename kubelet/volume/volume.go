// Package volume makes the volumes of pods on the node, keeps their contents up to date and takes them down.
package volume

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Config is what a Manager needs.
type Config struct {
	Client      kubernetes.Interface
	RootDir     string // the kubelet's directory; volumes are in <RootDir>/pods/<uid>
	NodeName    string
	Allocatable func() v1.ResourceList // stands in for missing limits in downwardAPI volumes
}

// Manager makes, refreshes and takes down volumes. It is safe for concurrent use.
type Manager struct{ cfg Config }

// New returns a Manager.
func New(cfg Config) *Manager { return &Manager{cfg: cfg} }

// Run keeps configMap, secret, projected and downwardAPI volumes of mounted pods up to date until ctx ends.
func (m *Manager) Run(ctx context.Context) error { return nil }

// Mount makes every volume of the pod ready. It may be repeated, and takes the newest pod object for the
// contents of downwardAPI volumes. The error names the volume as the FailedMount event does.
func (m *Manager) Mount(ctx context.Context, pod *v1.Pod) error { return nil }

// Update tells that the pod object changed (labels, annotations, resources), for its mounted downwardAPI volumes.
func (m *Manager) Update(pod *v1.Pod) {}

// ConfigMap returns a ConfigMap that the pod refers to, from the shared watch; for env too. A missing
// object is an apierrors.IsNotFound error.
func (m *Manager) ConfigMap(ctx context.Context, pod *v1.Pod, name string) (*v1.ConfigMap, error) {
	return nil, nil
}

// Secret is like ConfigMap.
func (m *Manager) Secret(ctx context.Context, pod *v1.Pod, name string) (*v1.Secret, error) {
	return nil, nil
}

// HostPath is the volume's directory or file on the host, "" for volumes that have none (image).
func (m *Manager) HostPath(pod *v1.Pod, volume string) string { return "" }

// SubPath resolves subPath (already expanded) in the volume of container's volumeMounts[index] without
// ever leaving the volume, makes missing directories, and returns a path on the host to bind that
// stays what it is whatever happens in the volume. Call it for every new container.
func (m *Manager) SubPath(pod *v1.Pod, container string, index int, mount v1.VolumeMount, subPath string) (string, error) {
	return "", nil
}

// Unmount takes down all that Mount and SubPath made for the pod, also in an earlier run, and removes
// <RootDir>/pods/<uid>. It may be repeated.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error { return nil }

// Pods lists the pods that have directories on disk, also from an earlier run.
func (m *Manager) Pods() ([]types.UID, error) { return nil, nil }
