package kubelet

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

func TestConfigDefaults(t *testing.T) {
	_, err := Config{}.withDefaults()
	for _, name := range []string{"NodeName", "Client", "RuntimeEndpoint", "NodeIP"} {
		if err == nil || !strings.Contains(err.Error(), name+" is not set") {
			t.Errorf("error %v does not name %s", err, name)
		}
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Config{
		NodeName: "n", Client: fake.NewClientset(), RuntimeEndpoint: "/run/cri.sock", NodeIP: netip.MustParseAddr("192.0.2.1"),
		RootDir: "/data", Listener: l, ResolvConf: "-",
	}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxPods != 110 || c.LogDir != "/data/pod-logs" || c.CgroupRoot != "/" || c.Domain != "cluster.local" || c.ResolvConf != "" {
		t.Errorf("defaults are %+v", c)
	}
	if _, err := (Config{NodeName: "n", Guard: Guard{AllowedUnsafeSysctls: []string{"vm.*"}, ImagePullCredentialsVerificationPolicy: "Maybe"}}).withDefaults(); err == nil ||
		!strings.Contains(err.Error(), `the sysctls "vm." are not known to be namespaced`) || !strings.Contains(err.Error(), `option "Maybe"`) {
		t.Errorf("a guard that guards nothing: %v", err)
	}
	published := c.published()
	if published.Port != int32(l.Addr().(*net.TCPAddr).Port) || published.MaxPods != 110 || published.ImagePullCredentialsVerificationPolicy != "NeverVerifyPreloadedImages" || *published.ImageGCHighThresholdPercent != 85 {
		t.Errorf("published configuration is %+v", published)
	}
}

func TestWatchedObjectsCarryNoManagedFields(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}}}
	got, err := withoutManagedFields(pod)
	if err != nil {
		t.Fatal(err)
	}
	if kept := got.(*v1.Pod); len(kept.ManagedFields) > 0 || kept.Name != "p" {
		t.Errorf("pod is kept as %+v", kept.ObjectMeta)
	}
	lost := cache.DeletedFinalStateUnknown{Key: "k"}
	if got, err := withoutManagedFields(lost); err != nil || got != lost {
		t.Errorf("a lost object became %v (%v)", got, err)
	}
}

func TestMetrics(t *testing.T) {
	pods := []*v1.Pod{
		{Status: v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{
			{State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}, {State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}},
		}}},
		{Status: v1.PodStatus{Phase: v1.PodSucceeded}},
	}
	families, err := newMetrics("n", func() []*v1.Pod { return pods }).Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "kubelet_") {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				got[name] = m.Gauge.GetValue()
			}
		}
	}
	want := map[string]float64{"kubelet_node_name n": 1, "kubelet_running_pods": 1, "kubelet_running_containers running": 1, "kubelet_running_containers exited": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
