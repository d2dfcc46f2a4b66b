package dra

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// node is a kubelet's part of this package, with the rights of a node, and an API server.
type node struct {
	t     *testing.T
	admin kubernetes.Interface
	cfg   Config
	m     *Manager
	stop  func()
}

func startNode(t *testing.T) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "dra") // short: paths of sockets are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	server := apiservertest.Start(t, nil)
	n := &node{t: t, admin: kubernetes.NewForConfigOrDie(apiservertest.Config(server, "admin"))}
	n.cfg = Config{
		Client:  kubernetes.NewForConfigOrDie(apiservertest.Config(server, "system:node:n1", "system:nodes")),
		RootDir: dir, NodeName: "n1", Changed: func() {},
	}
	n.must(n.admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// start runs a Manager, which stands for a kubelet's run.
func (n *node) start() {
	n.t.Helper()
	m, err := New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.m = m
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			n.t.Error(err)
		}
	})
	n.stop = func() { cancel(); running.Wait() }
}

func (n *node) must(_ any, err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) until(what string, holds func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// claim makes a claim with two devices, and reserves it for pods.
func (n *node) claim(name string, pods ...*v1.Pod) *resourcev1.ResourceClaim {
	n.t.Helper()
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	var results []resourcev1.DeviceRequestAllocationResult
	for _, r := range []string{"a", "b"} {
		c.Spec.Devices.Requests = append(c.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: r, Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}})
		results = append(results, resourcev1.DeviceRequestAllocationResult{Request: r, Driver: "example.com", Pool: "n1", Device: "d" + r})
	}
	c, err := n.admin.ResourceV1().ResourceClaims("default").Create(n.t.Context(), c, metav1.CreateOptions{})
	n.must(c, err)
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: results}}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
	}
	n.must(n.admin.ResourceV1().ResourceClaims("default").UpdateStatus(n.t.Context(), c, metav1.UpdateOptions{}))
	return c
}

// pod makes a pod on the node whose containers use a claim: all of it, and one request.
func (n *node) pod(name, claim string) *v1.Pod {
	n.t.Helper()
	use := func(container, request string) v1.Container {
		return v1.Container{Name: container, Image: "i", Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "c", Request: request}}}}
	}
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{
		NodeName: "n1", Containers: []v1.Container{use("all", ""), use("one", "b"), {Name: "none", Image: "i"}},
		ResourceClaims: []v1.PodResourceClaim{{Name: "c", ResourceClaimName: &claim}},
	}}
	p, err := n.admin.CoreV1().Pods("default").Create(n.t.Context(), p, metav1.CreateOptions{})
	n.must(p, err)
	return p
}

// fakeDriver is a driver of devices that answers over a socket.
type fakeDriver struct {
	registrationv1.UnsafeRegistrationServer
	drav1.UnsafeDRAPluginServer
	name     string
	versions []string
	told     chan *registrationv1.RegistrationStatus

	mu     sync.Mutex
	calls  []string
	broken string // what it answers instead
}

func (n *node) driver(name string, versions ...string) (d *fakeDriver, stop func()) {
	n.t.Helper()
	d = &fakeDriver{name: name, versions: versions, told: make(chan *registrationv1.RegistrationStatus, 10)}
	l, err := net.Listen("unix", filepath.Join(n.cfg.RootDir, "plugins_registry", name+".sock"))
	n.must(l, err)
	s := grpc.NewServer()
	registrationv1.RegisterRegistrationServer(s, d)
	drav1.RegisterDRAPluginServer(s, d)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	stop = func() { s.Stop(); serving.Wait() }
	n.t.Cleanup(stop)
	return d, stop
}

func (d *fakeDriver) GetInfo(context.Context, *registrationv1.InfoRequest) (*registrationv1.PluginInfo, error) {
	return &registrationv1.PluginInfo{Type: registrationv1.DRAPlugin, Name: d.name, SupportedVersions: d.versions}, nil
}

func (d *fakeDriver) NotifyRegistrationStatus(_ context.Context, s *registrationv1.RegistrationStatus) (*registrationv1.RegistrationStatusResponse, error) {
	d.told <- s
	return &registrationv1.RegistrationStatusResponse{}, nil
}

func (d *fakeDriver) NodePrepareResources(_ context.Context, r *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		d.calls = append(d.calls, "prepare "+c.Name)
		answer.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Error: d.broken, Devices: []*drav1.Device{
			{RequestNames: []string{"a"}, DeviceName: "da", CdiDeviceIds: []string{"example.com/gpu=da", "example.com/gpu=both"}},
			{RequestNames: []string{"b"}, DeviceName: "db", CdiDeviceIds: []string{"example.com/gpu=db", "example.com/gpu=both"}},
		}}
	}
	return answer, nil
}

