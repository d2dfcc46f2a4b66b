package resources

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// demand reads "cpu=100m,memory=1Gi" as a resource list.
func demand(s string) v1.ResourceList {
	list := v1.ResourceList{}
	for _, item := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) {
		name, value, _ := strings.Cut(item, "=")
		list[v1.ResourceName(name)] = resource.MustParse(value)
	}
	return list
}

func container(requests, limits string) v1.Container {
	return v1.Container{Name: "c", Resources: v1.ResourceRequirements{Requests: demand(requests), Limits: demand(limits)}}
}

func podOf(containers ...v1.Container) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "3f2a"}, Spec: v1.PodSpec{Containers: containers}}
}

func TestContainerCPUAndMemory(t *testing.T) {
	for _, test := range []struct {
		name                  string
		requests, limits      string
		shares, quota, memory int64
	}{
		{"nothing", "", "", 2, -1, 0},
		{"request of zero", "cpu=0", "", 2, -1, 0},
		{"request below the smallest share", "cpu=1m", "", 2, -1, 0},
		{"request", "cpu=500m", "", 512, -1, 0},
		{"limit stands in for the request", "", "cpu=250m", 256, 25000, 0},
		{"limit below the smallest quota", "cpu=1m", "cpu=5m", 2, 1000, 0},
		{"limit at the smallest quota", "cpu=2m", "cpu=10m", 2, 1000, 0},
		{"request and limit", "cpu=1,memory=1Gi", "cpu=2,memory=2Gi", 1024, 200000, 2 << 30},
		{"more CPUs than shares", "cpu=300", "", 262144, -1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := container(test.requests, test.limits)
			got := Linux(podOf(c), &c, Node{Memory: 8 << 30})
			if got.CpuShares != test.shares || got.CpuQuota != test.quota || got.MemoryLimitInBytes != test.memory || got.CpuPeriod != Period {
				t.Errorf("got %v, want shares %d, quota %d, memory %d", got, test.shares, test.quota, test.memory)
			}
		})
	}
}

func TestHugePages(t *testing.T) {
	c := container("", "hugepages-2Mi=4Mi")
	got := Linux(podOf(c), &c, Node{PageSizes: []string{"1GB", "2MB"}}).HugepageLimits
	if len(got) != 2 || got[0].PageSize != "1GB" || got[0].Limit != 0 || got[1].PageSize != "2MB" || got[1].Limit != 4<<20 {
		t.Errorf("got %v, want 1GB: 0 and 2MB: %d", got, 4<<20)
	}
}

