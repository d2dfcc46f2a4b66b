package fakenodes

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Annotations by which a pod says how it wants to behave. Durations are as in "1m30s".
const (
	// StartAfter is how long after its placement the pod starts; at once.
	StartAfter = "fake.skiff.dev/start-after"
	// RunFor is how long its containers run. Those of pods that are always restarted run for ever, others for a second.
	RunFor = "fake.skiff.dev/run-for"
	// ExitCode is what its containers end with; 0.
	ExitCode = "fake.skiff.dev/exit-code"
	// Ready, "false", keeps its containers from being ready.
	Ready = "fake.skiff.dev/ready"
)

// Bounds of the pause before a container that has ended is started again: it doubles from the first to the second.
const (
	firstRestart = 10 * time.Second
	lastRestart  = 5 * time.Minute
)

// stopped is the exit code of a program that ends when it is told to.
const stopped = 128 + 15

// Behaviour is how the containers of a pod behave. What the annotations of the pod say counts for more.
type Behaviour struct {
	// StartAfter is how long after its placement the pod starts.
	StartAfter time.Duration
	// RunFor is how long its containers run; 0: for ever if they are always restarted, else a second.
	RunFor time.Duration
	// ExitCode is what its containers end with.
	ExitCode uint8
	// Unready keeps its containers from being ready.
	Unready bool
}

// script is how a pod behaves.
type script struct {
	startAfter, runFor time.Duration
	forever            bool
	exitCode           int32
	ready              bool
}

func scriptOf(pod *corev1.Pod, b Behaviour) (script, error) {
	s := script{
		startAfter: b.StartAfter, runFor: cmp.Or(b.RunFor, time.Second), forever: b.RunFor == 0 && pod.Spec.RestartPolicy == corev1.RestartPolicyAlways,
		exitCode: int32(b.ExitCode), ready: !b.Unready,
	}
	for _, key := range []string{StartAfter, RunFor, ExitCode, Ready} {
		text, ok := pod.Annotations[key]
		if !ok {
			continue
		}
		if err := s.set(key, text); err != nil {
			return s, fmt.Errorf("annotation %s: %w", key, err)
		}
	}
	return s, nil
}

func (s *script) set(key, text string) (err error) {
	switch key {
	case StartAfter:
		s.startAfter, err = time.ParseDuration(text)
	case RunFor:
		s.runFor, err = time.ParseDuration(text)
		s.forever = false
	case ExitCode:
		var code uint64
		code, err = strconv.ParseUint(text, 10, 8)
		s.exitCode = int32(code)
	case Ready:
		s.ready, err = strconv.ParseBool(text)
	}
	return err
}

// step is what happens to a pod next.
type step struct {
	status corev1.PodStatus
	// remove ends the pod's object: its containers have ended.
	remove bool
	// again is when to look at the pod next if nothing happens to it; 0: not.
	again time.Duration
}

// decide is what a kubelet would say of a pod now that behaves so, given what it has said before. ips are the pod's addresses. All
// containers of a pod start and end together; probes and hooks are not run.
func decide(pod *corev1.Pod, b Behaviour, ips []corev1.PodIP, now time.Time) step {
	p := play{pod: pod, now: now, status: *pod.Status.DeepCopy()}
	p.status.ObservedGeneration = pod.Generation
	var err error
	p.script, err = scriptOf(pod, b)
	switch {
	case over(p.status.Phase):
		return step{status: p.status, remove: pod.DeletionTimestamp != nil && ptr.Deref(pod.DeletionGracePeriodSeconds, 0) > 0}
	case pod.DeletionTimestamp != nil:
		if len(pod.Finalizers) > 0 { // somebody reads how it ended
			p.finish(stopped)
		}
		return step{status: p.status, remove: true}
	case err != nil:
		p.wait("CreateContainerConfigError", err.Error())
		return step{status: p.status}
	}
	p.status.PodIPs = ips
	p.status.PodIP = ""
	if len(ips) > 0 {
		p.status.PodIP = ips[0].IP
	}
	again := p.live()
	if left, limited := p.deadline(); limited && left <= 0 && !over(p.status.Phase) {
		p.finish(stopped)
		p.status.Phase, p.status.Reason = corev1.PodFailed, "DeadlineExceeded"
		p.status.Message = "Pod was active on the node longer than the specified deadline"
		again = 0
	} else if limited && (again == 0 || left < again) {
		again = left
	}
	if over(p.status.Phase) {
		again = 0
	}
	return step{status: p.status, again: again}
}

// play is a pod whose status is brought up to now.
type play struct {
	pod    *corev1.Pod
	script script
	now    time.Time
	status corev1.PodStatus
}