func (d *fakeDriver) NodeUnprepareResources(_ context.Context, r *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != "" {
		return nil, errors.New(d.broken)
	}
	answer := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		d.calls = append(d.calls, "unprepare "+c.Name)
		answer.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{}
	}
	return answer, nil
}

func (d *fakeDriver) fail(with string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = with
}

func (d *fakeDriver) wantCalls(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.calls, want) {
		t.Errorf("the driver was called for %q, want %q", d.calls, want)
	}
}

// wantDevices checks by which names the runtime gets the devices of a pod's containers.
func (n *node) wantDevices(pod *v1.Pod) {
	n.t.Helper()
	want := map[string][]string{"all": {"example.com/gpu=da", "example.com/gpu=both", "example.com/gpu=db"}, "one": {"example.com/gpu=db", "example.com/gpu=both"}}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		got, err := n.m.IDs(pod, c)
		if err != nil || !slices.Equal(got, want[c.Name]) {
			n.t.Errorf("devices of container %s of pod %s are %q, want %q: %v", c.Name, pod.Name, got, want[c.Name], err)
		}
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestDevicesFromStartToEnd(t *testing.T) {
	n := startNode(t)
	first, second := n.pod("first", "c"), n.pod("second", "c")
	n.claim("c", first, second)
	wantError(t, n.m.Prepare(t.Context(), first), "prepare dynamic resources: DRA driver example.com is not registered")
	d, _ := n.driver("example.com", drav1.DRAPluginService)
	if s := <-d.told; !s.PluginRegistered {
		t.Fatalf("driver was not registered: %s", s.Error)
	}
	n.until("the driver", func() bool { return len(n.m.drivers.names()) == 1 })

	d.fail("out of order")
	wantError(t, n.m.Prepare(t.Context(), first), "prepare dynamic resources: NodePrepareResources failed for ResourceClaim c: out of order")
	if _, err := n.m.IDs(first, &first.Spec.Containers[0]); err == nil {
		t.Error("a container gets devices that are not prepared")
	}
	d.fail("")
	for range 2 { // what is done is not done again
		n.must(nil, n.m.Prepare(t.Context(), first))
		n.must(nil, n.m.Prepare(t.Context(), second))
	}
	n.wantDevices(first)
	n.wantDevices(second)
	d.wantCalls(t, "prepare c", "prepare c")

	// The next kubelet knows what this one did.
	n.stop()
	n.start()
	<-d.told
	n.until("the driver", func() bool { return len(n.m.drivers.names()) == 1 })
	n.must(nil, n.m.Prepare(t.Context(), first))
	n.wantDevices(first)
	if pods, _ := n.m.Pods(); len(pods) != 2 {
		t.Errorf("devices are prepared for %v, want both pods", pods)
	}

	n.must(nil, n.m.Unprepare(t.Context(), first.UID))
	n.wantDevices(second)
	d.fail("stuck")
	wantError(t, n.m.Unprepare(t.Context(), second.UID), "unprepare dynamic resources: NodeUnprepareResources")
	d.fail("")
	for range 2 {
		n.must(nil, n.m.Unprepare(t.Context(), second.UID))
	}
	d.wantCalls(t, "prepare c", "prepare c", "unprepare c")
	if pods, _ := n.m.Pods(); len(pods) > 0 {
		t.Errorf("devices are still prepared for %v", pods)
	}
}

func TestClaimOfOthers(t *testing.T) {
	n := startNode(t)
	d, _ := n.driver("example.com", drav1.DRAPluginService)
	<-d.told
	n.until("the driver", func() bool { return len(n.m.drivers.names()) == 1 })
	pod := n.pod("p", "c")
	wantError(t, n.m.Prepare(t.Context(), pod), `fetch ResourceClaim c: resourceclaims.resource.k8s.io "c" not found`)
	claim := n.claim("c")
	wantError(t, n.m.Prepare(t.Context(), pod), fmt.Sprintf("pod p (%s) is not allowed to use ResourceClaim c (%s)", pod.UID, claim.UID))
	d.wantCalls(t)

	// A claim of the same name is another claim, as long as the old one is prepared.
	n.must(nil, n.admin.ResourceV1().ResourceClaims("default").Delete(t.Context(), "c", metav1.DeleteOptions{}))
	old := n.claim("c", pod)
	n.must(nil, n.m.Prepare(t.Context(), pod))
	other := n.pod("other", "c")
	n.must(nil, n.admin.ResourceV1().ResourceClaims("default").Delete(t.Context(), "c", metav1.DeleteOptions{}))
	n.claim("c", other)
	wantError(t, n.m.Prepare(t.Context(), other), "old ResourceClaim with same name c and different UID "+string(old.UID)+" still exists")
	n.must(nil, n.m.Unprepare(t.Context(), pod.UID))
	n.must(nil, n.m.Prepare(t.Context(), other))
}

func TestDriversComeAndGo(t *testing.T) {
	n := startNode(t)
	d, stop := n.driver("example.com", drav1.DRAPluginService)
	<-d.told
	n.until("the driver", func() bool { return len(n.m.drivers.names()) == 1 })
	stop() // which removes the socket
	n.until("the end of the driver", func() bool { return len(n.m.drivers.names()) == 0 })
	old, _ := n.driver("old.example.com", "v1beta1.DRAPlugin")
	s := <-old.told
	if want := `none of services supported by the plugin (["v1beta1.DRAPlugin"]) are supported by the kubelet (["v1.DRAPlugin"])`; s.PluginRegistered || s.Error != want {
		t.Errorf("driver was told %v, want %s", s, want)
	}
}

// TestSlicesOfAbsentDrivers: devices that nobody can prepare are not offered.
func TestSlicesOfAbsentDrivers(t *testing.T) {
	n := startNode(t)
	d, _ := n.driver("here.example.com", drav1.DRAPluginService)
	<-d.told
	n.until("the driver", func() bool { return len(n.m.drivers.names()) == 1 })
	for _, s := range []struct{ name, driver, node string }{{"here", "here.example.com", "n1"}, {"gone", "gone.example.com", "n1"}, {"elsewhere", "gone.example.com", "n2"}} {
		n.must(n.admin.ResourceV1().ResourceSlices().Create(t.Context(), &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: s.name}, Spec: resourcev1.ResourceSliceSpec{
			Driver: s.driver, NodeName: &s.node, Pool: resourcev1.ResourcePool{Name: s.node, ResourceSliceCount: 1},
		}}, metav1.CreateOptions{}))
	}
	left := func() (names []string) {
		t.Helper()
		list, err := n.admin.ResourceV1().ResourceSlices().List(t.Context(), metav1.ListOptions{})
		n.must(list, err)
		for _, s := range list.Items {
			names = append(names, s.Name)
		}
		return names
	}
	now := time.Now()
	n.must(nil, n.m.sweep(t.Context(), time.Minute, now))
	n.must(nil, n.m.sweep(t.Context(), time.Minute, now.Add(59*time.Second)))
	if got := left(); len(got) != 3 {
		t.Errorf("slices left are %q: the driver may still come", got)
	}
	n.must(nil, n.m.sweep(t.Context(), time.Minute, now.Add(time.Minute)))
	if got, want := left(), []string{"elsewhere", "here"}; !slices.Equal(got, want) {
		t.Errorf("slices left are %q, want %q", got, want)
	}
}

