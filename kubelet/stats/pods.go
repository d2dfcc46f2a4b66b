package stats

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// pods measures the pods that have a sandbox, sorted by namespace and name.
func (p *Provider) pods(ctx context.Context, onlyCPUAndMemory bool) ([]statsapi.PodStats, error) {
	answer, err := p.cfg.Runtime.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for its sandboxes: %w", err)
	}
	known := map[string]*v1.Pod{}
	for _, pod := range p.cfg.Pods() {
		known[string(pod.UID)] = pod
	}
	all := []statsapi.PodStats{}
	for _, sandbox := range newest(answer.Stats, known) {
		pod := known[sandbox.GetAttributes().GetMetadata().GetUid()]
		stats := p.pod(sandbox, pod)
		if onlyCPUAndMemory {
			stats.Network, stats.EphemeralStorage, stats.ProcessStats = nil, nil, nil
			for i := range stats.Containers {
				stats.Containers[i].Rootfs = nil
			}
		} else if pod != nil {
			p.addDisks(ctx, &stats, pod)
		}
		all = append(all, stats)
	}
	slices.SortFunc(all, func(a, b statsapi.PodStats) int {
		return strings.Compare(a.PodRef.Namespace+"/"+a.PodRef.Name, b.PodRef.Namespace+"/"+b.PodRef.Name)
	})
	return all, nil
}

// newest keeps one sandbox for each name of a pod, as those that were replaced can linger: the last sandbox of
// the youngest pod.
func newest(sandboxes []*cri.PodSandboxStats, known map[string]*v1.Pod) map[types.NamespacedName]*cri.PodSandboxStats {
	made := func(m *cri.PodSandboxMetadata) (at time.Time) {
		if pod := known[m.Uid]; pod != nil {
			at = pod.CreationTimestamp.Time
		}
		return at
	}
	younger := func(a, b *cri.PodSandboxMetadata) bool {
		return cmp.Or(made(a).Compare(made(b)), cmp.Compare(a.Attempt, b.Attempt)) > 0
	}
	last := map[types.NamespacedName]*cri.PodSandboxStats{}
	for _, s := range sandboxes {
		m := s.GetAttributes().GetMetadata()
		if s.GetLinux() == nil || m.GetUid() == "" {
			continue
		}
		name := types.NamespacedName{Namespace: m.Namespace, Name: m.Name}
		if old := last[name]; old == nil || younger(m, old.Attributes.Metadata) {
			last[name] = s
		}
	}
	return last
}

// running are the containers that use something, one of each name: the runtime tells of those that have ended, too.
func running(containers []*cri.ContainerStats) map[string]*cri.ContainerStats {
	last := map[string]*cri.ContainerStats{}
	for _, c := range containers {
		if c.Cpu == nil && c.Memory == nil {
			continue
		}
		name := c.GetAttributes().GetMetadata().GetName()
		if old := last[name]; old == nil || old.GetAttributes().GetMetadata().GetAttempt() < c.GetAttributes().GetMetadata().GetAttempt() {
			last[name] = c
		}
	}
	return last
}

func (p *Provider) pod(s *cri.PodSandboxStats, pod *v1.Pod) statsapi.PodStats {
	m, linux := s.Attributes.Metadata, s.Linux
	stats := statsapi.PodStats{
		PodRef:     statsapi.PodReference{Name: m.Name, Namespace: m.Namespace, UID: m.Uid},
		CPU:        p.criCPU("pod "+s.Attributes.Id, linux.Cpu),
		Memory:     criMemory(linux.Memory),
		Network:    criNetwork(linux.Network),
		Containers: []statsapi.ContainerStats{},
	}
	if pod != nil && pod.Status.StartTime != nil {
		stats.StartTime = *pod.Status.StartTime
	}
	if linux.Process != nil {
		stats.ProcessStats = &statsapi.ProcessStats{ProcessCount: value(linux.Process.ProcessCount)}
	}
	for _, c := range running(linux.Containers) {
		stats.Containers = append(stats.Containers, p.container(c, pod))
	}
	slices.SortFunc(stats.Containers, func(a, b statsapi.ContainerStats) int { return strings.Compare(a.Name, b.Name) })
	return stats
}

