package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// world is an API server with two nodes, and a scheduler that has the rights of its user.
type world struct {
	kubernetes.Interface
	t *testing.T
	s *Scheduler
}

func startWorld(t *testing.T) *world {
	t.Helper()
	server := apiservertest.Start(t, nil)
	w := &world{Interface: kubernetes.NewForConfigOrDie(apiservertest.Config(server, "admin")), t: t}
	w.must(w.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{resourcev1.DRAAdminNamespaceLabelKey: "true"}}}, metav1.CreateOptions{}))
	w.must(w.CoreV1().ServiceAccounts("ns").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	for _, name := range []string{"a", "b"} {
		node := testNode(name, "4").Node
		w.must(w.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}))
		w.must(w.CoreV1().Nodes().Patch(t.Context(), name, "application/json-patch+json", []byte(`[{"op":"remove","path":"/spec/taints"}]`), metav1.PatchOptions{}))
	}
	w.class("gpu", nil)
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(server, "system:kube-scheduler", "system:authenticated"))
	factory := inprocess.Informers(server, &user.DefaultInfo{Name: user.KubeScheduler, Groups: []string{user.AllAuthenticated}}, "scheduler", client)
	s, err := New(Config{Client: client, Informers: factory})
	if err != nil {
		t.Fatal(err)
	}
	w.s = s
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait(); factory.Shutdown() })
	return w
}

func (w *world) must(_ any, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) class(name string, selectors []resourcev1.DeviceSelector) {
	w.t.Helper()
	w.must(w.ResourceV1().DeviceClasses().Create(w.t.Context(), &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.DeviceClassSpec{Selectors: selectors}}, metav1.CreateOptions{}))
}

// slice publishes devices of a node.
func (w *world) slice(node string, devices ...resourcev1.Device) {
	w.t.Helper()
	w.pool(node, 1, func(s *resourcev1.ResourceSliceSpec) { s.Devices = devices })
}

func (w *world) pool(node string, count int64, change func(*resourcev1.ResourceSliceSpec)) {
	w.t.Helper()
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{GenerateName: node + "-"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "example.com", NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: count},
	}}
	change(&s.Spec)
	w.must(w.ResourceV1().ResourceSlices().Create(w.t.Context(), s, metav1.CreateOptions{}))
}

func device(name string, change ...func(*resourcev1.Device)) resourcev1.Device {
	d := resourcev1.Device{Name: name}
	for _, f := range change {
		f(&d)
	}
	return d
}

func numa(n int64) func(*resourcev1.Device) {
	return func(d *resourcev1.Device) {
		d.Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"numa": {IntValue: &n}}
	}
}

// claim makes a claim for one device of class gpu, or what change makes of it.
func (w *world) claim(name string, change ...func(*resourcev1.DeviceClaim)) {
	w.t.Helper()
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{request("r", nil)}
	for _, f := range change {
		f(&c.Spec.Devices)
	}
	w.must(w.ResourceV1().ResourceClaims("ns").Create(w.t.Context(), c, metav1.CreateOptions{}))
}

func request(name string, change func(*resourcev1.ExactDeviceRequest)) resourcev1.DeviceRequest {
	r := resourcev1.DeviceRequest{Name: name, Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}
	if change != nil {
		change(r.Exactly)
	}
	return r
}

func requests(list ...resourcev1.DeviceRequest) func(*resourcev1.DeviceClaim) {
	return func(c *resourcev1.DeviceClaim) { c.Requests = list }
}

func (w *world) pod(name string, claims ...string) {
	w.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, c := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: c, ResourceClaimName: &c})
	}
	w.must(w.CoreV1().Pods("ns").Create(w.t.Context(), p, metav1.CreateOptions{}))
}