// TestDevicesForExtendedResources: a pod without claims of its own gets the devices of the one that the scheduler made
// for it, each container those of its requests, and no pod that does not own the claim.
func TestDevicesForExtendedResources(t *testing.T) {
	n := startNode(t)
	d, _ := n.driver("example.com", drav1.DRAPluginService)
	<-d.told
	n.until("the driver", func() bool { return len(n.m.drivers.names()) == 1 })
	one := v1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	p, err := n.admin.CoreV1().Pods("default").Create(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1.PodSpec{NodeName: "n1", Containers: []v1.Container{
		{Name: "one", Image: "i", Resources: v1.ResourceRequirements{Requests: one, Limits: one}}, {Name: "none", Image: "i"},
	}}}, metav1.CreateOptions{})
	n.must(p, err)
	n.claim("c", p)
	p, err = n.admin.CoreV1().Pods("default").Patch(t.Context(), "p", types.MergePatchType, []byte(
		`{"status":{"extendedResourceClaimStatus":{"resourceClaimName":"c","requestMappings":[{"containerName":"one","resourceName":"example.com/gpu","requestName":"b"}]}}}`), metav1.PatchOptions{}, "status")
	n.must(p, err)
	wantError(t, n.m.Prepare(t.Context(), p), "ResourceClaim default/c was not created for Pod default/p (Pod is not owner)")
	owner := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":%q,"controller":true}]}}`, p.UID)
	n.must(n.admin.ResourceV1().ResourceClaims("default").Patch(t.Context(), "c", types.MergePatchType, []byte(owner), metav1.PatchOptions{}))
	n.must(nil, n.m.Prepare(t.Context(), p))
	n.wantDevices(p)
	n.must(nil, n.m.Unprepare(t.Context(), p.UID))
	d.wantCalls(t, "prepare c", "unprepare c")
}