// live goes on with a pod that is neither over nor to end; the result is when to look at it again.
func (p *play) live() (again time.Duration) {
	if p.status.StartTime == nil {
		p.status.StartTime = &metav1.Time{Time: p.now}
	}
	if p.status.Phase != corev1.PodRunning {
		if left := placedAt(p.pod).Add(p.script.startAfter).Sub(p.now); left > 0 {
			p.wait("ContainerCreating", "")
			return left
		}
		p.run(0)
		return p.runTime()
	}
	first := slices.IndexFunc(p.status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.Name == p.pod.Spec.Containers[0].Name })
	if first < 0 { // another wrote this status
		p.run(0)
		return p.runTime()
	}
	state := p.status.ContainerStatuses[first]
	switch {
	case state.State.Running != nil:
		p.refresh()
		ends := state.State.Running.StartedAt.Add(p.script.runFor)
		if p.script.forever || ends.After(p.now) {
			return max(0, p.runTime()-p.now.Sub(state.State.Running.StartedAt.Time))
		}
		return p.end(state.RestartCount)
	case state.LastTerminationState.Terminated != nil:
		due := state.LastTerminationState.Terminated.FinishedAt.Add(restartPause(state.RestartCount))
		if left := due.Sub(p.now); left > 0 {
			return left
		}
	}
	p.run(state.RestartCount + 1)
	return p.runTime()
}

// runTime is how long containers run that start now; 0: for ever.
func (p *play) runTime() time.Duration {
	if p.script.forever {
		return 0
	}
	return max(p.script.runFor, time.Millisecond)
}

// deadline is what is left of the time that the pod may be active.
func (p *play) deadline() (left time.Duration, limited bool) {
	if p.pod.Spec.ActiveDeadlineSeconds == nil || p.status.StartTime == nil {
		return 0, false
	}
	return p.status.StartTime.Add(time.Duration(*p.pod.Spec.ActiveDeadlineSeconds) * time.Second).Sub(p.now), true
}

func restartPause(restarts int32) time.Duration {
	return min(lastRestart, firstRestart<<min(restarts, 16))
}

// placedAt is when the pod got its node.
func placedAt(pod *corev1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return pod.CreationTimestamp.Time
}

// wait has all containers wait for a reason.
func (p *play) wait(reason, message string) {
	p.status.Phase = corev1.PodPending
	p.containers(func(c *corev1.ContainerStatus) {
		c.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
		c.Ready, c.Started = false, ptr.To(false)
	})
	p.conditions()
}

// run starts all containers.
func (p *play) run(restarts int32) {
	p.status.Phase = corev1.PodRunning
	p.containers(func(c *corev1.ContainerStatus) {
		c.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(p.now)}}
		c.RestartCount, c.Ready, c.Started = restarts, p.script.ready, ptr.To(true)
		c.ContainerID = fmt.Sprintf("fake://%s/%s/%d", p.pod.UID, c.Name, restarts)
	})
	p.conditions()
}

// refresh notes what was changed of containers that run: their resources, and whether they are to be ready.
func (p *play) refresh() {
	p.containers(func(c *corev1.ContainerStatus) { c.Ready = p.script.ready })
	p.conditions()
}

// end ends the containers by themselves; the result is when they are started again, if the pod wants that.
func (p *play) end(restarts int32) (again time.Duration) {
	policy := p.pod.Spec.RestartPolicy
	if policy == corev1.RestartPolicyNever || policy == corev1.RestartPolicyOnFailure && p.script.exitCode == 0 {
		p.finish(p.script.exitCode)
		return 0
	}
	pause := restartPause(restarts)
	p.containers(func(c *corev1.ContainerStatus) {
		c.LastTerminationState = p.terminated(c, p.script.exitCode)
		c.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
			Reason: "CrashLoopBackOff", Message: fmt.Sprintf("back-off %v restarting failed container=%s pod=%s_%s(%s)", pause, c.Name, p.pod.Name, p.pod.Namespace, p.pod.UID),
		}}
		c.Ready, c.Started = false, ptr.To(false)
	})
	p.conditions()
	return pause
}

// finish ends the pod.
func (p *play) finish(code int32) {
	p.status.Phase = corev1.PodSucceeded
	if code != 0 {
		p.status.Phase = corev1.PodFailed
	}
	p.containers(func(c *corev1.ContainerStatus) {
		c.State = p.terminated(c, code)
		c.Ready, c.Started = false, ptr.To(false)
	})
	p.conditions()
}

func (p *play) terminated(c *corev1.ContainerStatus, code int32) corev1.ContainerState {
	state := &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Completed", FinishedAt: metav1.NewTime(p.now), ContainerID: c.ContainerID}
	if code != 0 {
		state.Reason = "Error"
	}
	if c.State.Running != nil {
		state.StartedAt = c.State.Running.StartedAt
	}
	return corev1.ContainerState{Terminated: state}
}

// containers changes the status of all containers that run beside each other. Those of initialization have ended
// when these start, unless they are sidecars.
func (p *play) containers(change func(*corev1.ContainerStatus)) {
	started := p.status.Phase != corev1.PodPending
	p.status.ContainerStatuses = each(p.pod.Spec.Containers, p.status.ContainerStatuses, func(_ *corev1.Container, s *corev1.ContainerStatus) { change(s) })
	p.status.InitContainerStatuses = each(p.pod.Spec.InitContainers, p.status.InitContainerStatuses, func(c *corev1.Container, s *corev1.ContainerStatus) {
		switch {
		case ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways:
			change(s)
		case started && s.State.Terminated == nil:
			s.ContainerID = fmt.Sprintf("fake://%s/%s/0", p.pod.UID, c.Name)
			s.State = p.terminated(s, 0)
			s.State.Terminated.StartedAt = s.State.Terminated.FinishedAt
			s.Ready, s.Started = true, ptr.To(false)
		case !started:
			s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}
		}
	})
	var ephemeral []corev1.Container
	for i := range p.pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, corev1.Container(p.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	p.status.EphemeralContainerStatuses = each(ephemeral, p.status.EphemeralContainerStatuses, func(_ *corev1.Container, s *corev1.ContainerStatus) {
		if s.State.Running == nil && s.State.Terminated == nil && started {
			s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(p.now)}}
		}
	})
}

// each brings statuses in line with the containers of a specification.
func each(containers []corev1.Container, old []corev1.ContainerStatus, change func(*corev1.Container, *corev1.ContainerStatus)) []corev1.ContainerStatus {
	var list []corev1.ContainerStatus
	for i := range containers {
		c := &containers[i]
		s := corev1.ContainerStatus{Name: c.Name}
		if at := slices.IndexFunc(old, func(s corev1.ContainerStatus) bool { return s.Name == c.Name }); at >= 0 {
			s = *old[at].DeepCopy()
		}
		s.Image, s.ImageID = c.Image, "fake://"+c.Image
		s.Resources, s.AllocatedResources = c.Resources.DeepCopy(), c.Resources.Requests.DeepCopy()
		change(c, &s)
		list = append(list, s)
	}
	return list
}

// conditions derives the pod's conditions from its phase, its containers and its readiness gates.
func (p *play) conditions() {
	begun := p.status.Phase != corev1.PodPending
	running := p.status.Phase == corev1.PodRunning
	containers := verdict{ok: running, reason: "ContainersNotReady"}
	var unready []string
	for _, c := range p.status.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	switch {
	case over(p.status.Phase):
		containers = verdict{reason: "PodCompleted"}
		if p.status.Phase == corev1.PodFailed {
			containers.reason = "PodFailed"
		}
	case len(unready) > 0:
		containers.ok, containers.message = false, fmt.Sprintf("containers with unready status: %v", unready)
	}
	p.condition(corev1.PodReadyToStartContainers, verdict{ok: running})
	p.condition(corev1.PodInitialized, verdict{ok: begun, reason: "ContainersNotInitialized"})
	p.condition(corev1.ContainersReady, containers)
	p.condition(corev1.PodReady, p.gates(containers))
}

// verdict is what a condition says; reason and message only if it does not hold.
type verdict struct {
	ok              bool
	reason, message string
}

// gates lets others hold back a pod whose containers are ready.
func (p *play) gates(containers verdict) verdict {
	if !containers.ok {
		return containers
	}
	for _, gate := range p.pod.Spec.ReadinessGates {
		at := slices.IndexFunc(p.status.Conditions, func(c corev1.PodCondition) bool { return c.Type == gate.ConditionType })
		switch {
		case at < 0:
			return verdict{reason: "ReadinessGatesNotReady", message: fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType)}
		case p.status.Conditions[at].Status != corev1.ConditionTrue:
			return verdict{reason: "ReadinessGatesNotReady", message: fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, p.status.Conditions[at].Status)}
		}
	}
	return containers
}

func (p *play) condition(kind corev1.PodConditionType, v verdict) {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(p.now), ObservedGeneration: p.pod.Generation}
	if !v.ok {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, v.reason, v.message
	}
	at := slices.IndexFunc(p.status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	if at < 0 {
		p.status.Conditions = append(p.status.Conditions, c)
		return
	}
	if p.status.Conditions[at].Status == c.Status {
		c.LastTransitionTime = p.status.Conditions[at].LastTransitionTime
	}
	p.status.Conditions[at] = c
}