func (w *world) eventually(what string, check func() error) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// placed waits until a pod is on a node, any if none is given, and returns which.
func (w *world) placed(pod, node string) string {
	w.t.Helper()
	w.eventually("pod "+pod, func() error {
		p, err := w.CoreV1().Pods("ns").Get(w.t.Context(), pod, metav1.GetOptions{})
		if err == nil && (p.Spec.NodeName == "" || node != "" && p.Spec.NodeName != node) {
			err = fmt.Errorf("is on node %q, want %q; %v", p.Spec.NodeName, node, p.Status.Conditions)
		}
		if err == nil {
			node = p.Spec.NodeName
		}
		return err
	})
	return node
}

// waits waits until a pod is told why it is not placed.
func (w *world) waits(pod, reason, message string) {
	w.t.Helper()
	w.eventually("pod "+pod, func() error {
		p, err := w.CoreV1().Pods("ns").Get(w.t.Context(), pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == reason && c.Message == message {
				return nil
			}
		}
		return fmt.Errorf("conditions are %+v, want %s: %s", p.Status.Conditions, reason, message)
	})
}

func (w *world) getClaim(name string) *resourcev1.ResourceClaim {
	w.t.Helper()
	c, err := w.ResourceV1().ResourceClaims("ns").Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// devicesOf are the devices of a claim, as request:device.
func (w *world) devicesOf(name string) (list []string) {
	w.t.Helper()
	c := w.getClaim(name)
	if c.Status.Allocation == nil {
		return nil
	}
	for _, r := range c.Status.Allocation.Devices.Results {
		list = append(list, r.Request+":"+r.Device)
	}
	return list
}

const noDevices = "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."

func TestDevicesAreAllocated(t *testing.T) {
	w := startWorld(t)
	w.slice("b", device("one"))
	w.claim("c")
	w.pod("p", "c")
	w.placed("p", "b")
	c, p := w.getClaim("c"), w.getPod("p")
	if got := w.devicesOf("c"); !slices.Equal(got, []string{"r:one"}) {
		t.Errorf("devices are %v", got)
	}
	if len(c.Status.ReservedFor) != 1 || c.Status.ReservedFor[0].UID != p.UID || !slices.Contains(c.Finalizers, resourcev1.Finalizer) || c.Status.Allocation.AllocationTimestamp == nil {
		t.Errorf("claim is %+v with finalizers %v, want it reserved for the pod and held", c.Status, c.Finalizers)
	}

	// The device is taken; another pod gets it when the claim is given up.
	w.claim("d")
	w.pod("q", "d")
	w.waits("q", corev1.PodReasonUnschedulable, noDevices)
	c.Status = resourcev1.ResourceClaimStatus{}
	w.must(w.ResourceV1().ResourceClaims("ns").UpdateStatus(t.Context(), c, metav1.UpdateOptions{}))
	w.placed("q", "b")

	// Two pods share a claim, and so a node.
	w.pod("r", "d")
	w.placed("r", "b")
	if n := len(w.getClaim("d").Status.ReservedFor); n != 2 {
		t.Errorf("the shared claim is reserved for %d pods, want 2", n)
	}
}

func (w *world) getPod(name string) *corev1.Pod {
	w.t.Helper()
	p, err := w.CoreV1().Pods("ns").Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// TestDevicesAreAllocatedOnce: however many pods want devices at once, each device is somebody's, and nobody's twice.
func TestDevicesAreAllocatedOnce(t *testing.T) {
	w := startWorld(t)
	const each, extra = 10, 3
	for _, node := range []string{"a", "b"} {
		var list []resourcev1.Device
		for i := range each {
			list = append(list, device(fmt.Sprint("d", i)))
		}
		w.slice(node, list...)
	}
	for i := range 2*each + extra {
		name := fmt.Sprint("p", i)
		w.claim(name)
		w.pod(name, name)
	}
	taken := make(map[string]string)
	w.eventually("all devices taken", func() error {
		clear(taken)
		list, err := w.ResourceV1().ResourceClaims("ns").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, c := range list.Items {
			if a := c.Status.Allocation; a != nil {
				r := a.Devices.Results[0]
				if other, ok := taken[r.Pool+"/"+r.Device]; ok {
					t.Fatalf("device %s/%s is of %s and of %s", r.Pool, r.Device, other, c.Name)
				}
				taken[r.Pool+"/"+r.Device] = c.Name
			}
		}
		if len(taken) != 2*each {
			return fmt.Errorf("%d devices are taken, want %d", len(taken), 2*each)
		}
		return nil
	})
	for pool, name := range taken {
		w.placed(name, pool[:1])
	}
}

func TestDevicesByFeature(t *testing.T) {
	gpus := func(count string) resourcev1.DeviceCounterConsumption {
		return resourcev1.DeviceCounterConsumption{CounterSet: "card", Counters: map[string]resourcev1.Counter{"slots": {Value: resource.MustParse(count)}}}
	}
	for _, c := range []struct {
		name    string
		devices []resourcev1.Device
		pool    func(w *world)
		claim   func(*resourcev1.DeviceClaim)
		want    []string // nil: none fit
	}{
		{"devices that match in an attribute", []resourcev1.Device{device("d0", numa(0)), device("d1", numa(1)), device("d2", numa(1))}, nil, func(c *resourcev1.DeviceClaim) {
			c.Requests = []resourcev1.DeviceRequest{request("r", nil), request("s", nil)}
			c.Constraints = []resourcev1.DeviceConstraint{{MatchAttribute: ptr.To(resourcev1.FullyQualifiedName("example.com/numa"))}}
		}, []string{"r:d1", "s:d2"}},
		{"devices that differ in an attribute", []resourcev1.Device{device("d0", numa(1)), device("d1", numa(1)), device("d2", numa(2))}, nil, func(c *resourcev1.DeviceClaim) {
			c.Requests = []resourcev1.DeviceRequest{request("r", func(r *resourcev1.ExactDeviceRequest) { r.Count = 2 })}
			c.Constraints = []resourcev1.DeviceConstraint{{DistinctAttribute: ptr.To(resourcev1.FullyQualifiedName("example.com/numa"))}}
		}, []string{"r:d0", "r:d2"}},
		{"a selector", []resourcev1.Device{device("d0", numa(0)), device("d1", numa(1))}, nil, requests(request("r", func(r *resourcev1.ExactDeviceRequest) {
			r.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.attributes["example.com"].numa == 1`}}}
		})), []string{"r:d1"}},
		{"all devices", []resourcev1.Device{device("d0"), device("d1")}, nil, requests(request("r", func(r *resourcev1.ExactDeviceRequest) {
			r.AllocationMode = resourcev1.DeviceAllocationModeAll
		})), []string{"r:d0", "r:d1"}},
		{"the second best", []resourcev1.Device{device("d0")}, nil, requests(resourcev1.DeviceRequest{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{
			{Name: "two", DeviceClassName: "gpu", Count: 2}, {Name: "one", DeviceClassName: "gpu"},
		}}), []string{"r/one:d0"}},
		{"a device that is tainted", []resourcev1.Device{device("d0", taintDevice)}, nil, requests(request("r", nil)), nil},
		{"a device whose taint is tolerated", []resourcev1.Device{device("d0", taintDevice)}, nil, requests(request("r", func(r *resourcev1.ExactDeviceRequest) {
			r.Tolerations = []resourcev1.DeviceToleration{{Operator: resourcev1.DeviceTolerationOpExists}}
		})), []string{"r:d0"}},
		{"parts that take too much of a card", nil, func(w *world) {
			w.pool("a", 2, func(s *resourcev1.ResourceSliceSpec) {
				s.SharedCounters = []resourcev1.CounterSet{{Name: "card", Counters: map[string]resourcev1.Counter{"slots": {Value: resource.MustParse("3")}}}}
			})
			w.pool("a", 2, func(s *resourcev1.ResourceSliceSpec) {
				for i := range 2 {
					s.Devices = append(s.Devices, resourcev1.Device{Name: fmt.Sprint("half", i), ConsumesCounters: []resourcev1.DeviceCounterConsumption{gpus("2")}})
				}
			})
		}, requests(request("r", func(r *resourcev1.ExactDeviceRequest) { r.Count = 2 })), nil},
		{"parts that a card has", nil, func(w *world) {
			w.pool("a", 2, func(s *resourcev1.ResourceSliceSpec) {
				s.SharedCounters = []resourcev1.CounterSet{{Name: "card", Counters: map[string]resourcev1.Counter{"slots": {Value: resource.MustParse("4")}}}}
			})
			w.pool("a", 2, func(s *resourcev1.ResourceSliceSpec) {
				for i := range 2 {
					s.Devices = append(s.Devices, resourcev1.Device{Name: fmt.Sprint("half", i), ConsumesCounters: []resourcev1.DeviceCounterConsumption{gpus("2")}})
				}
			})
		}, requests(request("r", func(r *resourcev1.ExactDeviceRequest) { r.Count = 2 })), []string{"r:half0", "r:half1"}},
		{"a pool that is not whole", nil, func(w *world) {
			w.pool("a", 2, func(s *resourcev1.ResourceSliceSpec) { s.Devices = []resourcev1.Device{device("d0")} })
		}, requests(request("r", nil)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := startWorld(t)
			if c.pool != nil {
				c.pool(w)
			} else {
				w.slice("a", c.devices...)
			}
			w.claim("c", c.claim)
			w.pod("p", "c")
			if c.want == nil {
				w.waits("p", corev1.PodReasonUnschedulable, noDevices)
				return
			}
			w.placed("p", "a")
			if got := w.devicesOf("c"); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func taintDevice(d *resourcev1.Device) {
	d.Taints = []resourcev1.DeviceTaint{{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoSchedule}}
}

// TestDeviceIsShared: several claims have parts of one device, until it is used up.
func TestDeviceIsShared(t *testing.T) {
	w := startWorld(t)
	w.slice("a", device("net", func(d *resourcev1.Device) {
		d.AllowMultipleAllocations = ptr.To(true)
		d.Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"bandwidth": {Value: resource.MustParse("10G")}}
	}))
	part := requests(request("r", func(r *resourcev1.ExactDeviceRequest) {
		r.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"bandwidth": resource.MustParse("4G")}}
	}))
	for _, name := range []string{"c0", "c1"} {
		w.claim(name, part)
		w.pod(name, name)
		w.placed(name, "a")
	}
	first, second := w.getClaim("c0").Status.Allocation.Devices.Results[0], w.getClaim("c1").Status.Allocation.Devices.Results[0]
	if first.ShareID == nil || second.ShareID == nil || *first.ShareID == *second.ShareID {
		t.Errorf("shares are %v and %v, want two", first.ShareID, second.ShareID)
	}
	w.claim("c2", part)
	w.pod("c2", "c2")
	w.waits("c2", corev1.PodReasonUnschedulable, noDevices)
}

// TestAdministratorSeesTakenDevice: what an administrator looks at need not be free, and does not become taken.
func TestAdministratorSeesTakenDevice(t *testing.T) {
	w := startWorld(t)
	w.slice("a", device("d"))
	w.claim("watch", requests(request("r", func(r *resourcev1.ExactDeviceRequest) { r.AdminAccess = ptr.To(true) })))
	w.pod("watcher", "watch")
	w.placed("watcher", "a")
	w.claim("use")
	w.pod("user", "use")
	w.placed("user", "a")
	w.claim("again", requests(request("r", func(r *resourcev1.ExactDeviceRequest) { r.AdminAccess = ptr.To(true) })))
	w.pod("second", "again")
	w.placed("second", "a")
}

func TestPodWaitsForWhatItsClaimsNeed(t *testing.T) {
	w := startWorld(t)
	w.slice("a", device("d0"), device("d1"), device("d2"))
	t.Run("class", func(t *testing.T) {
		w.claim("c", requests(request("r", func(r *resourcev1.ExactDeviceRequest) { r.DeviceClassName = "late" })))
		w.pod("p", "c")
		w.waits("p", corev1.PodReasonUnschedulable, "0/2 nodes are available: request r: device class late does not exist. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
		w.class("late", nil)
		w.placed("p", "a")
	})
	t.Run("claim", func(t *testing.T) {
		w.pod("q", "later")
		w.pod("other") // by then q has been looked at
		w.placed("other", "")
		if c := w.getPod("q").Status.Conditions; len(c) > 0 {
			t.Errorf("conditions are %v, want none before the claim is there", c)
		}
		w.claim("later")
		w.placed("q", "a")
	})
	t.Run("claim made of a template", func(t *testing.T) {
		template := "t"
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i"}}, ResourceClaims: []corev1.PodResourceClaim{{Name: "x", ResourceClaimTemplateName: &template}},
		}}
		p, err := w.CoreV1().Pods("ns").Create(t.Context(), p, metav1.CreateOptions{})
		w.must(p, err)
		c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "m-x", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))}}}
		c.Spec.Devices.Requests = []resourcev1.DeviceRequest{request("r", nil)}
		w.must(w.ResourceV1().ResourceClaims("ns").Create(t.Context(), c, metav1.CreateOptions{}))
		p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "x", ResourceClaimName: ptr.To("m-x")}}
		w.must(w.CoreV1().Pods("ns").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}))
		w.placed("m", "a")
	})
}

// TestClaimThatCannotBeJudged: an expression that fails ends the attempt, and says where it stands.
func TestClaimThatCannotBeJudged(t *testing.T) {
	w := startWorld(t)
	w.slice("a", device("d"))
	w.claim("c", requests(request("r", func(r *resourcev1.ExactDeviceRequest) {
		r.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.attributes["example.com"].missing`}}}
	})))
	w.pod("p", "c")
	w.waits("p", corev1.PodReasonSchedulerError, `running "DynamicResources" filter plugin: claim ns/c: selector #0: CEL runtime error: no such key: missing`)
}

