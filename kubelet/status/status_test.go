package status

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// a run of a container, the later the higher its number.
func run(name string, state runtime.State, code int32, number int) runtime.Container {
	return runtime.Container{
		ID: name + string(rune('0'+number)), Name: name, SandboxID: "s", State: state, ExitCode: code, Restarts: number,
		Reason: map[runtime.State]string{runtime.Exited: "Error"}[state], StartedAt: start, FinishedAt: start,
	}
}

func running(name string) runtime.Container { return run(name, runtime.Running, 0, 0) }
func exited(name string, code int32) runtime.Container {
	return run(name, runtime.Exited, code, 0)
}

func container(name string) v1.Container { return v1.Container{Name: name, Image: "image"} }

func sidecar(name string) v1.Container {
	c := container(name)
	c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	return c
}

// compute runs Compute on a pod with a ready sandbox where every probe is content.
func compute(spec v1.PodSpec, old v1.PodStatus, change func(*Input), runs ...runtime.Container) v1.PodStatus {
	in := Input{
		Pod:         &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 3}, Spec: spec, Status: old},
		Old:         old,
		Runtime:     &runtime.Pod{Containers: runs, Sandboxes: []runtime.Sandbox{{ID: "s", Ready: true, IPs: []string{"10.0.0.1"}}}},
		ContainerID: func(id string) string { return "x://" + id },
		Ready:       func(string) bool { return true },
		Started:     func(string) bool { return true },
		HostIPs:     []string{"192.0.2.1"},
		Now:         start,
	}
	if change != nil {
		change(&in)
	}
	return Compute(in)
}

// A container that was taken away because all are to start again.
var (
	waitingToRestart = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "RestartingAllContainers"}}
	takenAway        = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "RestartingAllContainers", ExitCode: 137}}
)

