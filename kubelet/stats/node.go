package stats

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/resources"
)

// node measures the node as a whole. CPU and memory are those of its control group, so that nodes which
// share a machine are told apart; memory that is available is the machine's.
func (p *Provider) node(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.NodeStats, error) {
	usage, err := resources.Measure(p.cfg.Cgroup)
	if err != nil {
		return nil, err
	}
	memory, err := readMeminfo("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	if usage.Memory == 0 { // the root group of cgroup v2
		usage.Memory = memory["MemTotal"] - memory["MemFree"]
		usage.WorkingSet = memory["MemTotal"] - memory["MemAvailable"]
		usage.RSS = memory["AnonPages"]
	}
	boot, err := bootTime("/proc/stat")
	if err != nil {
		return nil, err
	}
	now := time.Now()
	node := &statsapi.NodeStats{
		NodeName:  p.cfg.NodeName,
		StartTime: metav1.NewTime(boot),
		CPU:       p.cpu("node", now, usage.CPU),
		Memory:    memoryOf(now, usage),
		Swap: &statsapi.SwapStats{
			Time:               metav1.NewTime(now),
			SwapAvailableBytes: ptr(memory["SwapFree"]),
			SwapUsageBytes:     ptr(memory["SwapTotal"] - memory["SwapFree"]),
		},
	}
	node.Memory.AvailableBytes = ptr(memory["MemAvailable"])
	node.SystemContainers = p.systemContainers(now, boot)
	if onlyCPUAndMemory {
		return node, nil
	}

	if node.Fs, err = filesystem(p.cfg.RootDir); err != nil {
		return nil, err
	}
	if node.Runtime, err = p.imageFilesystem(ctx); err != nil {
		return nil, err
	}
	if node.Network, err = network(now, "/proc/self/net"); err != nil {
		return nil, err
	}
	node.Rlimit, err = processes(now)
	return node, err
}

// systemContainers measures the group of all pods, when it is there already.
func (p *Provider) systemContainers(now, boot time.Time) []statsapi.ContainerStats {
	usage, err := resources.Measure(strings.TrimSuffix(p.cfg.Cgroup, "/") + "/kubepods")
	if err != nil {
		return nil
	}
	return []statsapi.ContainerStats{{
		Name:      statsapi.SystemContainerPods,
		StartTime: metav1.NewTime(boot),
		CPU:       p.cpu("pods", now, usage.CPU),
		Memory:    memoryOf(now, usage),
	}}
}

func (p *Provider) cpu(key string, at time.Time, count uint64) *statsapi.CPUStats {
	return &statsapi.CPUStats{
		Time:                 metav1.NewTime(at),
		UsageCoreNanoSeconds: ptr(count),
		UsageNanoCores:       p.rates.of(key, at, count),
	}
}

func memoryOf(at time.Time, u resources.Usage) *statsapi.MemoryStats {
	return &statsapi.MemoryStats{
		Time:            metav1.NewTime(at),
		UsageBytes:      ptr(u.Memory),
		WorkingSetBytes: ptr(u.WorkingSet),
		RSSBytes:        ptr(u.RSS),
		PageFaults:      ptr(u.PageFaults),
		MajorPageFaults: ptr(u.MajorPageFaults),
	}
}

// imageFilesystem measures where the runtime keeps images and the files of containers.
func (p *Provider) imageFilesystem(ctx context.Context) (*statsapi.RuntimeStats, error) {
	info, err := p.cfg.Images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for its image file system: %w", err)
	}
	r := &statsapi.RuntimeStats{}
	for _, part := range []struct {
		filesystems []*cri.FilesystemUsage
		into        **statsapi.FsStats
	}{{info.ImageFilesystems, &r.ImageFs}, {info.ContainerFilesystems, &r.ContainerFs}} {
		if len(part.filesystems) == 0 {
			continue
		}
		used := part.filesystems[0]
		whole, err := filesystem(used.GetFsId().GetMountpoint())
		if err != nil {
			return nil, err
		}
		whole.UsedBytes = ptr(used.GetUsedBytes().GetValue())
		if used.InodesUsed != nil {
			whole.InodesUsed = ptr(used.InodesUsed.Value)
		}
		*part.into = whole
	}
	return r, nil
}

// readMeminfo reads proc_meminfo(5) into bytes.
func readMeminfo(file string) (map[string]uint64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	table := map[string]uint64{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(line, ":")
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err == nil {
			table[name] = n << 10
		}
	}
	return table, nil
}

// bootTime reads when the machine started.
func bootTime(file string) (time.Time, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(raw)) {
		if text, found := strings.CutPrefix(line, "btime "); found {
			seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			return time.Unix(seconds, 0), err
		}
	}
	return time.Time{}, fmt.Errorf("%s does not say when the machine started", file)
}

// processes counts the node's threads and how many there can be.
func processes(now time.Time) (*statsapi.RlimitStats, error) {
	r := &statsapi.RlimitStats{Time: metav1.NewTime(now)}
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if r.MaxPID == nil || n < *r.MaxPID {
			r.MaxPID = &n
		}
	}
	raw, err := os.ReadFile("/proc/loadavg") // "0.1 0.2 0.3 running/all last"
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(raw), "/")
	all, _, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(all, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("/proc/loadavg: %w", err)
	}
	r.NumOfRunningProcesses = &n
	return r, nil
}

// network reads the counters of the interfaces in a network namespace, from its directory in /proc.
func network(now time.Time, dir string) (*statsapi.NetworkStats, error) {
	raw, err := os.ReadFile(dir + "/dev")
	if err != nil {
		return nil, err
	}
	stats := &statsapi.NetworkStats{Time: metav1.NewTime(now)}
	main := defaultInterface(dir + "/route")
	for line := range strings.Lines(string(raw)) {
		name, counters, found := strings.Cut(strings.TrimSpace(line), ":")
		columns := strings.Fields(counters)
		if !found || len(columns) < 11 || name == "lo" {
			continue
		}
		number := func(column int) *uint64 {
			n, err := strconv.ParseUint(columns[column], 10, 64)
			if err != nil {
				return nil
			}
			return &n
		}
		i := statsapi.InterfaceStats{Name: name, RxBytes: number(0), RxErrors: number(2), TxBytes: number(8), TxErrors: number(10)}
		stats.Interfaces = append(stats.Interfaces, i)
		if name == main {
			stats.InterfaceStats = i
		}
	}
	return stats, nil
}

// defaultInterface is the interface of the default route, "" when there is none.
func defaultInterface(file string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		columns := strings.Fields(line)
		if len(columns) > 7 && columns[1] == "00000000" && columns[7] == "00000000" {
			return columns[0]
		}
	}
	return ""
}
