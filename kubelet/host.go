package kubelet

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/logs"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/server"
)

// What the kubelet's API asks for.
var _ server.Host = (*Kubelet)(nil)

// Pods are the pods of the node with their newest status.
func (k *Kubelet) Pods() []*v1.Pod { return k.pods.Pods() }

// RunningPods are the pods the runtime has, made up from its labels.
func (k *Kubelet) RunningPods(ctx context.Context) ([]*v1.Pod, error) {
	briefs, err := k.runtime.Pods(ctx)
	if err != nil {
		return nil, err
	}
	var all []*v1.Pod
	for uid, b := range briefs {
		if !b.Alive {
			continue
		}
		rt, err := k.runtime.Pod(ctx, uid)
		if err != nil {
			return nil, err
		}
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Namespace: b.Namespace, Name: b.Name}}
		for _, c := range rt.Live() {
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: c.Name, Image: c.Image})
		}
		all = append(all, pod)
	}
	return all, nil
}

// Container is the runtime's id of a running container, "" when there is none.
func (k *Kubelet) Container(ctx context.Context, uid types.UID, container string) (string, error) {
	rt, err := k.runtime.Pod(ctx, uid)
	if err != nil {
		return "", err
	}
	if c := rt.Latest(container); c != nil && c.State == runtime.Running {
		return c.ID, nil
	}
	return "", nil
}

// Sandbox is the runtime's id of the pod's ready sandbox, "" when there is none.
func (k *Kubelet) Sandbox(ctx context.Context, uid types.UID) (string, error) {
	rt, err := k.runtime.Pod(ctx, uid)
	if err != nil {
		return "", err
	}
	if s := rt.ReadySandbox(); s != nil {
		return s.ID, nil
	}
	return "", nil
}

// Log is the log file of a container and whether the container still runs.
func (k *Kubelet) Log(ctx context.Context, containerID string) (string, bool, error) {
	return k.runtime.Log(ctx, containerID)
}

// runningLogs lists the logs that grow. It remembers their paths, as it is asked every few seconds.
func (k *Kubelet) runningLogs(ctx context.Context) ([]logs.Log, error) {
	ids, err := k.runtime.RunningContainers(ctx)
	if err != nil {
		return nil, err
	}
	paths := make(map[string]string, len(ids))
	var all []logs.Log
	for _, id := range ids {
		path, found := k.logPaths[id]
		if !found {
			if path, _, err = k.runtime.Log(ctx, id); err != nil {
				continue // it just ended
			}
		}
		paths[id] = path
		if path != "" {
			all = append(all, logs.Log{ContainerID: id, Path: path})
		}
	}
	k.logPaths = paths
	return all, nil
}

// imageDisk measures the file system the images are on.
func (k *Kubelet) imageDisk(ctx context.Context) (capacity, available uint64, err error) {
	mountpoint, _, err := k.runtime.ImageFilesystem(ctx)
	if err != nil {
		return 0, 0, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(mountpoint, &fs); err != nil {
		return 0, 0, fmt.Errorf("measure %s: %w", mountpoint, err)
	}
	return fs.Blocks * uint64(fs.Bsize), fs.Bavail * uint64(fs.Bsize), nil
}
