package workloads

import (
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// outcome is what a failed pod means for its job (KEP-3329).
type outcome struct {
	counts     bool   // towards the back-off limit
	failsIndex bool   // at once, whatever the limit of the index
	failsJob   string // why the whole job fails at once, or ""
}

// outcomeOf applies the first rule of the failure policy that a pod matches. Without one it counts.
func outcomeOf(job *batchv1.Job, pod *corev1.Pod) outcome {
	if job.Spec.PodFailurePolicy == nil {
		return outcome{counts: true}
	}
	for i, rule := range job.Spec.PodFailurePolicy.Rules {
		cause := causeOf(rule, pod)
		if cause == "" {
			continue
		}
		switch rule.Action {
		case batchv1.PodFailurePolicyActionIgnore:
			return outcome{}
		case batchv1.PodFailurePolicyActionFailIndex:
			return outcome{counts: true, failsIndex: true}
		case batchv1.PodFailurePolicyActionFailJob:
			return outcome{counts: true, failsJob: fmt.Sprintf("%s matching %v rule at index %d", cause, rule.Action, i)}
		case batchv1.PodFailurePolicyActionCount:
			return outcome{counts: true}
		}
	}
	return outcome{counts: true}
}

// causeOf words what about a pod matches a rule, "" if nothing does.
func causeOf(rule batchv1.PodFailurePolicyRule, pod *corev1.Pod) string {
	if rule.OnExitCodes != nil {
		for _, c := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
			if exitMatches(rule.OnExitCodes, c) {
				return fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v", c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode)
			}
		}
		return ""
	}
	for _, c := range pod.Status.Conditions {
		for _, want := range rule.OnPodConditions {
			if c.Type == want.Type && c.Status == want.Status {
				return fmt.Sprintf("Pod %s/%s has condition %v", pod.Namespace, pod.Name, c.Type)
			}
		}
	}
	return ""
}

func exitMatches(rule *batchv1.PodFailurePolicyOnExitCodesRequirement, c corev1.ContainerStatus) bool {
	if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || rule.ContainerName != nil && *rule.ContainerName != c.Name {
		return false
	}
	listed := slices.Contains(rule.Values, c.State.Terminated.ExitCode)
	switch rule.Operator {
	case batchv1.PodFailurePolicyOnExitCodesOpIn:
		return listed
	case batchv1.PodFailurePolicyOnExitCodesOpNotIn:
		return !listed
	}
	return false
}

// successPolicyMet tells whether enough indexes have succeeded for the job as a whole, and by which rule
// (KEP-3998).
func successPolicyMet(policy *batchv1.SuccessPolicy, completions int, done indexes) (message string, met bool) {
	if policy == nil || len(done) == 0 {
		return "", false
	}
	for i, rule := range policy.Rules {
		if ruleMet(rule, completions, done) {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}

func ruleMet(rule batchv1.SuccessPolicyRule, completions int, done indexes) bool {
	if rule.SucceededIndexes == nil {
		return rule.SucceededCount != nil && done.count() >= int(*rule.SucceededCount)
	}
	required := parseIndexes(*rule.SucceededIndexes, completions)
	if len(required) == 0 {
		return false
	}
	have := required.overlap(done)
	return have == required.count() || rule.SucceededCount != nil && have >= int(*rule.SucceededCount)
}

// indexLost tells whether with this failed pod its index is given up (KEP-3850).
func indexLost(job *batchv1.Job, pod *corev1.Pod) bool {
	o := outcomeOf(job, pod)
	return o.failsIndex || o.counts && failureCount(pod, batchv1.JobIndexFailureCountAnnotation) >= *job.Spec.BackoffLimitPerIndex
}

// inheritFailures notes on a pod how often its index has failed before it.
func inheritFailures(pod *corev1.Pod, job *batchv1.Job, predecessor *corev1.Pod) {
	counted, ignored := 0, 0
	if predecessor != nil {
		counted = int(failureCount(predecessor, batchv1.JobIndexFailureCountAnnotation))
		ignored = int(failureCount(predecessor, batchv1.JobIndexIgnoredFailureCountAnnotation))
		if outcomeOf(job, predecessor).counts {
			counted++
		} else {
			ignored++
		}
	}
	pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(counted)
	if ignored > 0 {
		pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(ignored)
	}
}

// attempts is how often the index of a pod had failed when it was made.
func attempts(pod *corev1.Pod) int32 {
	return failureCount(pod, batchv1.JobIndexFailureCountAnnotation) + failureCount(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func failureCount(pod *corev1.Pod, annotation string) int32 {
	n, err := strconv.ParseInt(pod.Annotations[annotation], 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(n)
}
