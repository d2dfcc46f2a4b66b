package workloads

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestIndexes(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"3", "3"},
		{"1,2", "1,2"},
		{"1,2,3", "1-3"},
		{"5,1-3,4", "1-5"},
		{"0-2,4,9-20", "0-2,4,9"},
		{"x,-1,2-1,3-y,6", "6"},
	} {
		if got := parseIndexes(test.text, 10).String(); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
	set := parseIndexes("1-3,7", 10)
	if set.count() != 4 || !set.has(2) || !set.has(7) || set.has(0) || set.has(4) {
		t.Errorf("%s: got count %d", set, set.count())
	}
	if got := set.with(4).with(0).String(); got != "0-4,7" {
		t.Errorf("with 4 and 0: got %q", got)
	}
	if got := set.String(); got != "1-3,7" {
		t.Errorf("changed to %q", got)
	}
	if got := set.gaps(3, 10); !slices.Equal(got, []int{0, 4, 5}) {
		t.Errorf("gaps: got %v", got)
	}
	if got := set.gaps(100, 10); !slices.Equal(got, []int{0, 4, 5, 6, 8, 9}) {
		t.Errorf("all gaps: got %v", got)
	}
	if got := set.union(parseIndexes("4-6", 10)).String(); got != "1-7" {
		t.Errorf("union: got %q", got)
	}
	if got := set.overlap(parseIndexes("0,2-8", 10)); got != 3 {
		t.Errorf("overlap: got %d, want 3", got)
	}
}

func exited(code int32) podOption {
	return func(pod *corev1.Pod) {
		pod.Status.Phase = corev1.PodFailed
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(now)}}}}
	}
}

