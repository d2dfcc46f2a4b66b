// Package resources turns the requests and limits of pods into what the kernel understands, and keeps the
// pods' control groups.
//
// The first half is pure: a container's CRI resources (Linux), a pod's own limits (ForPod), the
// oom_score_adj of a quality of service (oom.go). The second half, Cgroups, makes and removes the
// directories <root>/kubepods[/burstable|/besteffort]/pod<uid> on cgroup v1 (every hierarchy that is
// mounted) and v2.
package resources

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresources "k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// Period is the CPU bandwidth period of every quota, in microseconds.
	Period = 100_000

	minShares, maxShares = 2, 262144 // the kernel's bounds of cpu.shares
	minQuota             = 1000      // the kernel's smallest cpu.cfs_quota_us
)

// Node is what of the node a container's limits depend on.
type Node struct {
	Memory    int64    // capacity in bytes; it scales oom_score_adj
	PageSizes []string // huge page sizes of the kernel as HugePageSizes names them
	V2        bool     // whether the node is on cgroup v2
}

// Shares is the cpu.shares of a CPU request in thousandths of a CPU.
func Shares(milli int64) int64 {
	return min(max(milli*1024/1000, minShares), maxShares)
}

// Quota is the CPU time per Period of a CPU limit in thousandths of a CPU; -1 without a limit.
func Quota(milli int64) int64 {
	if milli <= 0 {
		return -1
	}
	return max(milli*Period/1000, minQuota)
}

// Linux are the CRI resources of a container of a pod, to create it and to resize it.
func Linux(pod *v1.Pod, c *v1.Container, node Node) *cri.LinuxContainerResources {
	r := &cri.LinuxContainerResources{
		CpuShares:          Shares(cpuRequest(pod, c)),
		CpuPeriod:          Period,
		CpuQuota:           Quota(limit(pod, c, v1.ResourceCPU).MilliValue()),
		MemoryLimitInBytes: limit(pod, c, v1.ResourceMemory).Value(),
		OomScoreAdj:        OOMScoreAdj(pod, c, node.Memory),
		HugepageLimits:     hugePages(c.Resources.Limits, node.PageSizes),
	}
	if node.V2 {
		// One process out of memory takes the whole container down, rather than leave half of it.
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// Sandbox are the resources of the whole pod without its overhead, as PodSandboxConfig.Linux.Resources takes them.
func Sandbox(pod *v1.Pod) *cri.LinuxContainerResources {
	options := podresources.PodResourcesOptions{ExcludeOverhead: true}
	limits := podresources.PodLimits(pod, options)
	requests := podresources.PodRequests(pod, options)
	return &cri.LinuxContainerResources{
		CpuShares:          Shares(requests.Cpu().MilliValue()),
		CpuPeriod:          Period,
		CpuQuota:           Quota(limits.Cpu().MilliValue()),
		MemoryLimitInBytes: limits.Memory().Value(),
	}
}

// Overhead are the resources of the pod's overhead, as PodSandboxConfig.Linux.Overhead takes them.
func Overhead(pod *v1.Pod) *cri.LinuxContainerResources {
	if len(pod.Spec.Overhead) == 0 {
		return &cri.LinuxContainerResources{}
	}
	return &cri.LinuxContainerResources{
		CpuShares:          Shares(pod.Spec.Overhead.Cpu().MilliValue()),
		CpuPeriod:          Period,
		CpuQuota:           Quota(pod.Spec.Overhead.Cpu().MilliValue()),
		MemoryLimitInBytes: pod.Spec.Overhead.Memory().Value(),
	}
}

// cpuRequest is the request in thousandths, else what the limit implies.
func cpuRequest(pod *v1.Pod, c *v1.Container) int64 {
	if q, found := c.Resources.Requests[v1.ResourceCPU]; found {
		return q.MilliValue()
	}
	return limit(pod, c, v1.ResourceCPU).MilliValue()
}

// limit is the container's limit, else its pod's, else zero.
func limit(pod *v1.Pod, c *v1.Container, name v1.ResourceName) *resource.Quantity {
	if q, found := c.Resources.Limits[name]; found && !q.IsZero() {
		return &q
	}
	if pod.Spec.Resources != nil {
		if q, found := pod.Spec.Resources.Limits[name]; found {
			return &q
		}
	}
	return &resource.Quantity{}
}

// hugePages limits every page size of the node: to nothing unless the container asks for it.
func hugePages(limits v1.ResourceList, sizes []string) []*cri.HugepageLimit {
	var all []*cri.HugepageLimit
	for _, size := range sizes {
		all = append(all, &cri.HugepageLimit{PageSize: size})
	}
	for name, q := range limits {
		size, ok := pageSize(name)
		if !ok {
			continue
		}
		i := slices.IndexFunc(all, func(l *cri.HugepageLimit) bool { return l.PageSize == size })
		if i < 0 {
			all = append(all, &cri.HugepageLimit{PageSize: size})
			i = len(all) - 1
		}
		all[i].Limit = uint64(q.Value())
	}
	slices.SortFunc(all, func(a, b *cri.HugepageLimit) int { return strings.Compare(a.PageSize, b.PageSize) })
	return all
}

// pageSize takes the resource name "hugepages-2Mi" to the kernel's "2MB".
func pageSize(name v1.ResourceName) (string, bool) {
	suffix, found := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
	if !found {
		return "", false
	}
	q, err := resource.ParseQuantity(suffix)
	if err != nil {
		return "", false
	}
	return formatPageSize(q.Value()), true
}

func formatPageSize(bytes int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}} {
		if bytes >= unit.size {
			return fmt.Sprintf("%d%s", bytes/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%dB", bytes)
}

// HugePageSizes lists the kernel's huge page sizes, "2MB" and "1GB".
func HugePageSizes() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil // a kernel without huge pages
	}
	var sizes []string
	for _, e := range entries {
		var kb int64
		if _, err := fmt.Sscanf(filepath.Base(e.Name()), "hugepages-%dkB", &kb); err == nil {
			sizes = append(sizes, formatPageSize(kb<<10))
		}
	}
	slices.Sort(sizes)
	return sizes
}
