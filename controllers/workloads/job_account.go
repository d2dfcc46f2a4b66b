package workloads

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxUncounted bounds how many ended pods one status lists, or indexes it adds.
const maxUncounted = 500

// noteEnded puts every pod that has ended into the status, and returns the pods that can be let go then.
func (v *jobView) noteEnded() (release []*corev1.Pod) {
	status := &v.job.Status
	status.Active = v.activeCount
	ready, terminating := v.ready, v.terminating
	status.Ready, status.Terminating = &ready, &terminating
	v.settle()

	completed := v.before
	for _, pod := range v.pods {
		if !v.held[pod.UID] || !v.releasable(pod) {
			continue
		}
		release = append(release, pod)
		v.noteEndedPod(pod, &completed)
		if completed.count()-v.before.count()+len(status.UncountedTerminatedPods.Succeeded)+len(status.UncountedTerminatedPods.Failed) >= maxUncounted {
			v.truncated = true
			break
		}
	}
	if indexed(v.job) {
		status.Succeeded = int32(completed.count())
		status.CompletedIndexes = completed.String()
		if v.job.Spec.BackoffLimitPerIndex != nil {
			lost := v.lost.String()
			status.FailedIndexes = &lost
		}
	}
	return release
}

// releasable tells whether nothing is to be learned from a pod any more.
func (v *jobView) releasable(pod *corev1.Pod) bool {
	if v.job.DeletionTimestamp != nil || v.verdict != nil || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if !v.failedPod(pod) {
		return false
	}
	last, waits := v.predecessors[indexOf(pod)]
	return !waits || last.UID != pod.UID
}

func (v *jobView) noteEndedPod(pod *corev1.Pod, completed *indexes) {
	uncounted := v.job.Status.UncountedTerminatedPods
	failing := v.verdict != nil && v.verdict.Type != batchv1.JobSuccessCriteriaMet
	switch {
	case indexed(v.job) && !v.validIndex(pod):
	case slices.Contains(uncounted.Failed, pod.UID):
	case pod.Status.Phase == corev1.PodSucceeded && indexed(v.job):
		*completed = completed.with(indexOf(pod))
	case pod.Status.Phase == corev1.PodSucceeded:
		if !slices.Contains(uncounted.Succeeded, pod.UID) {
			uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
		}
	case (v.failedPod(pod) || failing) && outcomeOf(v.job, pod).counts:
		uncounted.Failed = append(uncounted.Failed, pod.UID)
	}
}

// settle moves pods that were let go from the lists into the counters.
func (v *jobView) settle() {
	status := &v.job.Status
	settleList := func(list *[]types.UID, counter *int32) {
		var left []types.UID
		for _, uid := range *list {
			if v.held[uid] {
				left = append(left, uid)
			}
		}
		*counter += int32(len(*list) - len(left))
		*list = left
	}
	settleList(&status.UncountedTerminatedPods.Succeeded, &status.Succeeded)
	settleList(&status.UncountedTerminatedPods.Failed, &status.Failed)
}

// noteVerdict announces a verdict in the status and returns the final condition it leads to, or nil.
func (v *jobView) noteVerdict() *batchv1.JobCondition {
	if v.verdict == nil {
		return nil
	}
	if v.condition(v.verdict.Type) == nil {
		v.setCondition(v.verdict.Type, corev1.ConditionTrue, v.verdict.Reason, v.verdict.Message)
	}
	final := batchv1.JobFailed
	if v.verdict.Type == batchv1.JobSuccessCriteriaMet {
		final = batchv1.JobComplete
	}
	return v.newCondition(final, v.verdict.Reason, v.verdict.Message)
}

// conclude writes the final condition once every pod has ended and is counted, and tells whether it did.
func (v *jobView) conclude(final *batchv1.JobCondition) bool {
	status := &v.job.Status
	uncounted := status.UncountedTerminatedPods
	if final == nil || v.terminating > 0 || len(uncounted.Succeeded)+len(uncounted.Failed) > 0 {
		return false
	}
	v.setCondition(final.Type, corev1.ConditionTrue, final.Reason, final.Message)
	if final.Type == batchv1.JobComplete {
		status.CompletionTime = &metav1.Time{Time: v.now}
	}
	return true
}