func TestOutcomeOf(t *testing.T) {
	codes := func(action batchv1.PodFailurePolicyAction, operator batchv1.PodFailurePolicyOnExitCodesOperator, values ...int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: operator, Values: values}}
	}
	disrupted := batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}
	in, notIn := batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn
	victim := func(pod *corev1.Pod) {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
	}
	for _, test := range []struct {
		name  string
		rules []batchv1.PodFailurePolicyRule
		pod   *corev1.Pod
		want  outcome
	}{
		{"no policy", nil, newPod("p", exited(1)), outcome{counts: true}},
		{"no rule matches", []batchv1.PodFailurePolicyRule{codes(batchv1.PodFailurePolicyActionFailJob, in, 2)}, newPod("p", exited(1)), outcome{counts: true}},
		{"fail the job", []batchv1.PodFailurePolicyRule{codes(batchv1.PodFailurePolicyActionCount, in, 9), codes(batchv1.PodFailurePolicyActionFailJob, in, 1)}, newPod("p", exited(1)),
			outcome{counts: true, failsJob: "Container c for pod ns/p failed with exit code 1 matching FailJob rule at index 1"}},
		{"fail the index", []batchv1.PodFailurePolicyRule{codes(batchv1.PodFailurePolicyActionFailIndex, notIn, 9)}, newPod("p", exited(1)), outcome{counts: true, failsIndex: true}},
		{"ignore a disruption", []batchv1.PodFailurePolicyRule{disrupted}, newPod("p", victim), outcome{}},
		{"success is no match", []batchv1.PodFailurePolicyRule{codes(batchv1.PodFailurePolicyActionFailJob, notIn, 9)}, newPod("p", exited(0)), outcome{counts: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			job := &batchv1.Job{}
			if test.rules != nil {
				job.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: test.rules}
			}
			if got := outcomeOf(job, test.pod); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestSuccessPolicyMet(t *testing.T) {
	for _, test := range []struct {
		name    string
		rule    batchv1.SuccessPolicyRule
		done    string
		message string
	}{
		{"all named", batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2")}, "0-2", "Matched rules at index 0"},
		{"one is missing", batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0,2")}, "0,1", ""},
		{"enough of those named", batchv1.SuccessPolicyRule{SucceededIndexes: ptr("0-3"), SucceededCount: ptr(int32(2))}, "1,3", "Matched rules at index 0"},
		{"enough of any", batchv1.SuccessPolicyRule{SucceededCount: ptr(int32(2))}, "1,4", "Matched rules at index 0"},
		{"none yet", batchv1.SuccessPolicyRule{SucceededCount: ptr(int32(0))}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _ := successPolicyMet(&batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{test.rule}}, 5, parseIndexes(test.done, 5))
			if got != test.message {
				t.Errorf("got %q, want %q", got, test.message)
			}
		})
	}
}

func TestFailuresWait(t *testing.T) {
	for _, test := range []struct {
		n    int32
		ago  time.Duration
		want time.Duration
	}{
		{0, 0, 0}, {1, 0, 10 * time.Second}, {2, 0, 20 * time.Second}, {3, 5 * time.Second, 35 * time.Second}, {1, time.Minute, 0}, {100, 0, 10 * time.Minute},
	} {
		if got := (failures{test.n, now.Add(-test.ago)}).wait(now); got != test.want {
			t.Errorf("%d failures, the last %s ago: got %s, want %s", test.n, test.ago, got, test.want)
		}
	}
	ended := func(name string, at time.Duration) *corev1.Pod {
		return newPod(name, func(pod *corev1.Pod) { pod.CreationTimestamp = metav1.NewTime(now.Add(at)) })
	}
	f := failures{n: 4, last: now}.after([]*corev1.Pod{ended("good", 2*time.Second)}, []*corev1.Pod{ended("before", time.Second), ended("after", 3*time.Second)})
	if f.n != 1 || !f.last.Equal(now.Add(3*time.Second)) {
		t.Errorf("after a success: got %+v, want one failure", f)
	}
}

// A job's pods in a test are held by their finalizer unless "free" is in their name.
func view(job *batchv1.Job, pods ...*corev1.Pod) *jobView {
	if job.Spec.BackoffLimit == nil {
		job.Spec.BackoffLimit = ptr(int32(6))
	}
	job.Name = "j"
	return newJobView(job, pods, failures{}, now, func(pod *corev1.Pod) bool { return pod.Name[:1] != "f" })
}

func withIndex(i int) podOption {
	return annotation(batchv1.JobCompletionIndexAnnotation, fmt.Sprint(i))
}

func TestPlanJobPods(t *testing.T) {
	running := phase(corev1.PodRunning)
	spec := func(completions, parallelism int32) batchv1.JobSpec {
		return batchv1.JobSpec{Completions: &completions, Parallelism: &parallelism}
	}
	indexedSpec := func(completions, parallelism int32) batchv1.JobSpec {
		s := spec(completions, parallelism)
		s.CompletionMode = ptr(batchv1.IndexedCompletion)
		return s
	}
	suspendedSpec := spec(3, 3)
	suspendedSpec.Suspend = ptr(true)
	for _, test := range []struct {
		name   string
		spec   batchv1.JobSpec
		status batchv1.JobStatus
		pods   []*corev1.Pod
		starts string
		remove []string
	}{
		{"start as many as allowed", spec(5, 2), batchv1.JobStatus{}, nil, "[-1 -1]", nil},
		{"only those still needed", spec(5, 3), batchv1.JobStatus{Succeeded: 3}, nil, "[-1 -1]", nil},
		{"one runs", spec(5, 2), batchv1.JobStatus{}, []*corev1.Pod{newPod("a", running)}, "[-1]", nil},
		{"one just succeeded", spec(2, 2), batchv1.JobStatus{}, []*corev1.Pod{newPod("a", phase(corev1.PodSucceeded))}, "[-1]", nil},
		{"back off after a failure", spec(2, 2), batchv1.JobStatus{}, []*corev1.Pod{newPod("a", exited(1))}, "[]", nil},
		{"too many", spec(5, 1), batchv1.JobStatus{}, []*corev1.Pod{newPod("a", running, onNode("n")), newPod("b")}, "[]", []string{"b"}},
		{"suspended", suspendedSpec, batchv1.JobStatus{}, []*corev1.Pod{newPod("a", running)}, "[]", []string{"a"}},
		{"the lowest indexes first", indexedSpec(5, 3), batchv1.JobStatus{CompletedIndexes: "1", Succeeded: 1}, nil, "[0 2 3]", nil},
		{"not an index that runs", indexedSpec(3, 3), batchv1.JobStatus{}, []*corev1.Pod{newPod("a", running, withIndex(1))}, "[0 2]", nil},
		{"doubles and strangers", indexedSpec(3, 3), batchv1.JobStatus{}, []*corev1.Pod{newPod("a", running, onNode("n"), withIndex(1)), newPod("b", withIndex(1)), newPod("c", withIndex(7))}, "[0]", []string{"b", "c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := view(&batchv1.Job{Spec: test.spec, Status: test.status}, test.pods...)
			removed := names(v.planRemoval())
			slices.Sort(removed)
			if !slices.Equal(removed, test.remove) {
				t.Errorf("removed: got %v, want %v", removed, test.remove)
			}
			if len(test.remove) > 0 {
				return
			}
			starts := []int{}
			for _, s := range v.planStarts() {
				starts = append(starts, s.index)
			}
			if got := fmt.Sprint(starts); got != test.starts {
				t.Errorf("starts: got %s, want %s", got, test.starts)
			}
		})
	}
}

func TestJobCountsEachPodOnce(t *testing.T) {
	job := &batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr(int32(3)), Parallelism: ptr(int32(3))}}
	pods := []*corev1.Pod{newPod("a", phase(corev1.PodSucceeded)), newPod("b", exited(1)), newPod("c", phase(corev1.PodRunning))}
	v := view(job, pods...)
	release := v.noteEnded()
	if got := names(release); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("released: got %v, want a and b", got)
	}
	uncounted := job.Status.UncountedTerminatedPods
	if !slices.Equal(uncounted.Succeeded, []types.UID{"a"}) || !slices.Equal(uncounted.Failed, []types.UID{"b"}) || job.Status.Succeeded != 0 {
		t.Errorf("status: got %+v", job.Status)
	}

	// The process ends here; the next one finds the same pods, and b's finalizer gone.
	v = newJobView(job, pods, failures{}, now, func(pod *corev1.Pod) bool { return pod.Name != "b" })
	if v.succeeded != 1 || v.failed != 1 {
		t.Errorf("after a restart: got %d succeeded and %d failed, want 1 and 1", v.succeeded, v.failed)
	}
	v.noteEnded()
	if job.Status.Failed != 1 || len(job.Status.UncountedTerminatedPods.Failed) != 0 || len(job.Status.UncountedTerminatedPods.Succeeded) != 1 {
		t.Errorf("status after a restart: got %+v", job.Status)
	}
	delete(v.held, "a")
	v.settle()
	if job.Status.Succeeded != 1 || job.Status.Failed != 1 || len(job.Status.UncountedTerminatedPods.Succeeded) != 0 {
		t.Errorf("settled: got %+v", job.Status)
	}
}

