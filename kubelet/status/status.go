// Package status computes a pod's status from its definition and from what the runtime and the probes
// say (Compute, pure), and writes it to the API (Writer).
package status

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

// Input is all that a pod's status follows from.
type Input struct {
	Pod     *v1.Pod
	Old     v1.PodStatus // computed last, or the API's when the kubelet just started
	Runtime *runtime.Pod // without containers whose start is still under way

	// ContainerID turns the runtime's id into the API's.
	ContainerID func(id string) string
	// Waiting says why a container is not started, by container name.
	Waiting map[string]Waiting
	// Ready and Started are the probes' opinion of a running container, true where there is no probe.
	Ready, Started func(containerID string) bool
	// Actuated are the resources a running container has been given, where they are not the definition's.
	Actuated map[string]v1.ResourceRequirements
	// Resize are the conditions PodResizePending and PodResizeInProgress, if they hold.
	Resize []v1.PodCondition

	// Over is set when the kubelet ends the pod or found it ended: no container will be started again.
	Over bool
	// Settled is set when nothing of the pod runs and never will: what is still unknown has failed.
	Settled bool
	// Failure makes the phase Failed: the pod was evicted or ran out of time.
	Failure *Failure

	HostIPs []string
	Now     time.Time
}

// Waiting is why a container does not run.
type Waiting struct{ Reason, Message string }

// Failure is why the kubelet made a pod fail, and the condition that goes with it, if any.
type Failure struct {
	Reason, Message string
	Condition       *v1.PodCondition
}

// Compute returns the pod's new status. It is what the real kubelet would report in the same situation.
func Compute(in Input) v1.PodStatus {
	spec := &in.Pod.Spec
	s := v1.PodStatus{
		ObservedGeneration:          max(in.Pod.Generation, in.Old.ObservedGeneration),
		QOSClass:                    in.Pod.Status.QOSClass,
		NominatedNodeName:           in.Pod.Status.NominatedNodeName,
		ResourceClaimStatuses:       in.Pod.Status.ResourceClaimStatuses,
		ExtendedResourceClaimStatus: in.Pod.Status.ExtendedResourceClaimStatus,
		StartTime:                   in.Old.StartTime,
	}
	if s.StartTime == nil {
		now := second(in.Now)
		s.StartTime = &now
	}
	setAddresses(&s, in)
	setResources(&s, in)

	s.InitContainerStatuses = containerStatuses(in, regular(spec.InitContainers), in.Old.InitContainerStatuses, initContainers)
	s.ContainerStatuses = containerStatuses(in, regular(spec.Containers), in.Old.ContainerStatuses, mainContainers)
	s.EphemeralContainerStatuses = containerStatuses(in, ephemeral(spec.EphemeralContainers), in.Old.EphemeralContainerStatuses, ephemeralContainers)
	if in.Settled {
		settle(&s, in)
	}

	setPhase(&s, in)
	setReadiness(&s, in)
	limitMessages(&s)
	setConditions(&s, in)
	return s
}

// Rejected is the status of a pod that this node does not admit.
func Rejected(pod *v1.Pod, reason, message string, now time.Time) v1.PodStatus {
	s := *pod.Status.DeepCopy()
	s.Phase = v1.PodFailed
	s.Reason = reason
	s.Message = "Pod was rejected: " + message
	s.ObservedGeneration = pod.Generation
	t := second(now)
	if s.StartTime == nil {
		s.StartTime = &t
	}
	for _, kind := range []v1.PodConditionType{v1.PodReady, v1.ContainersReady} {
		replace(&s, v1.PodCondition{
			Type: kind, Status: v1.ConditionFalse, Reason: reasonFailed,
			ObservedGeneration: pod.Generation, LastTransitionTime: t,
		})
	}
	return s
}

func regular(list []v1.Container) []*v1.Container {
	all := make([]*v1.Container, len(list))
	for i := range list {
		all[i] = &list[i]
	}
	return all
}

func ephemeral(list []v1.EphemeralContainer) []*v1.Container {
	all := make([]*v1.Container, len(list))
	for i := range list {
		all[i] = (*v1.Container)(&list[i].EphemeralContainerCommon)
	}
	return all
}

