// Package resources turns the requests and limits of pods into what the kernel understands, and keeps the
// pods' control groups.
//
// The first half is pure: a container's CRI resources (Linux), a pod's own limits (ForPod), the
// oom_score_adj of a quality of service. The second half, Cgroups, makes and removes the directories
// <root>/kubepods[/burstable|/besteffort]/pod<uid> on cgroup v1 (every hierarchy that is mounted) and v2.
package resources

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is what of the node a container's limits depend on.
type Node struct {
	Memory int64 // capacity in bytes; it scales oom_score_adj and stands in for a missing memory limit
	V2     bool  // whether the node is on cgroup v2
}

// Linux are the CRI resources of a container of a pod.
func Linux(pod *v1.Pod, c *v1.Container, node Node) *cri.LinuxContainerResources { return nil }

// Sandbox are the resources of the whole pod, as PodSandboxConfig.Linux.Resources takes them.
func Sandbox(pod *v1.Pod) *cri.LinuxContainerResources { return nil }

// QOS is the pod's quality of service class: the one in its status, else computed from its spec.
func QOS(pod *v1.Pod) v1.PodQOSClass { return "" }

// Cgroups keeps the control groups below one root. It is safe for concurrent use.
type Cgroups struct{}

// OpenCgroups finds the mounted hierarchies and makes root and its quality of service groups there.
// root is a path within the hierarchies such as "/" or "/skiff/node-1".
func OpenCgroups(root string) (*Cgroups, error) { return nil, nil }

// V2 says that the host is on cgroup v2.
func (c *Cgroups) V2() bool { return false }

// PodParent is the cgroup parent of the pod's sandbox, for PodSandboxConfig.Linux.CgroupParent.
func (c *Cgroups) PodParent(pod *v1.Pod) string { return "" }

// EnsurePod makes the pod's groups and sets or updates their limits.
func (c *Cgroups) EnsurePod(pod *v1.Pod) error { return nil }

// RemovePod kills what is left in the pod's groups and removes them. It may be repeated.
func (c *Cgroups) RemovePod(uid types.UID) error { return nil }

// Pods lists the pods that have groups, also from an earlier run.
func (c *Cgroups) Pods() ([]types.UID, error) { return nil, nil }