func TestJudge(t *testing.T) {
	perIndex := func(limit int32) batchv1.JobSpec {
		return batchv1.JobSpec{Completions: ptr(int32(2)), Parallelism: ptr(int32(2)), CompletionMode: ptr(batchv1.IndexedCompletion), BackoffLimitPerIndex: &limit, BackoffLimit: ptr(int32(100))}
	}
	for _, test := range []struct {
		name   string
		spec   batchv1.JobSpec
		status batchv1.JobStatus
		pods   []*corev1.Pod
		want   string
	}{
		{"nothing happened", batchv1.JobSpec{}, batchv1.JobStatus{}, nil, ""},
		{"too many failures", batchv1.JobSpec{BackoffLimit: ptr(int32(1))}, batchv1.JobStatus{Failed: 1}, []*corev1.Pod{newPod("a", exited(1))}, "FailureTarget BackoffLimitExceeded"},
		{"too long", batchv1.JobSpec{ActiveDeadlineSeconds: ptr(int64(5))}, batchv1.JobStatus{StartTime: &metav1.Time{Time: now.Add(-time.Minute)}}, nil, "FailureTarget DeadlineExceeded"},
		{"an index failed but may be tried again", perIndex(1), batchv1.JobStatus{}, []*corev1.Pod{newPod("a", exited(1), withIndex(0))}, ""},
		{"an index is lost, another runs", perIndex(0), batchv1.JobStatus{}, []*corev1.Pod{newPod("a", exited(1), withIndex(0)), newPod("b", withIndex(1))}, ""},
		{"an index is lost, the other is done", perIndex(0), batchv1.JobStatus{CompletedIndexes: "1"}, []*corev1.Pod{newPod("a", exited(1), withIndex(0))}, "FailureTarget FailedIndexes"},
		{"a verdict stands", batchv1.JobSpec{}, batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, Reason: "SuccessPolicy"}}}, []*corev1.Pod{newPod("a", exited(1))}, "SuccessCriteriaMet SuccessPolicy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := view(&batchv1.Job{Spec: test.spec, Status: test.status}, test.pods...)
			v.judge()
			got := ""
			if v.verdict != nil {
				got = string(v.verdict.Type) + " " + v.verdict.Reason
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestIndexedPod(t *testing.T) {
	job := &batchv1.Job{Spec: batchv1.JobSpec{CompletionMode: ptr(batchv1.IndexedCompletion), Completions: ptr(int32(5)), BackoffLimitPerIndex: ptr(int32(3))}}
	job.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c"}, {Name: "own", Env: []corev1.EnvVar{{Name: completionIndexVariable, Value: "mine"}}}}
	pod := view(job).pod(start{3, newPod("before", exited(1), annotation(batchv1.JobIndexFailureCountAnnotation, "1"))})
	if pod.GenerateName != "j-3-" || pod.Spec.Hostname != "j-3" || pod.Labels[batchv1.JobCompletionIndexAnnotation] != "3" || !tracked(pod) {
		t.Errorf("got name %q, host %q, labels %v, finalizers %v", pod.GenerateName, pod.Spec.Hostname, pod.Labels, pod.Finalizers)
	}
	if got := pod.Annotations[batchv1.JobIndexFailureCountAnnotation]; got != "2" {
		t.Errorf("failures: got %q, want 2", got)
	}
	if env := pod.Spec.Containers[0].Env; len(env) != 1 || env[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
		t.Errorf("variable: got %+v", env)
	}
	if env := pod.Spec.Containers[1].Env; len(env) != 1 || env[0].Value != "mine" {
		t.Errorf("a variable of the user: got %+v", env)
	}
}

func TestTimeToLive(t *testing.T) {
	ended := batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))}}}
	for _, test := range []struct {
		name    string
		job     *batchv1.Job
		left    time.Duration
		expires bool
	}{
		{"for ever", &batchv1.Job{Status: ended}, 0, false},
		{"not ended", &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ptr(int32(1))}}, 0, false},
		{"a while yet", &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ptr(int32(90))}, Status: ended}, 30 * time.Second, true},
		{"past", &batchv1.Job{Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ptr(int32(1))}, Status: ended}, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if left, expires := timeToLive(test.job, now); left != test.left || expires != test.expires {
				t.Errorf("got %s, %v, want %s, %v", left, expires, test.left, test.expires)
			}
		})
	}
}

