package status

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// group is which list of the pod a container stands in.
type group int

const (
	initContainers group = iota
	mainContainers
	ephemeralContainers
)

// containerStatuses computes the statuses of one list of containers, in the order the API shows them:
// init containers as defined, the others by name.
func containerStatuses(in Input, containers []*v1.Container, old []v1.ContainerStatus, g group) []v1.ContainerStatus {
	if len(containers) == 0 {
		return nil
	}
	list := make([]v1.ContainerStatus, 0, len(containers))
	for _, c := range containers {
		list = append(list, containerStatus(in, c, find(old, c.Name), g))
	}
	if g != initContainers {
		slices.SortFunc(list, func(a, b v1.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) })
	}
	return list
}

// containerStatus is one container's status: its newest run if the runtime knows one, else what was
// known of it before, else waiting; and then why it is not started again, if that is known.
func containerStatus(in Input, c *v1.Container, old *v1.ContainerStatus, g group) v1.ContainerStatus {
	var runs []runtime.Container
	for _, r := range in.Runtime.Containers {
		if r.Name == c.Name {
			runs = append(runs, r)
		}
	}
	var s v1.ContainerStatus
	if len(runs) > 0 {
		s = seen(in, c, runs, old)
	} else {
		s = unseen(in, c, old, g)
	}

	if g == initContainers && !IsSidecar(c) && len(runs) > 0 && runs[0].State == runtime.Exited && runs[0].ExitCode == 0 {
		return s // done for good
	}
	waiting, held := in.Waiting[c.Name]
	if !held || in.Over || in.Pod.DeletionTimestamp != nil || !WillRestart(&in.Pod.Spec, c, in.Runtime.Latest(c.Name)) {
		return s
	}
	if s.State.Terminated != nil {
		s.LastTerminationState = s.State
	}
	s.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Message}}
	return s
}

// seen is the status of a container the runtime knows, its newest run first.
func seen(in Input, c *v1.Container, runs []runtime.Container, old *v1.ContainerStatus) v1.ContainerStatus {
	newest := runs[0]
	s := v1.ContainerStatus{
		Name:               c.Name,
		RestartCount:       int32(newest.Restarts),
		Image:              newest.Image,
		ImageID:            newest.ImageRef,
		ContainerID:        in.ContainerID(newest.ID),
		State:              stateOf(in, newest, old),
		VolumeMounts:       volumeMounts(c),
		AllocatedResources: c.Resources.Requests.DeepCopy(),
		Resources:          c.Resources.DeepCopy(),
	}
	if actuated, found := in.Actuated[c.Name]; found && newest.State == runtime.Running {
		s.Resources = actuated.DeepCopy()
	}
	if u := newest.User.GetLinux(); u != nil {
		s.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	if len(runs) > 1 {
		s.LastTerminationState = stateOf(in, runs[1], old)
	} else if old != nil {
		// Earlier runs may have been collected.
		s.LastTerminationState = old.LastTerminationState
		if old.ContainerID != s.ContainerID && old.State.Terminated != nil {
			s.LastTerminationState = old.State
		}
	}
	return s
}

// stateOf is the state of one run. An end that was reported stays as it was reported: its message may
// have come from a file that is gone.
func stateOf(in Input, r runtime.Container, old *v1.ContainerStatus) v1.ContainerState {
	if old != nil && r.State == runtime.Exited {
		for _, before := range []v1.ContainerState{old.State, old.LastTerminationState} {
			if before.Terminated != nil && before.Terminated.ContainerID == in.ContainerID(r.ID) {
				return before
			}
		}
	}
	switch r.State {
	case runtime.Running:
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: second(r.StartedAt)}}
	case runtime.Created:
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}
	case runtime.Exited:
		t := &v1.ContainerStateTerminated{
			ExitCode:    r.ExitCode,
			Reason:      r.Reason,
			Message:     r.Message,
			FinishedAt:  second(r.FinishedAt),
			ContainerID: in.ContainerID(r.ID),
		}
		t.StartedAt = second(r.StartedAt)
		return v1.ContainerState{Terminated: t}
	default:
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			Reason:      "ContainerStatusUnknown",
			Message:     "The container could not be located when the pod was terminated",
			ExitCode:    137,
			ContainerID: in.ContainerID(r.ID),
		}}
	}
}

