package workloads

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// jobView is a job and its pods as one sync sees them. Its methods change only the status of its copy of the job.
type jobView struct {
	job    *batchv1.Job // a copy
	pods   []*corev1.Pod
	active []*corev1.Pod
	held   map[types.UID]bool // pods not counted and let go yet
	now    time.Time
	again  time.Duration // when to look again although nothing happened

	activeCount, ready, terminating int32
	succeeded, failed               int32 // those counted and those about to be
	failures                        failures

	// Of an indexed job: what the status had, and with the pods that have just ended.
	before, done, lost indexes
	// The last failed pod of each index that is to be tried again: it is let go only when its successor, which
	// carries on its count of failures, was made.
	predecessors map[int]*corev1.Pod

	verdict   *batchv1.JobCondition
	truncated bool // more pods ended than one status can list
}

// newJobView adds up where a job stands. isHeld tells which pods have not been counted and let go.
func newJobView(job *batchv1.Job, pods []*corev1.Pod, past failures, now time.Time, isHeld func(*corev1.Pod) bool) *jobView {
	if job.Status.UncountedTerminatedPods == nil {
		job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	v := &jobView{job: job, pods: slices.Clone(pods), held: map[types.UID]bool{}, now: now}
	slices.SortFunc(v.pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(indexOf(a), indexOf(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, pod := range v.pods {
		if isHeld(pod) {
			v.held[pod.UID] = true
		}
		switch {
		case podActive(pod):
			v.active = append(v.active, pod)
			if _, ready := podReady(pod); ready {
				v.ready++
			}
		case podTerminating(pod):
			v.terminating++
		}
	}
	v.activeCount = int32(len(v.active))
	if job.Status.StartTime == nil && !suspended(job) {
		job.Status.StartTime = &metav1.Time{Time: now}
	}
	v.count(past)
	return v
}

func (v *jobView) count(past failures) {
	status := &v.job.Status
	uncounted := status.UncountedTerminatedPods
	good, bad := v.newlyEnded()
	v.failures = past.after(good, bad)
	v.succeeded = status.Succeeded + int32(len(good)+len(uncounted.Succeeded))
	v.failed = status.Failed + int32(len(uncounted.Failed))
	for _, pod := range bad {
		if outcomeOf(v.job, pod).counts {
			v.failed++
		}
	}
	if !indexed(v.job) {
		return
	}
	v.before = parseIndexes(status.CompletedIndexes, v.completions())
	v.done = v.before
	for _, pod := range v.pods {
		if v.held[pod.UID] && pod.Status.Phase == corev1.PodSucceeded && v.validIndex(pod) {
			v.done = v.done.with(indexOf(pod))
		}
	}
	v.succeeded = int32(v.done.count())
	if v.job.Spec.BackoffLimitPerIndex != nil {
		v.countLost()
	}
}

func (v *jobView) countLost() {
	if v.job.Status.FailedIndexes != nil {
		v.lost = parseIndexes(*v.job.Status.FailedIndexes, v.completions())
	}
	running := map[int]bool{}
	for _, pod := range v.active {
		running[indexOf(pod)] = true
	}
	for _, pod := range v.pods {
		if v.held[pod.UID] && v.validIndex(pod) && v.failedPod(pod) && indexLost(v.job, pod) {
			v.lost = v.lost.with(indexOf(pod))
		}
	}
	v.predecessors = map[int]*corev1.Pod{}
	for _, pod := range v.pods {
		i := indexOf(pod)
		if !v.held[pod.UID] || !v.validIndex(pod) || !v.failedPod(pod) || v.done.has(i) || v.lost.has(i) || running[i] {
			continue
		}
		if last := v.predecessors[i]; last == nil || !laterFailure(last, pod) {
			v.predecessors[i] = pod
		}
	}
}

// laterFailure tells whether a is a later attempt than b.
func laterFailure(a, b *corev1.Pod) bool {
	return cmp.Or(cmp.Compare(attempts(a), attempts(b)), endOf(a).Compare(endOf(b))) > 0
}

// newlyEnded lists the pods that have ended and are not in the status.
func (v *jobView) newlyEnded() (good, bad []*corev1.Pod) {
	uncounted := v.job.Status.UncountedTerminatedPods
	for _, pod := range v.pods {
		if !v.held[pod.UID] || indexed(v.job) && !v.validIndex(pod) {
			continue
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			if !slices.Contains(uncounted.Succeeded, pod.UID) {
				good = append(good, pod)
			}
		case v.failedPod(pod):
			if !slices.Contains(uncounted.Failed, pod.UID) {
				bad = append(bad, pod)
			}
		}
	}
	return good, bad
}

// failedPod tells whether a pod counts as failed. One being deleted does at once, unless the job must not replace
// it before it has ended, which a failure policy needs to see.
func (v *jobView) failedPod(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return !replacesOnlyFailed(v.job) && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

// ended takes a pod off the counts after it was told to end.
func (v *jobView) ended(pod *corev1.Pod) {
	v.activeCount--
	v.terminating++
	if _, ready := podReady(pod); ready {
		v.ready--
	}
}

func (v *jobView) completions() int {
	if v.job.Spec.Completions == nil {
		return 0
	}
	return int(*v.job.Spec.Completions)
}

func (v *jobView) validIndex(pod *corev1.Pod) bool {
	i := indexOf(pod)
	return i >= 0 && i < v.completions()
}

// wanted is how many pods should be active.
func (v *jobView) wanted() int {
	parallelism := 1
	if v.job.Spec.Parallelism != nil {
		parallelism = int(*v.job.Spec.Parallelism)
	}
	switch {
	case suspended(v.job):
		return 0
	case v.job.Spec.Completions != nil:
		return max(min(v.completions()-int(v.succeeded), parallelism), 0)
	case v.succeeded > 0:
		return len(v.active) // a work queue: no more pods once one has found it empty
	}
	return parallelism
}

// planRemoval chooses active pods to delete: of an indexed job, those of no valid index and all but one of the
// same index; then as many as are too many, those first that are least far.
func (v *jobView) planRemoval() []*corev1.Pod {
	if suspended(v.job) {
		return v.active
	}
	excess := max(len(v.active)-v.wanted(), 0)
	if !indexed(v.job) {
		return victimsOf(v.active, nil, excess, v.now)[:excess]
	}
	byIndex := map[int][]*corev1.Pod{}
	var remove, left []*corev1.Pod
	for _, pod := range v.active {
		if !v.validIndex(pod) {
			remove = append(remove, pod)
			continue
		}
		byIndex[indexOf(pod)] = append(byIndex[indexOf(pod)], pod)
	}
	for _, i := range slices.Sorted(maps.Keys(byIndex)) {
		pods := byIndex[i]
		doubles := victimsOf(pods, nil, len(pods)-1, v.now)
		remove = append(remove, doubles...)
		for _, pod := range pods {
			if !slices.Contains(doubles, pod) {
				left = append(left, pod)
			}
		}
	}
	if n := excess - len(remove); n > 0 {
		remove = append(remove, victimsOf(left, nil, n, v.now)...)
	}
	return remove
}

// start is a pod to create: an index, -1 for a job without, and the failed pod whose place it takes.
type start struct {
	index       int
	predecessor *corev1.Pod
}

// planStarts says which pods to create, after the back-off that failures demand.
func (v *jobView) planStarts() []start {
	missing := v.wanted() - int(v.activeCount)
	if replacesOnlyFailed(v.job) {
		missing -= int(v.terminating)
	}
	missing = min(missing, burst)
	if missing <= 0 {
		return nil
	}
	perIndex := v.job.Spec.BackoffLimitPerIndex != nil
	if wait := v.failures.wait(v.now); !perIndex && wait > 0 {
		v.again = sooner(v.again, wait)
		return nil
	}
	if !indexed(v.job) {
		starts := make([]start, missing)
		for i := range starts {
			starts[i].index = -1
		}
		return starts
	}
	var starts []start
	for _, i := range v.pendingIndexes(missing) {
		last := v.predecessors[i]
		if wait := waitAfter(last, v.now); wait > 0 {
			v.again = sooner(v.again, wait)
			continue
		}
		starts = append(starts, start{i, last})
	}
	return starts
}

// pendingIndexes returns the lowest n indexes that have neither ended nor run.
func (v *jobView) pendingIndexes(n int) []int {
	taken := v.done.union(v.lost)
	for _, pod := range v.pods {
		if podActive(pod) || replacesOnlyFailed(v.job) && podTerminating(pod) {
			if i := indexOf(pod); i >= 0 {
				taken = taken.with(i)
			}
		}
	}
	return taken.gaps(n, v.completions())
}

// completionIndexVariable is the name of the variable that tells a pod its index.
const completionIndexVariable = "JOB_COMPLETION_INDEX"

// pod makes the pod of a start.
func (v *jobView) pod(s start) *corev1.Pod {
	pod := podFrom(&v.job.Spec.Template, v.job, jobKind)
	if !slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if s.index < 0 {
		return pod
	}
	i := strconv.Itoa(s.index)
	pod.GenerateName = indexedPrefix(v.job.Name, i)
	pod.Spec.Hostname = v.job.Name + "-" + i
	pod.Labels = withLabel(pod.Labels, batchv1.JobCompletionIndexAnnotation, i)
	pod.Annotations = withLabel(pod.Annotations, batchv1.JobCompletionIndexAnnotation, i)
	for list := range slices.Values([][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers}) {
		for c := range list {
			addIndexVariable(&list[c])
		}
	}
	if v.job.Spec.BackoffLimitPerIndex != nil {
		inheritFailures(pod, v.job, s.predecessor)
	}
	return pod
}

// indexedPrefix is job and index with dashes, cut so that the server's five random characters fit a name of 63.
func indexedPrefix(job, index string) string {
	suffix := "-" + index + "-"
	return job[:min(len(job), 58-len(suffix))] + suffix
}

func addIndexVariable(container *corev1.Container) {
	if slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == completionIndexVariable }) {
		return
	}
	container.Env = append(container.Env, corev1.EnvVar{
		Name: completionIndexVariable,
		ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
			FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation),
		}},
	})
}

func indexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion
}

func suspended(job *batchv1.Job) bool { return job.Spec.Suspend != nil && *job.Spec.Suspend }

// replacesOnlyFailed tells whether a pod must have ended before another takes its place.
func replacesOnlyFailed(job *batchv1.Job) bool {
	return job.Spec.PodFailurePolicy != nil ||
		job.Spec.PodReplacementPolicy != nil && *job.Spec.PodReplacementPolicy == batchv1.Failed
}
