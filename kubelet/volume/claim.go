package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// claim is a volume from a PersistentVolumeClaim, named by the pod or made for it (ephemeral). Of
// PersistentVolumes those can be used that are directories of the node: hostPath and local. The directory
// is bound into the pod's own, so that the pod's volume is found without the API.
type claim struct{}

// localVolume is where such volumes are in the pod's directory.
const localVolume = "local-volume"

func (claim) hostPath(v *volume) string              { return v.dir(localVolume) }
func (claim) refresh(context.Context, *volume) error { return nil }

func (claim) setUp(ctx context.Context, v *volume) error {
	pv, err := v.persistentVolume(ctx)
	if err != nil {
		return err
	}
	if err := v.checkNode(ctx, pv); err != nil {
		return err
	}
	source, err := untrusted.Await(ctx, "directory of "+pv.Name, func() (string, error) { return directoryOf(pv) })
	if err != nil {
		return err
	}
	dir := v.dir(localVolume)
	if err := makeDir(dir, 0o750); err != nil {
		return err
	}
	mounted, err := isMount(dir)
	if err != nil {
		return err
	}
	if mounted {
		v.m.reserve(pv, v.pod.UID) // what an earlier run gave
		return nil
	}
	if !v.m.reserve(pv, v.pod.UID) {
		return errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
	}
	if pv.Spec.Local != nil { // a hostPath belongs to the node and keeps its modes
		if err := v.giveClaim(ctx, source); err != nil {
			return err
		}
	}
	if err := unix.Mount(source, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, dir, err)
	}
	return nil
}

// persistentVolume is the volume the pod's claim is bound to.
func (v *volume) persistentVolume(ctx context.Context) (*v1.PersistentVolume, error) {
	name := v.pod.Name + "-" + v.Name // of a claim made for the pod
	if v.PersistentVolumeClaim != nil {
		name = v.PersistentVolumeClaim.ClaimName
	}
	client := v.m.cfg.Client.CoreV1()
	pvc, err := client.PersistentVolumeClaims(v.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	switch {
	case v.Ephemeral != nil && !metav1.IsControlledBy(pvc, v.pod):
		return nil, fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", pvc.Namespace, pvc.Name, v.pod.Namespace, v.pod.Name)
	case pvc.DeletionTimestamp != nil && pvc.Status.Phase != v1.ClaimBound:
		return nil, errors.New("PVC is being deleted")
	case pvc.Status.Phase != v1.ClaimBound || pvc.Spec.VolumeName == "":
		return nil, fmt.Errorf("PVC %s/%s is not bound", pvc.Namespace, pvc.Name)
	}
	pv, err := client.PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("failed to get PV %s from API server: %w", pvc.Spec.VolumeName, err)
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != pvc.UID {
		return nil, fmt.Errorf("failed to get PV %s from API server: it is bound to another claim than %s", pv.Name, pvc.UID)
	}
	return pv, nil
}

// checkNode refuses a volume that is on other nodes: a pod that was bound by hand finds no scheduler in
// its way.
func (v *volume) checkNode(ctx context.Context, pv *v1.PersistentVolume) error {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	node, err := v.m.cfg.Client.CoreV1().Nodes().Get(ctx, v.m.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get the labels of node %s: %w", v.m.cfg.NodeName, err)
	}
	if err := storage.CheckNodeAffinity(pv, node.Labels); err != nil {
		return fmt.Errorf("PersistentVolume %s is not for node %s: %w", pv.Name, node.Name, err)
	}
	return nil
}

// directoryOf is the directory on the node that a PersistentVolume is, by a path without links: what is walked below it, to give
// it to a group, does not follow any.
func directoryOf(pv *v1.PersistentVolume) (string, error) {
	if mode := pv.Spec.VolumeMode; mode != nil && *mode == v1.PersistentVolumeBlock {
		return "", fmt.Errorf("PersistentVolume %s is a block device, which this node has no volume plugin for", pv.Name)
	}
	var path string
	switch s := pv.Spec.PersistentVolumeSource; {
	case s.Local != nil:
		path = s.Local.Path
	case s.HostPath != nil:
		path = s.HostPath.Path
		if err := setUpHostPath(s.HostPath); err != nil {
			return "", err
		}
		if s.HostPath.Type == nil || *s.HostPath.Type == v1.HostPathUnset {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return "", err
			}
		}
	default:
		return "", fmt.Errorf("no volume plugin matched: this node has none for PersistentVolumes of type %q", typeName(s))
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("path %q of PersistentVolume %s: %w", path, pv.Name, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("path %q of PersistentVolume %s is not a directory", path, pv.Name)
	}
	return filepath.EvalSymlinks(path)
}

// giveClaim gives a volume with whatever an earlier pod wrote there to the pod's group.
func (v *volume) giveClaim(ctx context.Context, dir string) error {
	group := v.fsGroup()
	if group == nil {
		return nil
	}
	policy := v.pod.Spec.SecurityContext.FSGroupChangePolicy
	if policy != nil && *policy == v1.FSGroupChangeOnRootMismatch {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if belongsTo(info, *group, writable) {
			return nil
		}
	}
	return giveToGroup(ctx, dir, group, writable)
}

// reserve gives a volume that one pod alone may use to a pod, until that is taken down. It reports whether no other pod
// has it: the scheduler sees to that, but not for pods that are bound by hand.
func (m *Manager) reserve(pv *v1.PersistentVolume, uid types.UID) bool {
	if modes := pv.Spec.AccessModes; len(modes) != 1 || modes[0] != v1.ReadWriteOncePod {
		return true // with several modes it is not known which one a pod means
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if holder, taken := m.exclusive[pv.Name]; taken && holder != uid {
		return false
	}
	m.exclusive[pv.Name] = uid
	return true
}

// release ends what reserve gave to a pod.
func (m *Manager) release(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.exclusive, func(_ string, holder types.UID) bool { return holder == uid })
}

// UserOf names a pod that has a directory of the node as its volume, or nothing.
func (m *Manager) UserOf(ctx context.Context, dir os.FileInfo) (uid string, err error) {
	mounts, err := filepath.Glob(filepath.Join(m.root, "pods", "*", "volumes", "kubernetes.io~"+localVolume, "*"))
	if err != nil {
		return "", err
	}
	for _, mount := range mounts {
		info, err := untrusted.Await(ctx, "look at "+mount, func() (os.FileInfo, error) { return os.Lstat(mount) })
		if errors.Is(err, fs.ErrNotExist) {
			continue // the pod was just taken down
		}
		if err != nil {
			return "", fmt.Errorf("whether a pod uses a volume is not known: %w", err)
		}
		if os.SameFile(info, dir) {
			return strings.Split(strings.TrimPrefix(mount, m.root), "/")[2], nil
		}
	}
	return "", nil
}
