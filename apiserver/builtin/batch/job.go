package batch

import (
	"fmt"
	"maps"
	"math"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// The labels that tie pods to their job, and their names before they had a
// prefix. All four are set on pods.
const (
	jobNameLabel             = batchv1.JobNameLabel
	controllerUIDLabel       = batchv1.ControllerUidLabel
	legacyJobNameLabel       = "job-name"
	legacyControllerUIDLabel = "controller-uid"
)

func jobs() *resource.Resource {
	return resource.Define[batchv1.JobList](resource.Definition[batchv1.Job]{
		Group: "batch", Version: "v1", Kind: "Job", Plural: "jobs", Categories: []string{"all"},
		Default: defaultJob,
		Prepare: func(obj, old *batchv1.Job) {
			podspec.DropDisabled(&obj.Spec.Template.Spec)
			if old != nil {
				obj.Status = old.Status
				return
			}
			obj.Status = batchv1.JobStatus{}
			if !*obj.Spec.ManualSelector {
				generateSelector(obj)
				labelLikePods(obj)
			}
		},
		Validate: validateJob,
		Warn: func(obj, old *batchv1.Job) []string {
			if old == nil {
				return append(podspec.WarnName(obj.Name), warnJobSpec(&obj.Spec, nil, specPath)...)
			}
			if !changed(obj.Spec, old.Spec) {
				return nil
			}
			return warnJobSpec(&obj.Spec, &old.Spec, specPath)
		},
		Generation: func(obj, old *batchv1.Job) bool { return changed(obj.Spec, old.Spec) },
		Fields: map[string]func(*batchv1.Job) string{
			"status.successful": func(j *batchv1.Job) string { return strconv.Itoa(int(j.Status.Succeeded)) },
		},
		Columns:         jobColumns(),
		OrphanByDefault: true,
		OrphanWarning: "child pods are preserved by default when jobs are deleted; " +
			"set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
		Subresources: []resource.Subresource[batchv1.Job]{
			{Name: "status", View: true,
				Prepare:  func(obj, old *batchv1.Job) { obj.Spec = old.Spec },
				Validate: validateJobStatus,
			},
		},
	})
}

func defaultJob(j *batchv1.Job) {
	defaultJobSpec(&j.Spec)
	s := &j.Spec
	if s.Completions == nil && s.Parallelism == nil {
		podspec.SetDefault(&s.Completions, 1)
	}
	podspec.SetDefault(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		podspec.SetDefault(&s.BackoffLimit, math.MaxInt32)
	}
	podspec.SetDefault(&s.BackoffLimit, 6)
	labelLikePods(j)
	podspec.SetDefault(&s.CompletionMode, batchv1.NonIndexedCompletion)
	podspec.SetDefault(&s.Suspend, false)
	if s.PodFailurePolicy != nil {
		podspec.SetDefault(&s.PodReplacementPolicy, batchv1.Failed)
	}
	podspec.SetDefault(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	podspec.SetDefault(&s.ManualSelector, false)
}

// labelLikePods gives a job without labels those of its pods.
func labelLikePods(j *batchv1.Job) {
	if len(j.Labels) == 0 && j.Spec.Template.Labels != nil {
		j.Labels = maps.Clone(j.Spec.Template.Labels)
	}
}

// defaultJobSpec fills what a job template has in common with a job.
func defaultJobSpec(s *batchv1.JobSpec) {
	podspec.DefaultTemplate(&s.Template)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		patterns := s.PodFailurePolicy.Rules[i].OnPodConditions
		for k := range patterns {
			if patterns[k].Status == "" {
				patterns[k].Status = v1.ConditionTrue
			}
		}
	}
}

// generateSelector makes the pods of a job its own: they carry its UID, and its
// selector asks for it. Labels a client set to something else stay and are
// rejected by validation.
func generateSelector(j *batchv1.Job) {
	name, uid := j.Name, string(j.UID)
	if j.Spec.Template.Labels == nil {
		j.Spec.Template.Labels = make(map[string]string, 4)
	}
	for _, l := range []struct{ key, value string }{
		{legacyJobNameLabel, name}, {jobNameLabel, name}, {legacyControllerUIDLabel, uid}, {controllerUIDLabel, uid}} {
		addLabel(j.Spec.Template.Labels, l.key, l.value)
	}
	podspec.SetDefault(&j.Spec.Selector, metav1.LabelSelector{})
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = make(map[string]string, 1)
	}
	addLabel(j.Spec.Selector.MatchLabels, controllerUIDLabel, uid)
}

func addLabel(labels map[string]string, key, value string) {
	if _, ok := labels[key]; !ok {
		labels[key] = value
	}
}

func warnJobSpec(s, old *batchv1.JobSpec, path *field.Path) []string {
	var warnings []string
	if deref(s.CompletionMode) == batchv1.IndexedCompletion && deref(s.Completions) > manyCompletions && deref(s.Parallelism) > manyParallel {
		warnings = append(warnings, fmt.Sprintf("%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail", path))
	}
	var oldTemplate *v1.PodTemplateSpec
	if old != nil {
		oldTemplate = &old.Template
	}
	return append(warnings, podspec.WarnTemplate(&s.Template, oldTemplate, path.Child("template"))...)
}

func jobColumns() []resource.Column[*batchv1.Job] {
	type job = *batchv1.Job
	spec := func(j job) *v1.PodSpec { return &j.Spec.Template.Spec }
	return []resource.Column[job]{
		resource.NameColumn[job](),
		table.Text("Status", "Status of the job.", jobState),
		table.Text("Completions", table.Doc(batchv1.JobStatus{}, "succeeded"), completions),
		table.Ago("Duration", "Time required to complete the job.", jobDuration),
		resource.AgeColumn[job](),
		table.Wide(podspec.ContainersColumn(spec)),
		table.Wide(podspec.ImagesColumn(spec)),
		table.Wide(table.Text("Selector", table.Doc(batchv1.JobSpec{}, "selector"), func(j job) string { return table.Selector(j.Spec.Selector) })),
	}
}

func jobState(j *batchv1.Job) string {
	switch {
	case hasCondition(j, batchv1.JobComplete):
		return "Complete"
	case hasCondition(j, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case hasCondition(j, batchv1.JobSuspended):
		return "Suspended"
	case hasCondition(j, batchv1.JobFailureTarget):
		return "FailureTarget"
	case hasCondition(j, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	switch parallel := deref(j.Spec.Parallelism); {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case parallel > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallel)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job) any {
	start, end := j.Status.StartTime, j.Status.CompletionTime
	switch {
	case start == nil:
		return ""
	case end == nil:
		return resource.Since{Time: start.Time}
	}
	return duration.HumanDuration(end.Sub(start.Time))
}

// hasCondition reports whether a condition of a job is true.
func hasCondition(j *batchv1.Job, kind batchv1.JobConditionType) bool {
	return conditionIs(j, kind, v1.ConditionTrue)
}

func conditionIs(j *batchv1.Job, kind batchv1.JobConditionType, status v1.ConditionStatus) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == kind && c.Status == status {
			return true
		}
	}
	return false
}
