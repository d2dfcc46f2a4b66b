package stats

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runtime is a container runtime with one pod, a replaced sandbox of it, and one of an earlier pod of its name. Each
// has a container that runs, and one before that, which has ended.
type runtime struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient
	dir string
}

func (r runtime) ListPodSandboxStats(context.Context, *cri.ListPodSandboxStatsRequest, ...grpc.CallOption) (*cri.ListPodSandboxStatsResponse, error) {
	sandbox := func(id, uid string, attempt uint32, cpu uint64) *cri.PodSandboxStats {
		return &cri.PodSandboxStats{
			Attributes: &cri.PodSandboxAttributes{Id: id, Metadata: &cri.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: uid, Attempt: attempt}},
			Linux: &cri.LinuxPodSandboxStats{
				Cpu:     &cri.CpuUsage{Timestamp: 5e9, UsageCoreNanoSeconds: &cri.UInt64Value{Value: cpu}},
				Memory:  &cri.MemoryUsage{Timestamp: 5e9, WorkingSetBytes: &cri.UInt64Value{Value: 4096}},
				Network: &cri.NetworkUsage{Timestamp: 5e9, DefaultInterface: &cri.NetworkInterfaceUsage{Name: "eth0", RxBytes: &cri.UInt64Value{Value: 7}}},
				Containers: []*cri.ContainerStats{{
					Attributes:    &cri.ContainerAttributes{Id: "ended-" + id, Metadata: &cri.ContainerMetadata{Name: "c"}},
					WritableLayer: &cri.FilesystemUsage{FsId: &cri.FilesystemIdentifier{Mountpoint: r.dir}, UsedBytes: &cri.UInt64Value{Value: 700}},
				}, {
					Attributes:    &cri.ContainerAttributes{Id: "c-" + id, Metadata: &cri.ContainerMetadata{Name: "c", Attempt: 1}},
					Cpu:           &cri.CpuUsage{Timestamp: 5e9, UsageCoreNanoSeconds: &cri.UInt64Value{Value: 2e9}},
					Memory:        &cri.MemoryUsage{Timestamp: 5e9, WorkingSetBytes: &cri.UInt64Value{Value: 2048}},
					WritableLayer: &cri.FilesystemUsage{FsId: &cri.FilesystemIdentifier{Mountpoint: r.dir}, UsedBytes: &cri.UInt64Value{Value: 100}, InodesUsed: &cri.UInt64Value{Value: 3}},
				}},
			},
		}
	}
	return &cri.ListPodSandboxStatsResponse{Stats: []*cri.PodSandboxStats{
		sandbox("earlier", "another", 7, 8e9), sandbox("new", "uid", 1, 3e9), sandbox("old", "uid", 0, 9e9),
	}}, nil
}

func (r runtime) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest, ...grpc.CallOption) (*cri.ImageFsInfoResponse, error) {
	fs := []*cri.FilesystemUsage{{FsId: &cri.FilesystemIdentifier{Mountpoint: r.dir}, UsedBytes: &cri.UInt64Value{Value: 55}}}
	return &cri.ImageFsInfoResponse{ImageFilesystems: fs, ContainerFilesystems: fs}, nil
}

func newProvider(t *testing.T) *Provider {
	t.Helper()
	dir := t.TempDir()
	for name, size := range map[string]int{"volume/a": 10000, "logs/ns_p_uid/c/0.log": 5000} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid", CreationTimestamp: metav1.Unix(900, 0)},
		Spec:       v1.PodSpec{Volumes: []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}},
		Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{
			Name: "c", State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.Unix(1000, 0)}},
		}}},
	}
	return New(Config{
		NodeName: "n", RootDir: dir, LogDir: filepath.Join(dir, "logs"), Cgroup: "/",
		Pods:    func() []*v1.Pod { return []*v1.Pod{pod} },
		Volume:  func(*v1.Pod, string) string { return filepath.Join(dir, "volume") },
		Runtime: runtime{dir: dir}, Images: runtime{dir: dir},
	})
}