func TestPhase(t *testing.T) {
	two := []v1.Container{container("a"), container("b")}
	for _, test := range []struct {
		name   string
		spec   v1.PodSpec
		old    v1.PodStatus
		runs   []runtime.Container
		change func(*Input)
		want   v1.PodPhase
	}{
		{name: "nothing started", spec: v1.PodSpec{Containers: two}, want: v1.PodPending},
		{name: "one of two started", spec: v1.PodSpec{Containers: two}, runs: []runtime.Container{running("a")}, want: v1.PodPending},
		{name: "all run", spec: v1.PodSpec{Containers: two}, runs: []runtime.Container{running("a"), running("b")}, want: v1.PodRunning},
		{name: "one ended, one runs", spec: v1.PodSpec{Containers: two, RestartPolicy: v1.RestartPolicyNever},
			runs: []runtime.Container{exited("a", 1), running("b")}, want: v1.PodRunning},
		{name: "all ended well, restarted always", spec: v1.PodSpec{Containers: two, RestartPolicy: v1.RestartPolicyAlways},
			runs: []runtime.Container{exited("a", 0), exited("b", 0)}, want: v1.PodRunning},
		{name: "all ended well, never restarted", spec: v1.PodSpec{Containers: two, RestartPolicy: v1.RestartPolicyNever},
			runs: []runtime.Container{exited("a", 0), exited("b", 0)}, want: v1.PodSucceeded},
		{name: "one failed, never restarted", spec: v1.PodSpec{Containers: two, RestartPolicy: v1.RestartPolicyNever},
			runs: []runtime.Container{exited("a", 0), exited("b", 2)}, want: v1.PodFailed},
		{name: "one failed, restarted on failure", spec: v1.PodSpec{Containers: two, RestartPolicy: v1.RestartPolicyOnFailure},
			runs: []runtime.Container{exited("a", 0), exited("b", 2)}, want: v1.PodRunning},
		{name: "taken away to start again", spec: v1.PodSpec{Containers: two, RestartPolicy: v1.RestartPolicyNever},
			old:  v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{{Name: "a", State: waitingToRestart, LastTerminationState: takenAway}, {Name: "b", State: waitingToRestart, LastTerminationState: takenAway}}},
			want: v1.PodRunning},
		{name: "all ended, restarted always, but the pod is over", spec: v1.PodSpec{Containers: two, RestartPolicy: v1.RestartPolicyAlways},
			runs: []runtime.Container{exited("a", 0), exited("b", 137)}, change: func(in *Input) { in.Over = true }, want: v1.PodFailed},
		{name: "exit code restarts by rule", spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{{
			Name: "a", RestartPolicy: ptr.To(v1.ContainerRestartPolicyNever),
			RestartPolicyRules: []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart,
				ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}},
		}}}, runs: []runtime.Container{exited("a", 42)}, want: v1.PodRunning},
		{name: "init container runs", spec: v1.PodSpec{InitContainers: []v1.Container{container("i")}, Containers: two},
			runs: []runtime.Container{running("i")}, want: v1.PodPending},
		{name: "init container failed, never restarted", spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, InitContainers: []v1.Container{container("i")}, Containers: two},
			runs: []runtime.Container{exited("i", 1)}, want: v1.PodFailed},
		{name: "init container failed, restarted", spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways, InitContainers: []v1.Container{container("i")}, Containers: two},
			runs: []runtime.Container{exited("i", 1)}, want: v1.PodPending},
		{name: "sidecar still starting", spec: v1.PodSpec{InitContainers: []v1.Container{sidecar("s")}, Containers: []v1.Container{container("a")}},
			runs: []runtime.Container{running("s")}, change: func(in *Input) { in.Started = func(string) bool { return false } }, want: v1.PodPending},
		{name: "sidecar ended after the main container", spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, InitContainers: []v1.Container{sidecar("s")}, Containers: []v1.Container{container("a")}},
			runs: []runtime.Container{exited("s", 137), exited("a", 0)}, want: v1.PodSucceeded},
		{name: "terminal stays terminal", spec: v1.PodSpec{Containers: two}, old: v1.PodStatus{Phase: v1.PodFailed},
			runs: []runtime.Container{running("a"), running("b")}, want: v1.PodFailed},
		{name: "not failed while something runs", spec: v1.PodSpec{Containers: two}, old: v1.PodStatus{Phase: v1.PodRunning},
			runs: []runtime.Container{running("a"), running("b")}, change: func(in *Input) { in.Failure = &Failure{Reason: "Evicted"} }, want: v1.PodRunning},
		{name: "failed when nothing runs", spec: v1.PodSpec{Containers: two}, old: v1.PodStatus{Phase: v1.PodRunning},
			runs: []runtime.Container{exited("a", 0), exited("b", 0)}, change: func(in *Input) { in.Failure = &Failure{Reason: "Evicted"} }, want: v1.PodFailed},
		{name: "never started and settled", spec: v1.PodSpec{Containers: two}, change: func(in *Input) { in.Over, in.Settled = true, true }, want: v1.PodFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := compute(test.spec, test.old, test.change, test.runs...).Phase; got != test.want {
				t.Errorf("phase is %s, want %s", got, test.want)
			}
		})
	}
}

