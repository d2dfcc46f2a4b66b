package pods

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kuberuntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/hooks"
	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/resources"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/runtime/runtimetest"
	"github.com/skiff-k8s/skiff/kubelet/status"
	"github.com/skiff-k8s/skiff/kubelet/sysctl"
)

// host stands for the node beside its runtime: volumes that are directories, no probes, and control
// groups of which it only counts.
type host struct {
	root    string
	changes chan probe.Change

	mu      sync.Mutex
	groups  map[types.UID]bool
	mounted map[types.UID]bool
	broken  error // of Mount
}

func (h *host) ConfigMap(_ context.Context, pod *v1.Pod, name string) (*v1.ConfigMap, error) {
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}
func (h *host) Secret(_ context.Context, pod *v1.Pod, name string) (*v1.Secret, error) {
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}
func (h *host) Mount(_ context.Context, pod *v1.Pod) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mounted[pod.UID] = true
	return h.broken
}
func (h *host) Unmount(_ context.Context, uid types.UID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mounted, uid)
	return os.RemoveAll(filepath.Join(h.root, "pods", string(uid)))
}
func (h *host) HostPath(pod *v1.Pod, name string) string {
	return filepath.Join(h.root, "pods", string(pod.UID), name)
}
func (h *host) Prepare(context.Context, *v1.Pod) error       { return nil }
func (h *host) Unprepare(context.Context, types.UID) error   { return nil }
func (h *host) IDs(*v1.Pod, *v1.Container) ([]string, error) { return nil, nil }
func (h *host) ReadOnly(*v1.Volume) bool                     { return false }
func (h *host) SubPath(context.Context, *v1.Pod, string, int, v1.VolumeMount, string) (string, error) {
	return "", nil
}
func (h *host) Start(*v1.Pod, *v1.Container, string, string, time.Time) {}
func (h *host) Stop(string)                                             {}
func (h *host) StopPod(types.UID)                                       {}
func (h *host) Terminating(types.UID)                                   {}
func (h *host) Started(string) bool                                     { return true }
func (h *host) Ready(string) bool                                       { return true }
func (h *host) Changes() <-chan probe.Change                            { return h.changes }
func (h *host) EnsurePod(pod *v1.Pod) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.groups[pod.UID] = true
	return nil
}
func (h *host) RemovePod(uid types.UID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.groups, uid)
	return nil
}
func (h *host) PodParent(pod *v1.Pod) string { return "/pod" + string(pod.UID) }
func (h *host) Pods() ([]types.UID, error)   { return nil, nil }

// node is a node under test: an API, a runtime, and a Manager fed by the test.
type node struct {
	t       *testing.T
	client  *fake.Clientset
	runtime *runtimetest.Runtime
	host    *host
	root    string
	stop    func()
	m       *Manager
	told    sync.WaitGroup // what the API is still about to tell the Manager

	policies Policies // nil unless a test sets them
}

func newNode(t *testing.T, script func(*cri.ContainerConfig) runtimetest.Script) *node {
	n := &node{t: t, client: fake.NewClientset(), runtime: runtimetest.Start(t), root: t.TempDir()}
	n.runtime.Script = script
	n.host = &host{root: n.root, changes: make(chan probe.Change), groups: map[types.UID]bool{}, mounted: map[types.UID]bool{}}
	// The API tells the Manager what the Manager wrote, as a watch does.
	n.client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, kuberuntime.Object, error) {
		m := n.m
		n.told.Go(func() {
			if pod := n.pod(a.(clienttesting.PatchAction).GetName()); pod != nil {
				m.Sync(t.Context(), pod)
			}
		})
		return false, nil, nil
	})
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// start runs a Manager, which stands for a kubelet's run.
func (n *node) start() {
	ctx, cancel := context.WithCancel(n.t.Context())
	client, err := runtime.Dial(ctx, n.runtime.Endpoint, n.host.root)
	if err != nil {
		n.t.Fatal(err)
	}
	puller, err := images.NewPuller(client, filepath.Join(n.host.root, "image_manager"), images.Verification{})
	if err != nil {
		n.t.Fatal(err)
	}
	allowed, err := sysctl.NewList(nil, "6.1")
	if err != nil {
		n.t.Fatal(err)
	}
	n.m = New(Config{
		Client: n.client, Recorder: &record.FakeRecorder{}, Runtime: client,
		Volumes: n.host, Probes: n.host, Cgroups: n.host, Devices: n.host, Images: puller, Sysctls: allowed, Hooks: hooks.New(client.Exec),
		Node: func() *v1.Node {
			return &v1.Node{Status: v1.NodeStatus{Allocatable: v1.ResourceList{"cpu": resource.MustParse("2"), "pods": resource.MustParse("10")}}}
		},
		Services: func() []*v1.Service { return nil }, NetworkReady: func() error { return nil }, Policies: n.policies,
		RootDir: n.root, LogDir: filepath.Join(n.root, "logs"), HostIPs: []string{"192.0.2.1"}, Resources: resources.Node{Memory: 1 << 30},
	})
	var group sync.WaitGroup
	group.Go(func() { _ = n.m.Run(ctx) })
	group.Go(func() { _ = client.Watch(ctx, n.m.Wake, func(error) {}) })
	n.stop = func() {
		cancel()
		group.Wait()
		n.told.Wait()
		client.Close()
	}
}