// unseen is the status of a container of which the runtime has nothing.
func unseen(in Input, c *v1.Container, old *v1.ContainerStatus, g group) v1.ContainerStatus {
	if old != nil && old.State.Waiting == nil && g != ephemeralContainers && restartingAll(in) {
		return removed(c, old)
	}
	if old != nil && old.State.Terminated != nil {
		return *old.DeepCopy() // collected since
	}
	reason := "ContainerCreating"
	if len(in.Pod.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	s := v1.ContainerStatus{
		Name:         c.Name,
		Image:        c.Image,
		State:        v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}},
		VolumeMounts: volumeMounts(c),
	}
	if old != nil {
		s.RestartCount = old.RestartCount
		s.LastTerminationState = old.LastTerminationState
	}
	if old != nil && old.State.Running != nil && s.LastTerminationState.Terminated == nil {
		// It ran and left no trace: say that it stopped, so that the pod does not turn pending again.
		s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{
			Reason:   "ContainerStatusUnknown",
			Message:  "The container could not be located when the pod was deleted.  The container used to be Running",
			ExitCode: 137,
		}
		if in.Pod.DeletionTimestamp == nil {
			s.RestartCount++
		}
	}
	if g == initContainers && !IsSidecar(c) && mainContainerSeen(in) {
		s.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			Reason:  "Completed",
			Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
		}}
	}
	return s
}

// reasonRestartingAll is the reason of containers that were taken away to have all start again.
const reasonRestartingAll = "RestartingAllContainers"

// removed is the status of a container that was taken away because another one had all start again.
func removed(c *v1.Container, old *v1.ContainerStatus) v1.ContainerStatus {
	const message = "The container is removed because RestartAllContainers in place"
	return v1.ContainerStatus{
		Name:                 c.Name,
		Image:                c.Image,
		State:                v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reasonRestartingAll, Message: message}},
		LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: reasonRestartingAll, Message: message, ExitCode: 137}},
		RestartCount:         old.RestartCount + 1,
		VolumeMounts:         volumeMounts(c),
	}
}

// restartingAll says that a container of the pod ended in a way that has all start again, as the runtime
// still shows it or as was reported when it did.
func restartingAll(in Input) bool {
	if leftToRestart(in) {
		return true
	}
	ended := func(list []v1.Container, statuses []v1.ContainerStatus) bool {
		return slices.ContainsFunc(list, func(c v1.Container) bool {
			old := find(statuses, c.Name)
			return old != nil && old.State.Terminated != nil && RestartsAll(&c, old.State.Terminated.ExitCode)
		})
	}
	return ended(in.Pod.Spec.InitContainers, in.Old.InitContainerStatuses) || ended(in.Pod.Spec.Containers, in.Old.ContainerStatuses)
}

// leftToRestart says that a container that has all start again is still there to be removed.
func leftToRestart(in Input) bool {
	left := func(c v1.Container) bool {
		r := in.Runtime.Latest(c.Name)
		return r != nil && r.State == runtime.Exited && RestartsAll(&c, r.ExitCode)
	}
	return slices.ContainsFunc(in.Pod.Spec.InitContainers, left) || slices.ContainsFunc(in.Pod.Spec.Containers, left)
}

func mainContainerSeen(in Input) bool {
	return slices.ContainsFunc(in.Pod.Spec.Containers, func(c v1.Container) bool {
		return in.Runtime.Latest(c.Name) != nil
	})
}

func volumeMounts(c *v1.Container) []v1.VolumeMountStatus {
	var list []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
				mode = v1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		list = append(list, s)
	}
	return list
}

// setReadiness fills started and ready of the containers from the probes. A plain init container is
// ready once it has succeeded; ephemeral containers never are.
func setReadiness(s *v1.PodStatus, in Input) {
	for i := range s.ContainerStatuses {
		probed(&s.ContainerStatuses[i], in)
	}
	for i, c := range in.Pod.Spec.InitContainers {
		cs := &s.InitContainerStatuses[i]
		probed(cs, in)
		if !IsSidecar(&c) {
			cs.Ready = cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
		}
	}
}

func probed(c *v1.ContainerStatus, in Input) {
	id := runtime.TrimID(c.ContainerID)
	started := c.State.Running != nil && in.Started(id)
	c.Started = &started
	c.Ready = started && in.Ready(id)
}