func TestContainerStatus(t *testing.T) {
	spec := v1.PodSpec{Containers: []v1.Container{container("a")}, RestartPolicy: v1.RestartPolicyAlways}
	back := Waiting{Reason: "CrashLoopBackOff", Message: "back-off"}
	for _, test := range []struct {
		name         string
		old          v1.PodStatus
		change       func(*Input)
		runs         []runtime.Container
		state, last  string // "waiting <reason>", "running", "terminated <exit code>", ""
		restarts     int32
		ready, begun bool
	}{
		{name: "not created", state: "waiting ContainerCreating"},
		{name: "running", runs: []runtime.Container{running("a")}, state: "running", ready: true, begun: true},
		{name: "running, not started", runs: []runtime.Container{running("a")}, change: func(in *Input) { in.Started = func(string) bool { return false } }, state: "running"},
		{name: "running, not ready", runs: []runtime.Container{running("a")}, change: func(in *Input) { in.Ready = func(string) bool { return false } }, state: "running", begun: true},
		{name: "ended", runs: []runtime.Container{exited("a", 3)}, state: "terminated 3"},
		{name: "waits to be started again", runs: []runtime.Container{exited("a", 3)}, change: func(in *Input) { in.Waiting = map[string]Waiting{"a": back} },
			state: "waiting CrashLoopBackOff", last: "terminated 3"},
		{name: "waits no more when the pod is over", runs: []runtime.Container{exited("a", 3)},
			change: func(in *Input) { in.Waiting, in.Over = map[string]Waiting{"a": back}, true }, state: "terminated 3"},
		{name: "runs again", runs: []runtime.Container{run("a", runtime.Running, 0, 1), exited("a", 3)}, state: "running", last: "terminated 3", restarts: 1, ready: true, begun: true},
		{name: "earlier run collected", runs: []runtime.Container{run("a", runtime.Running, 0, 1)},
			old:   v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "a", ContainerID: "x://a0", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 7}}}}},
			state: "running", last: "terminated 7", restarts: 1, ready: true, begun: true},
		{name: "ran and left no trace",
			old:   v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "a", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}},
			state: "waiting ContainerCreating", last: "terminated 137", restarts: 1},
		{name: "end reported before stays",
			old:   v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "a", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 5}}}}},
			state: "terminated 5"},
		{name: "settled without a trace", change: func(in *Input) { in.Over, in.Settled = true, true }, state: "terminated 137"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := compute(spec, test.old, test.change, test.runs...)
			c := s.ContainerStatuses[0]
			if got := say(c.State); got != test.state {
				t.Errorf("state is %q, want %q", got, test.state)
			}
			if got := say(c.LastTerminationState); got != test.last {
				t.Errorf("last state is %q, want %q", got, test.last)
			}
			if c.RestartCount != test.restarts || c.Ready != test.ready || *c.Started != test.begun {
				t.Errorf("restarts %d ready %v started %v, want %d %v %v", c.RestartCount, c.Ready, *c.Started, test.restarts, test.ready, test.begun)
			}
		})
	}
}

func say(s v1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return "waiting " + s.Waiting.Reason
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		code, _ := json.Marshal(s.Terminated.ExitCode)
		return "terminated " + string(code)
	}
	return ""
}