// create makes a pod in the API and tells the Manager.
func (n *node) create(name string, spec v1.PodSpec) *v1.Pod {
	n.t.Helper()
	if spec.TerminationGracePeriodSeconds == nil {
		spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
	}
	pod, err := n.client.CoreV1().Pods("ns").Create(n.t.Context(), &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Generation: 1}, Spec: spec,
	}, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	n.m.Sync(n.t.Context(), pod)
	return pod
}

// update changes a pod in the API and tells the Manager.
func (n *node) update(name string, change func(*v1.Pod)) {
	n.t.Helper()
	pod := n.pod(name)
	change(pod)
	pod, err := n.client.CoreV1().Pods("ns").Update(n.t.Context(), pod, metav1.UpdateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	n.m.Sync(n.t.Context(), pod)
}

// remove asks for the pod's deletion, as DELETE with a grace does.
func (n *node) remove(name string, grace int64) {
	n.t.Helper()
	n.update(name, func(pod *v1.Pod) {
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = ptr.To(metav1.Now()), &grace
	})
}

// pod is the pod as the API has it, or nil.
func (n *node) pod(name string) *v1.Pod {
	pod, err := n.client.CoreV1().Pods("ns").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return pod
}

// until waits for a condition.
func (n *node) until(what string, holds func() bool) {
	n.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			n.t.Fatalf("waited in vain for %s; runtime did %q", what, n.runtime.Log())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (n *node) untilPhase(name string, phase v1.PodPhase) *v1.Pod {
	n.t.Helper()
	n.until(name+" to be "+string(phase), func() bool { pod := n.pod(name); return pod != nil && pod.Status.Phase == phase })
	return n.pod(name)
}

// untilGone waits until the Manager deleted the pod from the API and, told that it is gone, cleared it away.
func (n *node) untilGone(name string, uid types.UID) {
	n.t.Helper()
	n.until(name+" to be deleted", func() bool { return n.pod(name) == nil })
	n.m.Gone(uid)
	n.until(name+" to be cleared away", func() bool { return !n.m.Exists(uid) })
	if left := n.runtime.Left(); left != 0 {
		n.t.Errorf("the runtime has %d things left", left)
	}
	if len(n.host.groups) > 0 || len(n.host.mounted) > 0 {
		n.t.Errorf("control groups %v and mounts %v are left", n.host.groups, n.host.mounted)
	}
	if entries, _ := os.ReadDir(filepath.Join(n.root, "logs")); len(entries) > 0 {
		n.t.Errorf("logs are left: %v", entries)
	}
}

func wantLog(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("runtime did\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestPodFromStartToEnd(t *testing.T) {
	n := newNode(t, func(c *cri.ContainerConfig) runtimetest.Script {
		if c.Metadata.Name == "i" {
			return runtimetest.Script{Runs: 10 * time.Millisecond}
		}
		return runtimetest.Script{}
	})
	main := c("a")
	main.Lifecycle = &v1.Lifecycle{
		PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"post"}}},
		PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"pre"}}},
	}
	pod := n.create("p", v1.PodSpec{InitContainers: []v1.Container{c("i"), side("s")}, Containers: []v1.Container{main, c("b")}})
	running := n.untilPhase("p", v1.PodRunning)
	if running.Status.PodIP == "" || running.Status.HostIP != "192.0.2.1" || running.Status.ObservedGeneration != 1 {
		t.Errorf("status is %+v", running.Status)
	}
	n.until("the pod to be ready", func() bool {
		return slices.ContainsFunc(n.pod("p").Status.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.PodReady && c.Status == v1.ConditionTrue })
	})
	began := []string{"sandbox p", "start i", "start s", "start a", "exec a [post]", "start b"}
	wantLog(t, n.runtime.Log(), began...)

	n.remove("p", 30)
	n.untilGone("p", pod.UID)
	ended := n.runtime.Log()[len(began):]
	if len(ended) != 4 || ended[3] != "stop s 30" {
		t.Errorf("the sidecar was not stopped last: %q", ended)
	}
	if pre, stop := slices.Index(ended, "exec a [pre]"), slices.Index(ended, "stop a 30"); pre < 0 || stop < pre {
		t.Errorf("the pre-stop hook did not run before the stop: %q", ended)
	}
}

