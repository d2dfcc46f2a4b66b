package core

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func podColumns() []resource.Column[*corev1.Pod] {
	type pod = *corev1.Pod
	return []resource.Column[pod]{
		resource.NameColumn[pod](),
		table.Text("Ready", "The aggregate readiness state of this pod for accepting traffic.", func(p pod) string {
			s := summarize(p)
			return fmt.Sprintf("%d/%d", s.ready, s.total)
		}),
		table.Text("Status", "The aggregate status of the containers in this pod.", func(p pod) string { return summarize(p).reason }),
		table.Ago("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
			func(p pod) any { return summarize(p).restarts.cell() }),
		resource.AgeColumn[pod](),
		table.Wide(table.Text("IP", table.Doc(corev1.PodStatus{}, "podIP"), func(p pod) string { return table.OrNone(podIP(p)) })),
		table.Wide(table.Text("Node", table.Doc(corev1.PodSpec{}, "nodeName"), func(p pod) string { return table.OrNone(p.Spec.NodeName) })),
		table.Wide(table.Text("Nominated Node", table.Doc(corev1.PodStatus{}, "nominatedNodeName"), func(p pod) string { return table.OrNone(p.Status.NominatedNodeName) })),
		table.Wide(table.Text("Readiness Gates", table.Doc(corev1.PodSpec{}, "readinessGates"), readinessGates)),
	}
}

// summary is what one line of a table says about a pod.
type summary struct {
	ready, total int
	reason       string
	restarts     restartCount
}

// restartCount counts restarts and remembers the last one.
type restartCount struct {
	count int
	last  metav1.Time
}

func (r *restartCount) add(s *corev1.ContainerStatus) {
	r.count += int(s.RestartCount)
	if t := s.LastTerminationState.Terminated; t != nil && r.last.Before(&t.FinishedAt) {
		r.last = t.FinishedAt
	}
}

func (r restartCount) cell() any {
	if r.count == 0 || r.last.IsZero() {
		return strconv.Itoa(r.count)
	}
	return resource.Since{Before: strconv.Itoa(r.count) + " (", Time: r.last.Time, After: " ago)"}
}

// summarize tells how far a pod is: the phase, unless something more telling is
// known: the reason of the pod, its scheduling gates, the init container it is
// at, the container that is not well, its deletion.
func summarize(p *corev1.Pod) summary {
	s := summary{total: len(p.Spec.Containers), reason: table.Or(p.Status.Reason, string(p.Status.Phase))}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	sidecars := make(map[string]bool)
	for i := range p.Spec.InitContainers {
		if podspec.IsSidecar(&p.Spec.InitContainers[i]) {
			sidecars[p.Spec.InitContainers[i].Name] = true
			s.total++
		}
	}
	sidecarRestarts, initializing := s.initContainers(p, sidecars)
	if !initializing || hasCondition(p, corev1.PodInitialized) {
		s.restarts = sidecarRestarts
		s.containers(p)
	}
	switch {
	case p.DeletionTimestamp == nil:
	case p.Status.Reason == "NodeLost":
		s.reason = "Unknown"
	case p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded:
		s.reason = "Terminating"
	}
	return s
}

// initContainers goes through the init containers up to the first that is not
// done; initializing tells that there is one.
func (s *summary) initContainers(p *corev1.Pod, sidecars map[string]bool) (ofSidecars restartCount, initializing bool) {
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.restarts.add(c)
		if sidecars[c.Name] {
			ofSidecars.add(c)
		}
		terminated, waiting := c.State.Terminated, c.State.Waiting
		switch {
		case terminated != nil && terminated.ExitCode == 0:
			continue
		case sidecars[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case terminated != nil:
			s.reason = "Init:" + terminatedReason(terminated)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			s.reason = "Init:" + waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return ofSidecars, true
	}
	return ofSidecars, false
}

// containers lets the first container that is not well speak for the pod.
func (s *summary) containers(p *corev1.Pod) {
	running, failure := false, ""
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.restarts.add(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.reason = terminatedReason(c.State.Terminated)
			if c.State.Terminated.ExitCode != 0 {
				failure = s.reason
			}
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.reason != "Completed" {
		return
	}
	switch {
	case running && hasCondition(p, corev1.PodReady):
		s.reason = "Running"
	case failure != "":
		s.reason = failure
	case running:
		s.reason = "NotReady"
	}
}

func terminatedReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func hasCondition(p *corev1.Pod, kind corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func readinessGates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	open := 0
	for _, gate := range p.Spec.ReadinessGates {
		if hasCondition(p, gate.ConditionType) {
			open++
		}
	}
	return fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
}
