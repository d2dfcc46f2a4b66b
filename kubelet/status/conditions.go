package status

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Reasons of conditions.
const (
	reasonCompleted      = "PodCompleted"
	reasonFailed         = "PodFailed"
	reasonNotReady       = "ContainersNotReady"
	reasonNotInitialized = "ContainersNotInitialized"
	reasonGates          = "ReadinessGatesNotReady"
)

// Owned says that the kubelet computes the condition; the others are kept as they stand in the API.
// DisruptionTarget is both: others set it too, so it is kept unless the kubelet itself ends the pod.
func Owned(t v1.PodConditionType) bool {
	switch t {
	case v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodScheduled,
		v1.PodResizePending, v1.PodResizeInProgress, v1.AllContainersRestarting:
		return true
	}
	return false
}

func setConditions(s *v1.PodStatus, in Input) {
	for _, c := range in.Pod.Status.Conditions {
		if !Owned(c.Type) {
			s.Conditions = append(s.Conditions, c)
		}
	}
	if in.Failure != nil && in.Failure.Condition != nil {
		replace(s, *in.Failure.Condition)
	} else if c := condition(in.Old.Conditions, v1.DisruptionTarget); c != nil {
		replace(s, *c)
	}
	s.Conditions = append(s.Conditions, in.Resize...)

	containersReady := containersReady(s, in)
	s.Conditions = append(s.Conditions,
		readyToStart(in),
		initializedCondition(s, in),
		podReady(s, in, containersReady),
		containersReady,
		v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	)
	if couldRestartAll(&in.Pod.Spec) {
		s.Conditions = append(s.Conditions, allRestarting(s, in))
	}
	for i := range s.Conditions {
		stamp(&s.Conditions[i], in)
	}
}

// stamp sets when a condition of ours changed and for which generation it was computed.
func stamp(c *v1.PodCondition, in Input) {
	mine := Owned(c.Type) || in.Failure != nil && c.Type == v1.DisruptionTarget
	if !mine {
		return
	}
	if c.ObservedGeneration == 0 {
		c.ObservedGeneration = in.Pod.Generation
	}
	c.LastTransitionTime = second(in.Now)
	if old := condition(in.Old.Conditions, c.Type); old != nil {
		c.LastProbeTime = old.LastProbeTime
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
}

func readyToStart(in Input) v1.PodCondition {
	sandbox := in.Runtime.ReadySandbox()
	ready := sandbox != nil && sandbox.HostNetwork == in.Pod.Spec.HostNetwork &&
		(in.Pod.Spec.HostNetwork || len(sandbox.IPs) > 0)
	return v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: truth(ready)}
}

func initializedCondition(s *v1.PodStatus, in Input) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	var incomplete []string
	for i := range in.Pod.Spec.InitContainers {
		spec, cs := &in.Pod.Spec.InitContainers[i], &s.InitContainerStatuses[i]
		done := cs.Ready
		if IsSidecar(spec) {
			done = cs.Started != nil && *cs.Started
		}
		if !done {
			incomplete = append(incomplete, spec.Name)
		}
	}
	switch {
	case s.Phase == v1.PodSucceeded:
		c.Reason = reasonCompleted
	case len(incomplete) == 0 || mainContainerStarted(s):
	default:
		c.Status = v1.ConditionFalse
		c.Reason = reasonNotInitialized
		c.Message = fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return c
}

// mainContainerStarted says that the pod has been initialized before, whatever its sidecars do now.
func mainContainerStarted(s *v1.PodStatus) bool {
	for _, c := range s.ContainerStatuses {
		if c.Started != nil && *c.Started || c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

func containersReady(s *v1.PodStatus, in Input) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionFalse}
	switch s.Phase {
	case v1.PodSucceeded:
		c.Reason = reasonCompleted
		return c
	case v1.PodFailed:
		c.Reason = reasonFailed
		return c
	}
	var unready []string
	for i := range in.Pod.Spec.InitContainers {
		if spec := &in.Pod.Spec.InitContainers[i]; IsSidecar(spec) && !s.InitContainerStatuses[i].Ready {
			unready = append(unready, spec.Name)
		}
	}
	for _, spec := range in.Pod.Spec.Containers {
		if cs := find(s.ContainerStatuses, spec.Name); !cs.Ready {
			unready = append(unready, spec.Name)
		}
	}
	if len(unready) > 0 {
		c.Reason = reasonNotReady
		c.Message = fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = v1.ConditionTrue
	return c
}

// podReady is ContainersReady and the pod's readiness gates together.
func podReady(s *v1.PodStatus, in Input, containers v1.PodCondition) v1.PodCondition {
	c := containers
	c.Type = v1.PodReady
	if containers.Status != v1.ConditionTrue {
		return c
	}
	var unmet []string
	for _, gate := range in.Pod.Spec.ReadinessGates {
		switch held := condition(s.Conditions, gate.ConditionType); {
		case held == nil:
			unmet = append(unmet, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case held.Status != v1.ConditionTrue:
			unmet = append(unmet, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, held.Status))
		}
	}
	if len(unmet) > 0 {
		c.Status = v1.ConditionFalse
		c.Reason = reasonGates
		c.Message = strings.Join(unmet, ", ")
	}
	return c
}

// couldRestartAll says that some rule of the pod has all its containers start again.
func couldRestartAll(spec *v1.PodSpec) bool {
	asks := func(c v1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
			return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
		})
	}
	return slices.ContainsFunc(spec.InitContainers, asks) || slices.ContainsFunc(spec.Containers, asks)
}

func allRestarting(s *v1.PodStatus, in Input) v1.PodCondition {
	c := v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	switch {
	case s.Phase == v1.PodSucceeded:
		c.Reason = reasonCompleted
	case s.Phase == v1.PodFailed:
		c.Reason = reasonFailed
	case leftToRestart(in):
		c.Status = v1.ConditionTrue
		c.Reason = "RestartAllContainersStarted"
		c.Message = "container exited with restart policy rule"
	}
	return c
}

func condition(list []v1.PodCondition, t v1.PodConditionType) *v1.PodCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

func replace(s *v1.PodStatus, c v1.PodCondition) {
	if have := condition(s.Conditions, c.Type); have != nil {
		*have = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

func truth(b bool) v1.ConditionStatus {
	if b {
		return v1.ConditionTrue
	}
	return v1.ConditionFalse
}