func TestRestartPolicies(t *testing.T) {
	for _, test := range []struct {
		policy   v1.RestartPolicy
		exits    int32
		phase    v1.PodPhase
		restarts int32
	}{
		{v1.RestartPolicyNever, 0, v1.PodSucceeded, 0},
		{v1.RestartPolicyNever, 3, v1.PodFailed, 0},
		{v1.RestartPolicyOnFailure, 0, v1.PodSucceeded, 0},
		{v1.RestartPolicyOnFailure, 3, v1.PodRunning, 1},
		{v1.RestartPolicyAlways, 0, v1.PodRunning, 1},
	} {
		t.Run(string(test.policy)+string('0'+test.exits), func(t *testing.T) {
			n := newNode(t, func(*cri.ContainerConfig) runtimetest.Script {
				return runtimetest.Script{Runs: 10 * time.Millisecond, Exits: test.exits}
			})
			n.create("p", v1.PodSpec{RestartPolicy: test.policy, Containers: []v1.Container{c("a")}})
			n.untilPhase("p", test.phase)
			if test.restarts == 0 {
				wantLog(t, n.runtime.Log(), "sandbox p", "start a")
				return
			}
			n.until("the container to back off", func() bool {
				s := n.pod("p").Status.ContainerStatuses
				return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff"
			})
			s := n.pod("p").Status.ContainerStatuses[0]
			if s.RestartCount != test.restarts || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != test.exits {
				t.Errorf("container is %+v", s)
			}
		})
	}
}

// TestRestartAllContainers has a container end so that all start again, the init container first.
func TestRestartAllContainers(t *testing.T) {
	var ended atomic.Bool
	n := newNode(t, func(c *cri.ContainerConfig) runtimetest.Script {
		switch {
		case c.Metadata.Name == "i":
			return runtimetest.Script{Runs: time.Millisecond}
		case c.Metadata.Name == "b" && !ended.Swap(true):
			return runtimetest.Script{Runs: 50 * time.Millisecond, Exits: 42}
		}
		return runtimetest.Script{}
	})
	n.create("p", v1.PodSpec{
		RestartPolicy:  v1.RestartPolicyNever,
		InitContainers: []v1.Container{c("i")}, Containers: []v1.Container{c("a"), restartAll("b")},
	})
	n.until("all containers to run for the second time", func() bool {
		s := n.pod("p").Status
		return !slices.ContainsFunc(s.ContainerStatuses, func(c v1.ContainerStatus) bool { return c.RestartCount != 1 || c.State.Running == nil }) &&
			len(s.ContainerStatuses) == 2
	})
	once := []string{"start i", "start a", "start b"}
	wantLog(t, n.runtime.Log(), slices.Concat([]string{"sandbox p"}, once, []string{"stop a 2"}, once)...)
	s := n.pod("p").Status
	if last := s.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.Reason != "RestartingAllContainers" || last.ExitCode != 137 {
		t.Errorf("the last run of a container that did not end by itself: got %+v", last)
	}
	if s.Phase != v1.PodRunning || s.InitContainerStatuses[0].RestartCount != 1 {
		t.Errorf("got phase %s and %d restarts of the init container, want Running and 1", s.Phase, s.InitContainerStatuses[0].RestartCount)
	}
}