// TestUnreachableDevicesAreGivenUp: a claim whose devices are where its pod cannot go, and that nobody else has, gets
// others.
func TestUnreachableDevicesAreGivenUp(t *testing.T) {
	w := startWorld(t)
	w.slice("a", device("d"))
	w.slice("b", device("d"))
	w.claim("c")
	c := w.getClaim("c")
	c.Status.Allocation = &resourcev1.AllocationResult{
		Devices:      resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: "example.com", Pool: "gone", Device: "d"}}},
		NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"gone"}}}}}},
	}
	w.must(w.ResourceV1().ResourceClaims("ns").UpdateStatus(t.Context(), c, metav1.UpdateOptions{}))
	w.pod("p", "c")
	node := w.placed("p", "")
	if pool := w.getClaim("c").Status.Allocation.Devices.Results[0].Pool; pool != node {
		t.Errorf("devices are those of %s, the pod is on %s", pool, node)
	}
}

// TestPodWaitsUntilDevicesAreReady: a device that is made ready only for a node that is known holds its pod until
// then, and is given up if that fails.
func TestPodWaitsUntilDevicesAreReady(t *testing.T) {
	w := startWorld(t)
	attached := func(d *resourcev1.Device) {
		d.BindingConditions, d.BindingFailureConditions = []string{"attached"}, []string{"failed"}
	}
	w.slice("a", device("d", attached))
	tell := func(condition string) {
		t.Helper()
		w.eventually("devices of the claim", func() error {
			c := w.getClaim("c")
			if c.Status.Allocation == nil || len(c.Status.Devices) > 0 || len(c.Status.ReservedFor) == 0 {
				return fmt.Errorf("claim is %+v", c.Status)
			}
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "example.com", Pool: "a", Device: "d", Conditions: []metav1.Condition{
				{Type: condition, Status: metav1.ConditionTrue, Reason: "R", Message: "m", LastTransitionTime: metav1.Now()},
			}}}
			_, err := w.ResourceV1().ResourceClaims("ns").UpdateStatus(t.Context(), c, metav1.UpdateOptions{})
			return err
		})
	}
	w.claim("c")
	w.pod("p", "c")
	tell("failed")
	w.waits("p", corev1.PodReasonSchedulerError, `running PreBind plugin "DynamicResources": device binding failed: claim=c, reason=R, message="m"`)
	tell("attached") // of the next attempt, which has new devices
	w.placed("p", "a")
}

// TestClaimTakenByOthers: what was found for a claim is not written over what another scheduler wrote.
func TestClaimTakenByOthers(t *testing.T) {
	w := startWorld(t)
	w.claim("c")
	stale := w.getClaim("c")
	theirs := stale.DeepCopy()
	theirs.Status.Allocation = &resourcev1.AllocationResult{}
	w.must(w.ResourceV1().ResourceClaims("ns").UpdateStatus(t.Context(), theirs, metav1.UpdateOptions{}))
	pod := testPod("p", "1", func(p *corev1.Pod) { p.Namespace = "ns" })
	w.s.devices.find(stale.UID, pod.UID, &resourcev1.AllocationResult{})
	err := w.s.takeDevices(t.Context(), pod, "a", &foundDevices{claims: []*resourcev1.ResourceClaim{stale}})
	if err == nil || !strings.Contains(err.Error(), "claim ns/c got allocated elsewhere in the meantime") {
		t.Errorf("got %v", err)
	}
	w.s.giveDevicesBack(t.Context(), pod, foundDevices{claims: []*resourcev1.ResourceClaim{stale}})
	if w.s.devices.allocating(stale.UID) {
		t.Error("the devices that were found are kept from others")
	}
}

// TestDevicesAreGivenBackWhenBindingFails: the claim keeps its devices, and others can have it.
func TestDevicesAreGivenBackWhenBindingFails(t *testing.T) {
	w := startWorld(t)
	w.claim("c")
	claim := w.getClaim("c")
	pod := testPod("nowhere", "1", func(p *corev1.Pod) { p.Namespace = "ns" }) // it is not there, so it cannot be bound
	w.s.devices.find(claim.UID, pod.UID, &resourcev1.AllocationResult{})
	w.eventually("the claim in the cache", func() error {
		_, err := w.s.devices.claim("ns", "c")
		return err
	})
	w.s.bindWithDevices(t.Context(), pod, "a", foundDevices{claims: []*resourcev1.ResourceClaim{claim}}, 0)
	if c := w.getClaim("c"); c.Status.Allocation == nil || len(c.Status.ReservedFor) > 0 {
		t.Errorf("claim is %+v, want it allocated and reserved for nobody", c.Status)
	}
}

