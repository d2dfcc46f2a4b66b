package node

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// machine is a container runtime.
type machine struct {
	network, down atomic.Bool
}

func (m *machine) Status(context.Context) (*cri.StatusResponse, error) {
	if m.down.Load() {
		return nil, errors.New("connection refused")
	}
	network := &cri.RuntimeCondition{Type: "NetworkReady", Status: m.network.Load()}
	if !network.Status {
		network.Reason, network.Message = "NetworkPluginNotReady", "cni plugin not initialized"
	}
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{{Type: "RuntimeReady", Status: true}, network}}}, nil
}
func (m *machine) RuntimeVersion() string { return "x://1" }
func (m *machine) ListImages(context.Context) ([]*cri.Image, error) {
	return []*cri.Image{{Id: "a", RepoTags: []string{"small"}, Size: 1}, {Id: "b", RepoTags: []string{"large"}, Size: 2}}, nil
}

func TestNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client := fake.NewClientset()
		runtime := &machine{}
		m := New(Config{
			Client: client, Recorder: record.NewFakeRecorder(100), Runtime: runtime, Name: "n", IPs: []string{"192.0.2.1"}, Port: 10250,
			Labels: map[string]string{"zone": "a"}, MaxPods: 110, RootDir: t.TempDir(), Capacity: v1.ResourceList{"cpu": resource.MustParse("3")},
		})
		done := make(chan struct{})
		go func() { defer close(done); _ = m.Run(ctx) }()
		defer func() { cancel(); <-done }()
		get := func() *v1.Node {
			t.Helper()
			n, err := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		ready := func(want v1.ConditionStatus, message string) {
			t.Helper()
			if c := conditionOf(get(), v1.NodeReady); c == nil || c.Status != want || c.Message != message {
				t.Errorf("Ready is %v, want %s: %s", c, want, message)
			}
		}

		time.Sleep(time.Second)
		n := get()
		if n.Labels["zone"] != "a" || n.Labels[v1.LabelHostname] != "n" || n.Labels[v1.LabelOSStable] != "linux" {
			t.Errorf("labels are %v", n.Labels)
		}
		if cpu := n.Status.Capacity[v1.ResourceCPU]; cpu.String() != "3" {
			t.Errorf("cpu capacity is %s, want the configured 3", cpu.String())
		}
		if len(n.Status.Images) != 2 || n.Status.Images[0].Names[0] != "large" {
			t.Errorf("images are %v, want the larger first", n.Status.Images)
		}
		if got := n.Status.DeclaredFeatures; !slices.Contains(got, "RestartAllContainersOnContainerExits") || !slices.IsSorted(got) {
			t.Errorf("declared features are %v, want them sorted", got)
		}
		const noNetwork = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
		ready(v1.ConditionFalse, noNetwork)
		if err := m.NetworkReady(); err == nil || err.Error() != noNetwork {
			t.Errorf("network is %v", err)
		}

		runtime.network.Store(true)
		n = n.DeepCopy()
		n.Status.Capacity["example.com/dongle"] = resource.MustParse("2")
		if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		m.Saw(n)
		time.Sleep(measureEvery + time.Second)
		ready(v1.ConditionTrue, "kubelet is posting ready status")
		if q, found := get().Status.Capacity["example.com/dongle"]; !found || q.String() != "2" {
			t.Errorf("a foreign resource became %v, want it kept", q.String())
		}

		runtime.down.Store(true)
		time.Sleep(downAfter - measureEvery)
		ready(v1.ConditionTrue, "kubelet is posting ready status")
		time.Sleep(downAfter)
		ready(v1.ConditionFalse, "container runtime is down")

		lease, err := client.CoordinationV1().Leases("kube-node-lease").Get(ctx, "n", metav1.GetOptions{})
		if err != nil || *lease.Spec.HolderIdentity != "n" || *lease.Spec.LeaseDurationSeconds != 40 {
			t.Errorf("lease is %v (%v)", lease, err)
		}
		if age := time.Since(lease.Spec.RenewTime.Time); age > renewEvery {
			t.Errorf("lease was renewed %v ago", age)
		}
	})
}