func TestKubeletRestartTakesPodsOver(t *testing.T) {
	n := newNode(t, nil)
	kept := n.create("kept", v1.PodSpec{Containers: []v1.Container{c("a")}})
	n.untilPhase("kept", v1.PodRunning)
	n.create("orphan", v1.PodSpec{Containers: []v1.Container{c("b")}})
	n.untilPhase("orphan", v1.PodRunning)
	before := n.runtime.Log()

	n.stop()
	if got := n.runtime.Running(); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("after the kubelet ended %v run, want both containers", got)
	}
	n.start()
	n.m.Sync(t.Context(), n.pod("kept"))
	if err := n.m.Adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.until("the orphan to be cleared away", func() bool { return !n.m.Exists("uid-orphan") })
	wantLog(t, n.runtime.Log()[len(before):], "stop b 30")
	if got := n.runtime.Running(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%v run, want the known pod's container alone", got)
	}
	if got := n.pod("kept").Status; got.Phase != v1.PodRunning || got.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the known pod's status is %+v", got)
	}
	n.remove("kept", 1)
	n.untilGone("kept", kept.UID)
}

func TestDeadSandboxIsReplaced(t *testing.T) {
	n := newNode(t, nil)
	n.create("p", v1.PodSpec{Containers: []v1.Container{c("a")}})
	first := n.untilPhase("p", v1.PodRunning).Status.PodIP
	n.runtime.KillSandboxes()
	n.until("the container to run again", func() bool {
		s := n.pod("p").Status
		return s.ContainerStatuses[0].RestartCount == 1 && s.ContainerStatuses[0].State.Running != nil && s.PodIP != first
	})
	// The container is stopped too, if it was seen before it died, and the sandbox after.
	did := slices.DeleteFunc(n.runtime.Log(), func(what string) bool { return what == "stop a 30" })
	wantLog(t, did, "sandbox p", "start a", "sandbox p", "start a")
}

func TestShorterGraceCountsFromThenOn(t *testing.T) {
	n := newNode(t, func(*cri.ContainerConfig) runtimetest.Script { return runtimetest.Script{Stubborn: true} })
	pod := n.create("p", v1.PodSpec{Containers: []v1.Container{c("a")}})
	n.untilPhase("p", v1.PodRunning)
	n.remove("p", 600)
	n.until("the first stop", func() bool { return slices.Contains(n.runtime.Log(), "stop a 600") })
	began := time.Now()
	n.remove("p", 1)
	n.untilGone("p", pod.UID)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the pod took %v to end with a grace of 1s", took)
	}
}

func TestRejectedPod(t *testing.T) {
	n := newNode(t, nil)
	big := c("a")
	big.Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("3")}
	pod := n.create("p", v1.PodSpec{Containers: []v1.Container{big}})
	s := n.untilPhase("p", v1.PodFailed).Status
	if s.Reason != "OutOfcpu" || !strings.HasPrefix(s.Message, "Pod was rejected: Node didn't have enough resource: cpu") {
		t.Errorf("reason %q, message %q", s.Reason, s.Message)
	}
	n.remove("p", 30)
	n.untilGone("p", pod.UID)
	wantLog(t, n.runtime.Log())
}

func TestForbiddenSysctl(t *testing.T) {
	n := newNode(t, nil)
	pod := n.create("p", v1.PodSpec{
		Containers:      []v1.Container{c("a")},
		SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}, {Name: "kernel/msgmax", Value: "9000"}}},
	})
	s := n.untilPhase("p", v1.PodFailed).Status
	if s.Reason != "SysctlForbidden" || s.Message != `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted` {
		t.Errorf("reason %q, message %q", s.Reason, s.Message)
	}
	n.remove("p", 30)
	n.untilGone("p", pod.UID)
	wantLog(t, n.runtime.Log())
}

func TestDeadline(t *testing.T) {
	n := newNode(t, nil)
	n.create("p", v1.PodSpec{ActiveDeadlineSeconds: ptr.To[int64](1), Containers: []v1.Container{c("a")}})
	s := n.untilPhase("p", v1.PodFailed).Status
	if s.Reason != "DeadlineExceeded" || s.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("reason %q, message %q", s.Reason, s.Message)
	}
}

func TestEviction(t *testing.T) {
	n := newNode(t, nil)
	n.create("p", v1.PodSpec{Containers: []v1.Container{c("a")}})
	n.untilPhase("p", v1.PodRunning)
	failure := status.Failure{Reason: "Evicted", Message: "low", Condition: &v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: "TerminationByKubelet"}}
	if !n.m.Evict("uid-p", failure, time.Second) {
		t.Fatal("a running pod was not there to be evicted")
	}
	s := n.untilPhase("p", v1.PodFailed).Status
	if s.Reason != "Evicted" || !slices.ContainsFunc(s.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.DisruptionTarget }) {
		t.Errorf("status is %+v", s)
	}
	if n.m.Evict("uid-p", failure, time.Second) {
		t.Error("a pod that is over was evicted again")
	}
	if log := n.runtime.Log(); log[len(log)-1] != "stop a 2" {
		t.Errorf("last done is %q, want a stop with the least grace", log[len(log)-1])
	}
}

func TestChangedImageRestartsTheContainer(t *testing.T) {
	n := newNode(t, nil)
	n.create("p", v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{c("a"), c("b")}})
	n.untilPhase("p", v1.PodRunning)
	n.update("p", func(pod *v1.Pod) { pod.Spec.Containers[0].Image, pod.Generation = "other", 2 })
	n.until("the new image to run", func() bool {
		s := n.pod("p").Status
		return s.ContainerStatuses[0].Image == "other" && s.ContainerStatuses[0].State.Running != nil && s.ObservedGeneration == 2
	})
	wantLog(t, n.runtime.Log(), "sandbox p", "start a", "start b", "stop a 30", "start a")
}

func TestResize(t *testing.T) {
	n := newNode(t, nil)
	small := c("a")
	small.Resources.Requests = v1.ResourceList{"cpu": resource.MustParse("1")}
	n.create("p", v1.PodSpec{Containers: []v1.Container{small}})
	n.untilPhase("p", v1.PodRunning)
	ask := func(cpu string, generation int64) {
		n.update("p", func(pod *v1.Pod) {
			pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{"cpu": resource.MustParse(cpu)}
			pod.Generation = generation
		})
	}
	ask("2", 2)
	n.until("the resize", func() bool {
		s := n.pod("p").Status
		return s.ObservedGeneration == 2 && s.ContainerStatuses[0].Resources.Requests.Cpu().String() == "2" && s.ContainerStatuses[0].AllocatedResources.Cpu().String() == "2"
	})
	ask("3", 3)
	n.until("the resize to be refused", func() bool {
		return slices.ContainsFunc(n.pod("p").Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.PodResizePending && c.Reason == v1.PodReasonInfeasible
		})
	})
	if got := n.pod("p").Status.ContainerStatuses[0].AllocatedResources.Cpu().String(); got != "2" {
		t.Errorf("allocated cpu is %s, want 2 still", got)
	}
	wantLog(t, n.runtime.Log(), "sandbox p", "start a", "resize a shares 2048")
}

func TestStartFailures(t *testing.T) {
	n := newNode(t, func(c *cri.ContainerConfig) runtimetest.Script {
		if c.Metadata.Name == "broken" {
			return runtimetest.Script{Fails: "no such thing"}
		}
		return runtimetest.Script{}
	})
	n.runtime.Missing = map[string]bool{"missing:latest": true}
	noImage := v1.Container{Name: "noimage", Image: "missing"}
	noEnv := c("noenv")
	noEnv.Env = []v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, Key: "k"}}}}
	n.create("p", v1.PodSpec{Containers: []v1.Container{noImage, noEnv, c("broken"), c("fine")}})
	want := map[string]string{"noimage": "ErrImagePull no such image", "noenv": `CreateContainerConfigError configmaps "cm" not found`, "broken": "CreateContainerError no such thing"}
	n.until("the failures to show", func() bool {
		for _, s := range n.pod("p").Status.ContainerStatuses {
			if text, fails := want[s.Name]; fails && (s.State.Waiting == nil || !strings.HasSuffix(s.State.Waiting.Reason+" "+s.State.Waiting.Message, text[strings.Index(text, " ")+1:])) {
				return false
			}
		}
		return len(n.pod("p").Status.ContainerStatuses) == 4
	})
	n.until("the other container to run", func() bool { return slices.Equal(n.runtime.Running(), []string{"fine"}) })
	if got := n.pod("p").Status.Phase; got != v1.PodPending {
		t.Errorf("phase is %s, want Pending", got)
	}
}