// setAddresses takes the pod's addresses from its ready sandbox and keeps them when that is gone.
func setAddresses(s *v1.PodStatus, in Input) {
	for _, ip := range in.HostIPs {
		s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
	}
	if len(in.HostIPs) > 0 {
		s.HostIP = in.HostIPs[0]
	}
	s.PodIPs = in.Old.PodIPs
	if sandbox := in.Runtime.ReadySandbox(); sandbox != nil && len(sandbox.IPs) > 0 && !in.Pod.Spec.HostNetwork {
		s.PodIPs = nil
		for _, ip := range sandbox.IPs {
			s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
		}
	}
	if in.Pod.Spec.HostNetwork && len(s.PodIPs) == 0 {
		for _, ip := range in.HostIPs {
			s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
		}
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
}

// setResources reports what the pod as a whole has been given. A limit of only some containers is none
// of the pod.
func setResources(s *v1.PodStatus, in Input) {
	options := resourcehelper.PodResourcesOptions{}
	requests, limits := resourcehelper.PodRequests(in.Pod, options), resourcehelper.PodLimits(in.Pod, options)
	for name := range limits {
		if !limited(&in.Pod.Spec, name) {
			delete(limits, name)
		}
	}
	s.AllocatedResources = requests
	s.Resources = &v1.ResourceRequirements{Requests: requests, Limits: limits}
}

func limited(spec *v1.PodSpec, name v1.ResourceName) bool {
	if spec.Resources != nil {
		if _, own := spec.Resources.Limits[name]; own {
			return true
		}
	}
	return !slices.ContainsFunc(spec.Containers, func(c v1.Container) bool {
		_, found := c.Resources.Limits[name]
		return !found
	})
}

// settle makes an end of every container whose end was not seen, as nobody knows how it went.
func settle(s *v1.PodStatus, in Input) {
	lost := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		Reason:   "ContainerStatusUnknown",
		Message:  "The container could not be located when the pod was terminated",
		ExitCode: 137,
	}}
	if initialized(in.Pod, s) {
		for i := range s.ContainerStatuses {
			if s.ContainerStatuses[i].State.Terminated == nil {
				s.ContainerStatuses[i].State = lost
			}
		}
	}
	// Init containers that came after the last one that ever started never ran, and stay waiting.
	begun := 0
	for i, c := range s.InitContainerStatuses {
		if c.State.Waiting == nil || c.LastTerminationState.Terminated != nil {
			begun = i + 1
		}
	}
	begun = min(max(begun, 1), len(s.InitContainerStatuses))
	for i := range s.InitContainerStatuses[:begun] {
		if s.InitContainerStatuses[i].State.Terminated == nil {
			s.InitContainerStatuses[i].State = lost
		}
	}
}

// initialized says whether the pod's init containers have ever all done their part.
func initialized(pod *v1.Pod, s *v1.PodStatus) bool {
	inits := pod.Spec.InitContainers
	if len(inits) == 0 {
		return true
	}
	for _, c := range s.ContainerStatuses {
		if c.LastTerminationState.Terminated != nil || c.State.Waiting == nil {
			return true
		}
	}
	last := find(s.InitContainerStatuses, inits[len(inits)-1].Name)
	if last == nil {
		return false
	}
	if IsSidecar(&inits[len(inits)-1]) {
		return last.State.Running != nil && last.Started != nil && *last.Started
	}
	for _, state := range []v1.ContainerState{last.State, last.LastTerminationState} {
		if state.Terminated != nil && state.Terminated.ExitCode == 0 {
			return true
		}
	}
	return false
}

// limitMessages keeps the termination messages of all containers together within 12 KiB.
func limitMessages(s *v1.PodStatus) {
	lists := [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses}
	count := 0
	for _, list := range lists {
		count += len(list)
	}
	limit := 4096
	if count > 0 {
		limit = min(limit, 12*1024/count)
	}
	for _, list := range lists {
		for i := range list {
			for _, state := range []*v1.ContainerState{&list[i].State, &list[i].LastTerminationState} {
				if t := state.Terminated; t != nil && len(t.Message) > limit {
					cut := *t
					cut.Message = t.Message[:limit]
					state.Terminated = &cut
				}
			}
		}
	}
}

func find(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	i := slices.IndexFunc(list, func(c v1.ContainerStatus) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// second cuts a time to what the API keeps, so that statuses compare equal after a round trip.
func second(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }
