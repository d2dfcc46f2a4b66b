package evict

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/node"
)

func pod(name string, priority int32, memory string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec: v1.PodSpec{Priority: &priority, Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)},
		}}}},
	}
}

func TestMinDisk(t *testing.T) {
	for _, test := range []struct {
		name string
		min  int64 // bytes
		want bool
	}{
		{"less is left than must be", 1 << 60, true},
		{"more is left than must be", 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			short, err := New(Config{RootDir: t.TempDir(), MinDisk: test.min}).shortages()
			if err != nil {
				t.Fatal(err)
			}
			got := slices.ContainsFunc(short, func(s shortage) bool { return s.signal == disk })
			if got != test.want {
				t.Errorf("short of disk: got %v (%v), want %v", got, short, test.want)
			}
		})
	}
}

func TestRank(t *testing.T) {
	pods := []*v1.Pod{pod("within", 0, "100"), pod("important", 10, "0"), pod("little", 0, "0"), pod("much", 0, "0")}
	usage := map[types.UID]statsapi.PodStats{}
	for name, use := range map[string]uint64{"within": 90, "important": 500, "little": 10, "much": 50} {
		usage[types.UID(name)] = statsapi.PodStats{Memory: &statsapi.MemoryStats{WorkingSetBytes: &use}}
	}
	var got []string
	for _, p := range Rank(pods, usage, true) {
		got = append(got, p.Name)
	}
	if diff := cmp.Diff([]string{"much", "little", "important", "within"}, got); diff != "" {
		t.Errorf("order of eviction (-want +got):\n%s", diff)
	}
}

func TestExceeds(t *testing.T) {
	limited := pod("p", 0, "0")
	limited.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("1Ki")}
	emptyDir := pod("p", 0, "0")
	emptyDir.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Ki"))}}}}
	fs := func(n uint64) *statsapi.FsStats { return &statsapi.FsStats{UsedBytes: &n} }
	for _, test := range []struct {
		name  string
		pod   *v1.Pod
		stats statsapi.PodStats
		want  string
	}{
		{"no limits", pod("p", 0, "0"), statsapi.PodStats{EphemeralStorage: fs(1 << 40)}, ""},
		{"below", limited, statsapi.PodStats{EphemeralStorage: fs(1000)}, ""},
		{"pod above", limited, statsapi.PodStats{EphemeralStorage: fs(2000)}, "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. "},
		{"container above", limited, statsapi.PodStats{Containers: []statsapi.ContainerStats{{Name: "c", Rootfs: fs(600), Logs: fs(600)}}},
			`Container c exceeded its local ephemeral storage limit "1Ki". `},
		{"volume above", emptyDir, statsapi.PodStats{VolumeStats: []statsapi.VolumeStats{{Name: "v", FsStats: *fs(2000)}}},
			`Usage of EmptyDir volume "v" exceeds the limit "1Ki". `},
	} {
		if got := exceeds(test.pod, test.stats); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestRefuse(t *testing.T) {
	bestEffort, burstable, critical := pod("a", 0, "0"), pod("b", 0, "1"), pod("c", 2_000_001_000, "0")
	bestEffort.Status.QOSClass, burstable.Status.QOSClass, critical.Status.QOSClass = v1.PodQOSBestEffort, v1.PodQOSBurstable, v1.PodQOSBestEffort
	for _, test := range []struct {
		name     string
		pod      *v1.Pod
		pressure node.Pressure
		refused  bool
	}{
		{"no pressure", bestEffort, node.Pressure{}, false},
		{"best effort under memory pressure", bestEffort, node.Pressure{Memory: true}, true},
		{"burstable under memory pressure", burstable, node.Pressure{Memory: true}, false},
		{"burstable under disk pressure", burstable, node.Pressure{Disk: true}, true},
		{"critical under both", critical, node.Pressure{Memory: true, Disk: true}, false},
	} {
		if got := refuse(test.pod, test.pressure) != nil; got != test.refused {
			t.Errorf("%s: refused %v, want %v", test.name, got, test.refused)
		}
	}
}
