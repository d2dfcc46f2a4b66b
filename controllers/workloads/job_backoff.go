package workloads

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A failed pod is replaced after firstBackoff, and after twice as long for each further failure in a row.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 10 * time.Minute
)

// failures counts the pods of a job that have failed since one last succeeded. It lives in memory: after a
// restart a job is retried at once, and then backs off again.
type failures struct {
	n    int32
	last time.Time
}

// after returns the count with pods that have just ended.
func (f failures) after(good, bad []*corev1.Pod) failures {
	success := time.Time{}
	for _, pod := range good {
		success = later(success, endOf(pod))
	}
	if len(good) > 0 {
		f = failures{}
	}
	for _, pod := range bad {
		if end := endOf(pod); end.After(success) {
			f.n++
			f.last = later(f.last, end)
		}
	}
	return f
}

// wait is how long to hold the next pod back.
func (f failures) wait(now time.Time) time.Duration {
	if f.n == 0 {
		return 0
	}
	delay := firstBackoff
	for i := int32(1); i < f.n && delay < lastBackoff; i++ {
		delay *= 2
	}
	return max(min(delay, lastBackoff)-now.Sub(f.last), 0)
}

// waitAfter is how long to hold the successor of a failed pod back, 0 if there is none to succeed.
func waitAfter(predecessor *corev1.Pod, now time.Time) time.Duration {
	if predecessor == nil {
		return 0
	}
	return failures{n: attempts(predecessor) + 1, last: endOf(predecessor)}.wait(now)
}

// endOf is when a pod ended, as well as can be told: when its last container did, when it ceased to be ready,
// when its deletion was asked for, or when it was made.
func endOf(pod *corev1.Pod) time.Time {
	if end := lastContainerEnd(pod); !end.IsZero() {
		return end
	}
	if c := podCondition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		grace := time.Duration(0)
		if pod.DeletionGracePeriodSeconds != nil {
			grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
		}
		return pod.DeletionTimestamp.Add(-grace)
	}
	return pod.CreationTimestamp.Time
}

// lastContainerEnd is zero unless every container, also one that runs beside the others, has ended.
func lastContainerEnd(pod *corev1.Pod) (end time.Time) {
	sidecars := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		sidecars[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	statuses := pod.Status.ContainerStatuses
	for _, c := range pod.Status.InitContainerStatuses {
		if sidecars[c.Name] {
			statuses = append(statuses[:len(statuses):len(statuses)], c)
		}
	}
	for _, c := range statuses {
		if c.State.Terminated == nil || c.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}
		}
		end = later(end, c.State.Terminated.FinishedAt.Time)
	}
	return end
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
