package status

import (
	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// setPhase sets the phase with its reason and message. A pod never leaves Succeeded and Failed, and never
// enters them while something of it still runs.
func setPhase(s *v1.PodStatus, in Input) {
	s.Phase = phase(s, in)
	for _, before := range []v1.PodPhase{in.Old.Phase, in.Pod.Status.Phase} {
		if Terminal(before) {
			s.Phase = before
		}
	}
	if in.Settled && !Terminal(s.Phase) {
		s.Phase = v1.PodFailed
	}
	if s.Phase == in.Old.Phase {
		s.Reason, s.Message = in.Old.Reason, in.Old.Message
	}
	if in.Failure != nil && !Terminal(in.Pod.Status.Phase) {
		s.Phase, s.Reason, s.Message = v1.PodFailed, in.Failure.Reason, in.Failure.Message
	}
	if Terminal(s.Phase) && !Terminal(in.Old.Phase) && len(in.Runtime.Live()) > 0 {
		s.Phase, s.Reason, s.Message = in.Old.Phase, in.Old.Reason, in.Old.Message
		if s.Phase == "" {
			s.Phase = v1.PodPending
		}
	}
}

// Terminal says that a pod in this phase is over.
func Terminal(p v1.PodPhase) bool { return p == v1.PodSucceeded || p == v1.PodFailed }

// tally counts containers by what matters to the phase.
type tally struct {
	pending   int // init containers still to do their part
	failed    int // init containers that failed for good
	waiting   int
	running   int
	stopped   int // main containers that ended and
	succeeded int // did so with exit code 0
	final     int // will not be started again
}

// phase computes the phase from the container statuses alone.
func phase(s *v1.PodStatus, in Input) v1.PodPhase {
	var t tally
	spec := &in.Pod.Spec
	started := mainContainerActive(in)
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		if IsSidecar(c) {
			t.sidecar(find(s.InitContainerStatuses, c.Name), in, started)
		} else {
			t.init(spec, c, find(s.InitContainerStatuses, c.Name))
		}
	}
	for i := range spec.Containers {
		t.main(spec, &spec.Containers[i], find(s.ContainerStatuses, spec.Containers[i].Name))
	}

	switch {
	case t.failed > 0:
		return v1.PodFailed
	case t.pending > 0 || t.waiting > 0:
		return v1.PodPending
	case t.running > 0:
		return v1.PodRunning
	case t.stopped == 0:
		return v1.PodPending
	case t.final < t.stopped && !in.Over:
		return v1.PodRunning // between two runs
	case t.succeeded == t.stopped:
		return v1.PodSucceeded
	default:
		return v1.PodFailed
	}
}

func (t *tally) init(spec *v1.PodSpec, c *v1.Container, s *v1.ContainerStatus) {
	ended := s.State.Terminated
	if s.State.Waiting != nil {
		ended = s.LastTerminationState.Terminated
	}
	switch {
	case ended == nil:
		t.pending++
	case ended.ExitCode != 0 && !runsAgain(spec, c, ended):
		t.failed++
	}
}

// sidecar counts a sidecar, which only matters until it has started for the first time: pods do not fall
// back to Pending for it.
func (t *tally) sidecar(s *v1.ContainerStatus, in Input, podStarted bool) {
	switch {
	case s.State.Running != nil:
		if !in.Started(runtime.TrimID(s.ContainerID)) && !podStarted {
			t.pending++
		}
		t.running++
	case s.State.Waiting != nil && s.LastTerminationState.Terminated == nil:
		t.waiting++
	}
}

func (t *tally) main(spec *v1.PodSpec, c *v1.Container, s *v1.ContainerStatus) {
	ended := s.State.Terminated
	if s.State.Waiting != nil {
		ended = s.LastTerminationState.Terminated
	}
	switch {
	case s.State.Running != nil:
		t.running++
	case ended == nil:
		t.waiting++
	default:
		t.stopped++
		// Only a run that is over and stands as such in state has succeeded; one that waits is to run again.
		if s.State.Terminated != nil && ended.ExitCode == 0 {
			t.succeeded++
		}
		if !runsAgain(spec, c, ended) {
			t.final++
		}
	}
}

// runsAgain says whether a container that ended so will be started again.
func runsAgain(spec *v1.PodSpec, c *v1.Container, ended *v1.ContainerStateTerminated) bool {
	return ended.Reason == reasonRestartingAll || Restartable(spec, c, ended.ExitCode)
}

// mainContainerActive says that a main container runs or has run in the present sandbox.
func mainContainerActive(in Input) bool {
	for i := range in.Pod.Spec.Containers {
		r := in.Runtime.Latest(in.Pod.Spec.Containers[i].Name)
		if r == nil || r.State == runtime.Created {
			continue
		}
		if r.State == runtime.Running {
			return true
		}
		if sandbox := in.Runtime.ReadySandbox(); sandbox != nil && r.SandboxID == sandbox.ID {
			return true
		}
	}
	return false
}