func TestSummary(t *testing.T) {
	summary, err := newProvider(t).Summary(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	node := summary.Node
	if node.NodeName != "n" || *node.CPU.UsageCoreNanoSeconds == 0 || *node.Memory.WorkingSetBytes == 0 || *node.Memory.AvailableBytes == 0 ||
		*node.Fs.CapacityBytes == 0 || *node.Runtime.ImageFs.UsedBytes != 55 || *node.Rlimit.NumOfRunningProcesses == 0 || node.StartTime.IsZero() {
		t.Errorf("node: got %+v", node)
	}
	if len(summary.Pods) != 1 || len(summary.Pods[0].Containers) != 1 {
		t.Fatalf("pods: got %+v, want one with one container", summary.Pods)
	}
	pod := summary.Pods[0]
	c := pod.Containers[0]
	if got := *pod.CPU.UsageCoreNanoSeconds; got != 3e9 {
		t.Errorf("pod CPU: got %d, want that of the newest sandbox", got)
	}
	if *c.Rootfs.UsedBytes != 100 || *c.Logs.UsedBytes < 5000 || c.StartTime.Unix() != 1000 || *pod.Network.RxBytes != 7 {
		t.Errorf("got container %+v of %+v", c, pod)
	}
	volume := *pod.VolumeStats[0].UsedBytes
	if volume < 10000 || volume > 30000 {
		t.Errorf("volume: got %d bytes, want about 10000", volume)
	}
	if got, want := *pod.EphemeralStorage.UsedBytes, volume+100+*c.Logs.UsedBytes; got != want {
		t.Errorf("ephemeral storage: got %d, want %d", got, want)
	}
}

func TestSummaryOfCPUAndMemory(t *testing.T) {
	summary, err := newProvider(t).Summary(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	pod := summary.Pods[0]
	if summary.Node.Fs != nil || pod.VolumeStats != nil || pod.Network != nil || pod.Containers[0].Rootfs != nil {
		t.Errorf("got more than CPU and memory: %+v", summary)
	}
	if pod.CPU == nil || pod.Containers[0].Memory == nil {
		t.Errorf("got no CPU or memory: %+v", pod)
	}
}

func TestResourceMetrics(t *testing.T) {
	families, err := newProvider(t).Resources().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.Metric {
			var labels []string
			for _, l := range metric.Label {
				labels = append(labels, l.GetValue())
			}
			got[family.GetName()+"{"+strings.Join(labels, ",")+"}"] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"container_cpu_usage_seconds_total{c,ns,p}":  2,
		"container_memory_working_set_bytes{c,ns,p}": 2048,
		"container_start_time_seconds{c,ns,p}":       1000,
		"pod_cpu_usage_seconds_total{ns,p}":          3,
		"pod_memory_working_set_bytes{ns,p}":         4096,
		"resource_scrape_error{}":                    0,
	} {
		if value, found := got[name]; !found || value != want {
			t.Errorf("%s: got %v, want %v", name, value, want)
		}
	}
	if got["node_cpu_usage_seconds_total{}"] == 0 || got["node_memory_working_set_bytes{}"] == 0 {
		t.Errorf("the node uses nothing: %v", got)
	}
}

func TestRates(t *testing.T) {
	var r rates
	start := time.Unix(1000, 0)
	if got := r.of("a", start, 5e9); got != nil {
		t.Errorf("first: got %d, want none", *got)
	}
	if got := r.of("a", start.Add(2*time.Second), 6e9); got == nil || *got != 5e8 {
		t.Errorf("second: got %v, want half a CPU", got)
	}
	if got := r.of("a", start.Add(2100*time.Millisecond), 7e9); got == nil || *got != 5e8 {
		t.Errorf("too soon: got %v, want the rate before", got)
	}
	if got := r.of("a", start.Add(4*time.Second), 1e9); got != nil {
		t.Errorf("count that began anew: got %d, want none", *got)
	}
}

func TestCountFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	count := func() count {
		t.Helper()
		c, err := countFiles(dir)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	once := count()
	if err := os.Link(path, filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if got := count(); got.bytes != once.bytes || got.inodes != once.inodes {
		t.Errorf("with a second name: got %d bytes in %d inodes, want %d in %d as before", got.bytes, got.inodes, once.bytes, once.inodes)
	}
	if once.inodes != 2 {
		t.Errorf("got %d inodes, want 2", once.inodes)
	}
}