func (p *Provider) container(c *cri.ContainerStats, pod *v1.Pod) statsapi.ContainerStats {
	stats := statsapi.ContainerStats{
		Name:   c.GetAttributes().GetMetadata().GetName(),
		CPU:    p.criCPU("container "+c.GetAttributes().GetId(), c.Cpu),
		Memory: criMemory(c.Memory),
	}
	stats.StartTime = startTime(pod, stats.Name)
	if c.Swap != nil {
		stats.Swap = &statsapi.SwapStats{
			Time:               nanos(c.Swap.Timestamp),
			SwapAvailableBytes: value(c.Swap.SwapAvailableBytes),
			SwapUsageBytes:     value(c.Swap.SwapUsageBytes),
		}
	}
	if layer := c.WritableLayer; layer != nil {
		stats.Rootfs = &statsapi.FsStats{Time: nanos(layer.Timestamp)}
		if whole, err := filesystem(layer.GetFsId().GetMountpoint()); err == nil {
			stats.Rootfs = whole
		}
		stats.Rootfs.UsedBytes, stats.Rootfs.InodesUsed = value(layer.UsedBytes), value(layer.InodesUsed)
	}
	return stats
}

// addDisks adds the volumes and logs of a pod, and what all of its disk use comes to.
func (p *Provider) addDisks(ctx context.Context, stats *statsapi.PodStats, pod *v1.Pod) {
	var used, inodes uint64
	add := func(fs *statsapi.FsStats) {
		if fs != nil && fs.UsedBytes != nil {
			used += *fs.UsedBytes
		}
		if fs != nil && fs.InodesUsed != nil {
			inodes += *fs.InodesUsed
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		dir := p.cfg.Volume(pod, v.Name)
		if dir == "" || v.HostPath != nil {
			continue // not the pod's own
		}
		fs, err := p.disk.directory(ctx, dir)
		if err != nil {
			continue // not mounted yet, or not any more
		}
		stats.VolumeStats = append(stats.VolumeStats, statsapi.VolumeStats{Name: v.Name, FsStats: *fs})
		if v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault {
			add(fs)
		}
	}
	for i := range stats.Containers {
		c := &stats.Containers[i]
		if p.cfg.LogDir != "" {
			dir := filepath.Join(p.cfg.LogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID), c.Name)
			if logs, err := p.disk.directory(ctx, dir); err == nil {
				c.Logs = logs
			}
		}
		add(c.Rootfs)
		add(c.Logs)
	}
	whole, err := filesystem(p.cfg.RootDir)
	if err != nil && !os.IsNotExist(err) || whole == nil {
		return
	}
	whole.UsedBytes, whole.InodesUsed = &used, &inodes
	stats.EphemeralStorage = whole
}

func (p *Provider) criCPU(key string, c *cri.CpuUsage) *statsapi.CPUStats {
	if c == nil {
		return nil
	}
	stats := &statsapi.CPUStats{
		Time:                 nanos(c.Timestamp),
		UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds),
		UsageNanoCores:       value(c.UsageNanoCores),
	}
	if stats.UsageNanoCores == nil && stats.UsageCoreNanoSeconds != nil {
		stats.UsageNanoCores = p.rates.of(key, stats.Time.Time, *stats.UsageCoreNanoSeconds)
	}
	return stats
}

func criMemory(m *cri.MemoryUsage) *statsapi.MemoryStats {
	if m == nil {
		return nil
	}
	return &statsapi.MemoryStats{
		Time:            nanos(m.Timestamp),
		AvailableBytes:  value(m.AvailableBytes),
		UsageBytes:      value(m.UsageBytes),
		WorkingSetBytes: value(m.WorkingSetBytes),
		RSSBytes:        value(m.RssBytes),
		PageFaults:      value(m.PageFaults),
		MajorPageFaults: value(m.MajorPageFaults),
	}
}

func criNetwork(n *cri.NetworkUsage) *statsapi.NetworkStats {
	if n == nil {
		return nil
	}
	stats := &statsapi.NetworkStats{Time: nanos(n.Timestamp)}
	if n.DefaultInterface != nil {
		stats.InterfaceStats = criInterface(n.DefaultInterface)
	}
	for _, i := range n.Interfaces {
		stats.Interfaces = append(stats.Interfaces, criInterface(i))
	}
	return stats
}

func criInterface(i *cri.NetworkInterfaceUsage) statsapi.InterfaceStats {
	return statsapi.InterfaceStats{
		Name: i.Name, RxBytes: value(i.RxBytes), RxErrors: value(i.RxErrors), TxBytes: value(i.TxBytes), TxErrors: value(i.TxErrors),
	}
}

// startTime is when the running container of this name started.
func startTime(pod *v1.Pod, name string) metav1.Time {
	if pod == nil {
		return metav1.Time{}
	}
	s := &pod.Status
	for _, c := range slices.Concat(s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses) {
		if c.Name == name && c.State.Running != nil {
			return c.State.Running.StartedAt
		}
	}
	return metav1.Time{}
}

func value(v *cri.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func nanos(n int64) metav1.Time { return metav1.NewTime(time.Unix(0, n)) }