// TestChangeWakesWhomItConcerns: pods without claims sleep through what happens to devices.
func TestChangeWakesWhomItConcerns(t *testing.T) {
	q, now := newQueue(), time.Now()
	for _, name := range []string{"with", "without"} {
		q.add(testPod(name, "1", func(p *corev1.Pod) {
			if name == "with" {
				p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: ptr.To("c")}}
			}
		}), now)
	}
	for range 2 {
		pod, moved, _ := q.take(now)
		q.failed(pod.UID, moved, true, now)
	}
	q.stirThose(now, plugin.Devices{}.Wanted)
	later := now.Add(time.Minute)
	if pod, _, _ := q.take(later); pod == nil || pod.Name != "with" {
		t.Fatalf("got %v, want the pod with a claim", pod)
	}
	if pod, _, _ := q.take(later); pod != nil {
		t.Errorf("pod %s was woken by what is none of its business", pod.Name)
	}
}

// TestParkedPodHasNoBackoff: a pod that waited for its claim is tried as soon as that is there.
func TestParkedPodHasNoBackoff(t *testing.T) {
	q, now := newQueue(), time.Now()
	q.add(testPod("p", "1"), now)
	for range 5 {
		pod, moved, _ := q.take(now)
		if pod == nil {
			t.Fatal("the pod is not tried at once")
		}
		q.park(pod.UID, moved, now)
		if pod, _, _ := q.take(now); pod != nil {
			t.Fatal("a parked pod is tried though nothing changed")
		}
		q.stir()
	}
}
