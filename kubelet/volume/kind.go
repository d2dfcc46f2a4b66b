package volume

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// volume is one volume of one pod.
type volume struct {
	*v1.Volume
	m      *Manager
	pod    *v1.Pod
	podDir string
}

// dir is where a volume that the kubelet makes is, <pod>/volumes/kubernetes.io~<type>/<name>.
func (v *volume) dir(kind string) string {
	return filepath.Join(v.podDir, "volumes", "kubernetes.io~"+kind, v.Name)
}

// kind is a type of volumes.
type kind interface {
	// hostPath is the volume's directory or file on the host, "" when it has none.
	hostPath(v *volume) string
	// setUp makes the volume. It may find what an earlier run made.
	setUp(ctx context.Context, v *volume) error
	// refresh brings the contents of a volume that is set up to what they should be now.
	refresh(ctx context.Context, v *volume) error
}

// kindOf finds the type of a volume.
func kindOf(v *v1.Volume) kind {
	switch s := &v.VolumeSource; {
	case s.EmptyDir != nil:
		return emptyDir{}
	case s.HostPath != nil:
		return hostPath{}
	case s.ConfigMap != nil:
		return contents{kind: "configmap", collect: configMapFiles}
	case s.Secret != nil:
		return contents{kind: "secret", collect: secretFiles, inMemory: true}
	case s.Projected != nil:
		return contents{kind: "projected", collect: projectedFiles, inMemory: true}
	case s.DownwardAPI != nil:
		return contents{kind: "downward-api", collect: downwardFiles, inMemory: true}
	case s.PersistentVolumeClaim != nil || s.Ephemeral != nil:
		return claim{}
	case s.Image != nil:
		return image{}
	}
	return unsupported{}
}

// image volumes are mounted by the runtime, from Mount.Image of a container.
type image struct{}

func (image) hostPath(*volume) string                { return "" }
func (image) setUp(context.Context, *volume) error   { return nil }
func (image) refresh(context.Context, *volume) error { return nil }

// unsupported is every other type.
type unsupported struct{}

func (unsupported) hostPath(*volume) string                { return "" }
func (unsupported) refresh(context.Context, *volume) error { return nil }

func (unsupported) setUp(_ context.Context, v *volume) error {
	return fmt.Errorf("no volume plugin matched: this node has none for volumes of type %q", typeName(v.VolumeSource))
}

// typeName is the name of the type in the API, such as "nfs", of a volume's or PersistentVolume's source.
func typeName(source any) string {
	raw, err := json.Marshal(source)
	if err != nil {
		return "unknown"
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return "unknown"
	}
	for name := range fields {
		return name
	}
	return "none"
}