func TestOOMScoreAdj(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	sidecar := container("memory=10Mi", "")
	sidecar.RestartPolicy = &always
	critical := podOf(container("", ""))
	critical.Spec.PriorityClassName = "system-node-critical"
	whole := podOf(container("", ""), container("", ""))
	whole.Spec.Resources = &v1.ResourceRequirements{Requests: demand("memory=2Gi")}

	for _, test := range []struct {
		name      string
		pod       *v1.Pod
		container v1.Container
		want      int64
	}{
		{"best effort", podOf(container("", "")), container("", ""), 1000},
		{"guaranteed", podOf(container("cpu=1,memory=1Gi", "cpu=1,memory=1Gi")), container("cpu=1,memory=1Gi", "cpu=1,memory=1Gi"), -997},
		{"critical", critical, container("", ""), -997},
		{"quarter of the node", podOf(container("memory=2Gi", "")), container("memory=2Gi", ""), 750},
		{"nothing of its own", podOf(container("memory=2Gi", "")), container("", ""), 999},
		{"more than the node", podOf(container("memory=20Gi", "")), container("memory=20Gi", ""), 3},
		{"sidecar lives as long as its container", podOf(container("memory=2Gi", "")), sidecar, 750},
		{"part of the pod's request", whole, container("", ""), 875},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := OOMScoreAdj(test.pod, &test.container, 8<<30); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestQOS(t *testing.T) {
	whole := podOf(container("", ""))
	whole.Spec.Resources = &v1.ResourceRequirements{Limits: demand("cpu=1,memory=1Gi")}
	stated := podOf(container("", ""))
	stated.Status.QOSClass = v1.PodQOSBurstable

	for _, test := range []struct {
		name string
		pod  *v1.Pod
		want v1.PodQOSClass
	}{
		{"nothing", podOf(container("", "")), v1.PodQOSBestEffort},
		{"only other resources", podOf(container("example.com/gpu=1", "example.com/gpu=1")), v1.PodQOSBestEffort},
		{"limits only", podOf(container("", "cpu=1,memory=1Gi")), v1.PodQOSGuaranteed},
		{"limits equal requests", podOf(container("cpu=1,memory=1Gi", "cpu=1,memory=1Gi")), v1.PodQOSGuaranteed},
		{"one container without", podOf(container("", "cpu=1,memory=1Gi"), container("", "")), v1.PodQOSBurstable},
		{"no memory limit", podOf(container("", "cpu=1")), v1.PodQOSBurstable},
		{"request below limit", podOf(container("cpu=1,memory=1Gi", "cpu=2,memory=1Gi")), v1.PodQOSBurstable},
		{"the pod's own limits", whole, v1.PodQOSGuaranteed},
		{"what the status says", stated, v1.PodQOSBurstable},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := QOS(test.pod); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestForPod(t *testing.T) {
	for _, test := range []struct {
		name string
		pod  *v1.Pod
		want Limits
	}{
		{"best effort", podOf(container("", "")), Limits{Shares: 2, Quota: -1, Memory: -1}},
		{"requests only", podOf(container("cpu=500m,memory=1Gi", "")), Limits{Shares: 512, Quota: -1, Memory: -1}},
		{"guaranteed", podOf(container("", "cpu=1,memory=1Gi"), container("", "cpu=1,memory=1Gi")), Limits{Shares: 2, Quota: 200000, Memory: 2 << 30}},
		{"one container without limits", podOf(container("cpu=1", "cpu=1,memory=1Gi"), container("", "")), Limits{Shares: 1024, Quota: -1, Memory: -1}},
		{"tiny limits", podOf(container("cpu=1m", "cpu=5m")), Limits{Shares: 2, Quota: 1000, Memory: -1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, ForPod(test.pod)); diff != "" {
				t.Errorf("want - got +:\n%s", diff)
			}
		})
	}
}

func TestParseHierarchies(t *testing.T) {
	for _, test := range []struct {
		name      string
		mountinfo string
		want      []hierarchy
	}{
		{"v2", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
			[]hierarchy{{dir: "/sys/fs/cgroup", v2: true}}},
		{"hybrid", `25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd
28 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
29 25 0:23 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct
`, []hierarchy{
			{dir: "/sys/fs/cgroup/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
			{dir: "/sys/fs/cgroup/systemd", controllers: []string{"name=systemd"}},
			{dir: "/sys/fs/cgroup/unified", v2: true, idle: true},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, parseHierarchies(test.mountinfo), cmp.AllowUnexported(hierarchy{})); diff != "" {
				t.Errorf("want - got +:\n%s", diff)
			}
		})
	}
}

func TestSettingsV2(t *testing.T) {
	got := settingsV2(Limits{Shares: 1024, Quota: -1, Memory: 1 << 20, Processes: 100})
	want := []setting{
		{file: "cpu.weight", value: "39"},
		{file: "cpu.max", value: "max 100000"},
		{file: "memory.max", value: "1048576"},
		{file: "pids.max", value: "100"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCgroups makes groups on the host, runs a process in one and takes everything away again.
func TestCgroups(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("control groups need root")
	}
	c, err := OpenCgroups("/skiff-resources-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := destroy(c); err != nil {
			t.Error(err)
		}
	})
	pod := podOf(container("cpu=500m", "cpu=1,memory=64Mi"))
	if err := c.EnsurePod(pod); err != nil {
		t.Fatal(err)
	}
	if err := c.Limit(demand("cpu=2,memory=4Gi")); err != nil {
		t.Fatal(err)
	}
	if got, want := c.PodParent(pod), "/skiff-resources-test/kubepods/burstable/pod3f2a"; got != want {
		t.Errorf("parent: got %s, want %s", got, want)
	}
	wants := map[string]string{"memory.max": "67108864", "cpu.max": "100000 100000"}
	if !c.V2() {
		wants = map[string]string{"memory.limit_in_bytes": "67108864", "cpu.shares": "512", "cpu.cfs_quota_us": "100000"}
	}
	for file, want := range wants {
		if got := readControl(t, c, c.PodParent(pod), file); got != want {
			t.Errorf("%s: got %s, want %s", file, got, want)
		}
	}
	if !c.V2() {
		if got, want := readControl(t, c, c.classGroup(v1.PodQOSBurstable), "cpu.shares"), "512"; got != want {
			t.Errorf("share of all Burstable pods: got %s, want %s", got, want)
		}
		if got, want := readControl(t, c, c.classGroup(v1.PodQOSGuaranteed), "memory.limit_in_bytes"), "4294967296"; got != want {
			t.Errorf("memory of all pods: got %s, want %s", got, want)
		}
	}

	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range c.podDirs("3f2a") {
		inner := filepath.Join(dir, "inner")
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(dir, "/memory/") || c.V2() {
			if err := write(filepath.Join(inner, "cgroup.procs"), strconv.Itoa(sleeper.Process.Pid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	uids, _ := c.Pods()
	if !slices.Equal(uids, []types.UID{"3f2a"}) {
		t.Errorf("pods: got %v, want [3f2a]", uids)
	}
	if err := c.RemovePod("3f2a"); err != nil {
		t.Fatal(err)
	}
	if err := c.RemovePod("3f2a"); err != nil {
		t.Errorf("removing again: %v", err)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("the process in the removed group ended by itself, want it killed")
	}
	if uids, _ := c.Pods(); len(uids) != 0 {
		t.Errorf("pods after removal: got %v, want none", uids)
	}
}

// TestGroupsOnV2 makes and removes groups where cgroup v2 is mounted, be it beside v1.
func TestGroupsOnV2(t *testing.T) {
	mounts, err := hierarchies("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(mounts, func(h hierarchy) bool { return h.v2 })
	if i < 0 || os.Getuid() != 0 {
		t.Skip("no cgroup v2 here, or not root")
	}
	c := &Cgroups{root: "/skiff-resources-test-v2", mounts: []hierarchy{{dir: mounts[i].dir, v2: true}}, v2: true}
	group := c.PodParent(podOf(container("", "")))
	if err := c.make(group); err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(mounts[i].dir, group, "container")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := write(filepath.Join(inner, "cgroup.procs"), strconv.Itoa(sleeper.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if err := c.RemovePod("3f2a"); err != nil {
		t.Error(err)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("the process in the removed group ended by itself, want it killed")
	}
	if err := destroy(c); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(mounts[i].dir, c.root)); !os.IsNotExist(err) {
		t.Errorf("root group: got %v, want it gone", err)
	}
}

// destroy removes the root group with everything in it.
func destroy(c *Cgroups) error {
	var errs []error
	for _, h := range c.mounts {
		errs = append(errs, remove(filepath.Join(h.dir, c.root)))
	}
	return errors.Join(errs...)
}

// readControl reads a control file of a group from whichever hierarchy has it.
func readControl(t *testing.T, c *Cgroups, group, file string) string {
	t.Helper()
	for _, h := range c.mounts {
		if raw, err := os.ReadFile(filepath.Join(h.dir, group, file)); err == nil {
			return strings.TrimSpace(string(raw))
		}
	}
	t.Fatalf("no hierarchy has %s of %s", file, group)
	return ""
}