func TestScheduleDue(t *testing.T) {
	at := func(clock string) time.Time {
		parsed, err := time.Parse("15:04:05", clock)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2030, 1, 2, parsed.Hour(), parsed.Minute(), parsed.Second(), 0, time.UTC)
	}
	for _, test := range []struct {
		name, schedule, last, now, due string
		missed                         int64
		deadline                       *int64
	}{
		{"not yet", "*/5 * * * *", "10:00:00", "10:04:59", "", 0, nil},
		{"now", "*/5 * * * *", "10:00:00", "10:05:00", "10:05:00", 1, nil},
		{"the last of several", "*/5 * * * *", "10:00:00", "10:16:00", "10:15:00", 3, nil},
		{"the last of many", "* * * * *", "03:00:00", "13:00:30", "13:00:00", 600, nil},
		{"a question mark", "*/1 * * * ?", "10:00:00", "10:01:10", "10:01:00", 1, nil},
		{"beyond the deadline", "0 * * * *", "09:30:00", "10:30:00", "", 0, ptr(int64(60))},
		{"uneven gaps", "0,1,30 * * * *", "09:59:00", "10:29:00", "10:01:00", 30, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			cron := &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: test.schedule, TimeZone: ptr("Etc/UTC"), StartingDeadlineSeconds: test.deadline}}
			cron.Status.LastScheduleTime = &metav1.Time{Time: at(test.last)}
			s, problem := scheduleOf(cron, time.UTC)
			if problem != nil {
				t.Fatal(problem.message)
			}
			due, missed, problem := s.due(cron, at(test.now))
			if problem != nil {
				t.Fatal(problem.message)
			}
			got := ""
			if !due.IsZero() {
				got = due.Format("15:04:05")
			}
			if got != test.due || missed != test.missed {
				t.Errorf("got %q after %d, want %q after %d", got, missed, test.due, test.missed)
			}
		})
	}
}

