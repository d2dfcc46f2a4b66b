package workloads

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// judge decides whether a job has to end. The verdict is FailureTarget or SuccessCriteriaMet: what they announce
// becomes true when the last pod has ended. A verdict once written stands.
func (v *jobView) judge() {
	switch {
	case v.condition(batchv1.JobSuccessCriteriaMet) != nil:
		v.verdict = v.condition(batchv1.JobSuccessCriteriaMet)
		return
	case v.condition(batchv1.JobFailureTarget) != nil:
		v.verdict = v.condition(batchv1.JobFailureTarget)
		return
	}
	for _, pod := range v.pods {
		if v.failedPod(pod) {
			if message := outcomeOf(v.job, pod).failsJob; message != "" {
				v.fail(batchv1.JobReasonPodFailurePolicy, message)
				return
			}
		}
	}
	switch {
	case v.failed > *v.job.Spec.BackoffLimit || v.restartsExceeded():
		v.fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case v.pastDeadline():
		v.fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case indexed(v.job):
		v.judgeIndexes()
	}
}

func (v *jobView) judgeIndexes() {
	if v.job.Spec.BackoffLimitPerIndex != nil {
		lost := v.lost.count()
		switch {
		case v.job.Spec.MaxFailedIndexes != nil && lost > int(*v.job.Spec.MaxFailedIndexes):
			v.fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
			return
		case lost > 0 && lost+v.done.count() >= v.completions():
			v.fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
			return
		}
	}
	if message, met := successPolicyMet(v.job.Spec.SuccessPolicy, v.completions(), v.done); met {
		v.verdict = v.newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message)
	}
}

// judgeComplete finds a job complete that has all the successes it needs and no active pod.
func (v *jobView) judgeComplete() {
	enough := v.succeeded > 0
	if v.job.Spec.Completions != nil {
		enough = v.succeeded >= *v.job.Spec.Completions
	}
	if enough && v.activeCount == 0 {
		v.verdict = v.newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	}
}

func (v *jobView) fail(reason, message string) {
	v.verdict = v.newCondition(batchv1.JobFailureTarget, reason, message)
}

// restartsExceeded counts the restarts of containers where pods restart them rather than fail.
func (v *jobView) restartsExceeded() bool {
	if v.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, pod := range v.pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			restarts += c.RestartCount
		}
	}
	return restarts >= max(*v.job.Spec.BackoffLimit, 1)
}

// pastDeadline tells whether a job ran too long; if not yet, it notes when that will be.
func (v *jobView) pastDeadline() bool {
	if v.job.Spec.ActiveDeadlineSeconds == nil || v.job.Status.StartTime == nil || suspended(v.job) {
		return false
	}
	limit := time.Duration(*v.job.Spec.ActiveDeadlineSeconds) * time.Second
	left := limit - v.now.Sub(v.job.Status.StartTime.Time)
	if left <= 0 {
		return true
	}
	v.again = sooner(v.again, left)
	return false
}

// noteSuspension writes the Suspended condition when it changes, and tells of it. The clock of the deadline
// stops with a suspension and starts anew with the end of it.
func (v *jobView) noteSuspension(tell func(reason, message string)) {
	status := &v.job.Status
	has := v.condition(batchv1.JobSuspended)
	switch {
	case suspended(v.job) && has == nil:
		v.setCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		status.StartTime = nil
		tell("Suspended", "Job suspended")
	case !suspended(v.job) && has != nil:
		v.setCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		status.StartTime = &metav1.Time{Time: v.now}
		tell("Resumed", "Job resumed")
	}
}

// condition returns a condition that is true, or nil.
func (v *jobView) condition(kind batchv1.JobConditionType) *batchv1.JobCondition {
	for _, c := range v.job.Status.Conditions {
		if c.Type == kind && c.Status == corev1.ConditionTrue {
			return &c
		}
	}
	return nil
}

func (v *jobView) setCondition(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	c := *v.newCondition(kind, reason, message)
	c.Status = status
	conditions := &v.job.Status.Conditions
	i := slices.IndexFunc(*conditions, func(has batchv1.JobCondition) bool { return has.Type == kind })
	if i < 0 {
		*conditions = append(*conditions, c)
		return
	}
	(*conditions)[i] = c
}

func (v *jobView) newCondition(kind batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	at := metav1.NewTime(v.now)
	return &batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, LastProbeTime: at, LastTransitionTime: at, Reason: reason, Message: message}
}