func TestConditions(t *testing.T) {
	twoInits := v1.PodSpec{InitContainers: []v1.Container{container("i1"), container("i2")}, Containers: []v1.Container{container("a")}, RestartPolicy: v1.RestartPolicyAlways}
	for _, test := range []struct {
		name   string
		spec   v1.PodSpec
		old    v1.PodStatus
		runs   []runtime.Container
		change func(*Input)
		want   map[v1.PodConditionType]string // "status reason message"
	}{
		{name: "init containers to run", spec: twoInits, want: map[v1.PodConditionType]string{
			v1.PodInitialized:            "False ContainersNotInitialized containers with incomplete status: [i1 i2]",
			v1.PodReady:                  "False ContainersNotReady containers with unready status: [a]",
			v1.ContainersReady:           "False ContainersNotReady containers with unready status: [a]",
			v1.PodReadyToStartContainers: "True  ",
			v1.PodScheduled:              "True  ",
		}},
		{name: "first init container done", spec: twoInits, runs: []runtime.Container{exited("i1", 0)}, want: map[v1.PodConditionType]string{
			v1.PodInitialized: "False ContainersNotInitialized containers with incomplete status: [i2]",
		}},
		{name: "all run", spec: twoInits, runs: []runtime.Container{exited("i1", 0), exited("i2", 0), running("a")}, want: map[v1.PodConditionType]string{
			v1.PodInitialized: "True  ", v1.PodReady: "True  ", v1.ContainersReady: "True  ",
		}},
		{name: "no sandbox", spec: twoInits, change: func(in *Input) { in.Runtime.Sandboxes = nil }, want: map[v1.PodConditionType]string{
			v1.PodReadyToStartContainers: "False  ",
		}},
		{name: "succeeded", spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{container("a")}}, runs: []runtime.Container{exited("a", 0)},
			want: map[v1.PodConditionType]string{
				v1.PodInitialized: "True PodCompleted ", v1.PodReady: "False PodCompleted ", v1.ContainersReady: "False PodCompleted ",
			}},
		{name: "failed", spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{container("a")}}, runs: []runtime.Container{exited("a", 1)},
			want: map[v1.PodConditionType]string{v1.PodReady: "False PodFailed ", v1.ContainersReady: "False PodFailed "}},
		{name: "readiness gate missing", spec: v1.PodSpec{Containers: []v1.Container{container("a")}, ReadinessGates: []v1.PodReadinessGate{{ConditionType: "x/y"}}},
			runs: []runtime.Container{running("a")}, want: map[v1.PodConditionType]string{
				v1.ContainersReady: "True  ",
				v1.PodReady:        `False ReadinessGatesNotReady corresponding condition of pod readiness gate "x/y" does not exist.`,
			}},
		{name: "readiness gate open", spec: v1.PodSpec{Containers: []v1.Container{container("a")}, ReadinessGates: []v1.PodReadinessGate{{ConditionType: "x/y"}}},
			old:  v1.PodStatus{Conditions: []v1.PodCondition{{Type: "x/y", Status: v1.ConditionTrue}}},
			runs: []runtime.Container{running("a")}, want: map[v1.PodConditionType]string{v1.PodReady: "True  ", "x/y": "True  "}},
		{name: "evicted", spec: v1.PodSpec{Containers: []v1.Container{container("a")}}, runs: []runtime.Container{exited("a", 137)},
			change: func(in *Input) {
				in.Failure = &Failure{Reason: "Evicted", Condition: &v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: "TerminationByKubelet"}}
			}, want: map[v1.PodConditionType]string{v1.DisruptionTarget: "True TerminationByKubelet "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := compute(test.spec, test.old, test.change, test.runs...)
			got := map[v1.PodConditionType]string{}
			for _, c := range s.Conditions {
				if _, asked := test.want[c.Type]; asked {
					got[c.Type] = string(c.Status) + " " + c.Reason + " " + c.Message
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConditionKeepsItsTransition(t *testing.T) {
	before := metav1.NewTime(start.Add(-time.Hour))
	old := v1.PodStatus{Conditions: []v1.PodCondition{
		{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: before},
		{Type: v1.PodInitialized, Status: v1.ConditionFalse, LastTransitionTime: before},
	}}
	s := compute(v1.PodSpec{Containers: []v1.Container{container("a")}}, old, nil, running("a"))
	if got := condition(s.Conditions, v1.PodReady).LastTransitionTime; !got.Equal(&before) {
		t.Errorf("Ready stayed True but its transition moved to %v", got)
	}
	if got := condition(s.Conditions, v1.PodInitialized).LastTransitionTime; !got.Time.Equal(start) {
		t.Errorf("Initialized became True at %v, want %v", got, start)
	}
	if got := condition(s.Conditions, v1.PodReady).ObservedGeneration; got != 3 {
		t.Errorf("observedGeneration of Ready is %d, want 3", got)
	}
}

func TestMessagesAreLimitedTogether(t *testing.T) {
	spec := v1.PodSpec{RestartPolicy: v1.RestartPolicyNever}
	var runs []runtime.Container
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		spec.Containers = append(spec.Containers, container(name))
		r := exited(name, 1)
		r.Message = string(make([]byte, 4096))
		runs = append(runs, r)
	}
	total := 0
	for _, c := range compute(spec, v1.PodStatus{}, nil, runs...).ContainerStatuses {
		total += len(c.State.Terminated.Message)
	}
	if total != 12*1024 {
		t.Errorf("all messages have %d bytes, want %d", total, 12*1024)
	}
}

func TestPatch(t *testing.T) {
	base := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Status: v1.PodStatus{Phase: v1.PodPending, Conditions: []v1.PodCondition{
		{Type: v1.PodReady, Status: v1.ConditionFalse}, {Type: "others/own", Status: v1.ConditionTrue},
	}}}
	want := base.DeepCopy()
	if body, err := Patch(base, want); err != nil || body != nil {
		t.Errorf("patch between equal statuses is %s, %v, want none", body, err)
	}
	want.Status.Phase = v1.PodRunning
	want.Status.Conditions[0].Status = v1.ConditionTrue
	body, err := Patch(base, want)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if uid := got["metadata"].(map[string]any)["uid"]; uid != "u" {
		t.Errorf("patch is bound to uid %v, want u", uid)
	}
	if conditions := got["status"].(map[string]any)["conditions"].([]any); len(conditions) != 1 {
		t.Errorf("patch touches %d conditions, want the changed one only: %s", len(conditions), body)
	}
}