func TestScheduleProblems(t *testing.T) {
	for _, test := range []struct {
		schedule string
		zone     *string
		reason   string
	}{
		{"* * * * *", nil, ""},
		{"@hourly", nil, ""},
		{"0 0 29 2 *", nil, ""},
		{"* * * *", nil, "UnparseableSchedule"},
		{"TZ=", nil, "UnparseableSchedule"},
		{"* * * * *", ptr("No/Where"), "UnknownTimeZone"},
		{"0 0 31 2 *", nil, "InvalidSchedule"},
		{"0 0 31 4,6,9,11 *", ptr("Etc/UTC"), "InvalidSchedule"},
	} {
		problem := problemOf(&batchv1.CronJob{
			ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC))},
			Spec:       batchv1.CronJobSpec{Schedule: test.schedule, TimeZone: test.zone},
		})
		got := ""
		if problem != nil {
			got = problem.reason
		}
		if got != test.reason {
			t.Errorf("%q: got %q, want %q", test.schedule, got, test.reason)
		}
	}
}

func problemOf(cron *batchv1.CronJob) *scheduleProblem {
	location, problem := zoneOf(cron)
	if problem != nil {
		return problem
	}
	plan, problem := scheduleOf(cron, location)
	if problem != nil {
		return problem
	}
	_, _, problem = plan.due(cron, time.Date(2030, 1, 3, 0, 0, 0, 0, time.UTC))
	return problem
}

func TestExcess(t *testing.T) {
	for _, test := range []struct {
		n     int
		limit *int32
		want  int
	}{
		{0, ptr(int32(-1)), 0}, {5, ptr(int32(-1)), 0}, {5, ptr(int32(math.MinInt32)), 0}, {5, nil, 0},
		{5, ptr(int32(0)), 5}, {5, ptr(int32(3)), 2}, {5, ptr(int32(9)), 0}, {5, ptr(int32(math.MaxInt32)), 0},
	} {
		if got := excess(test.n, test.limit); got != test.want {
			t.Errorf("%d with limit %v: got %d, want %d", test.n, test.limit, got, test.want)
		}
	}
}
