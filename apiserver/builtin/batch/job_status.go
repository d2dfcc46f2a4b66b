package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// validateJobStatus holds whoever writes the status, the controller named by
// managedBy included, to what readers may rely on (KEP 4368). Most rules apply
// only where a write changes what they are about: a job that broke one before,
// or through a change of its spec, can still be worked on.
func validateJobStatus(obj, old *batchv1.Job) field.ErrorList {
	errs := validateJobCounts(&obj.Status)
	for _, r := range jobStatusRules {
		if r.applies(obj, old) {
			errs = append(errs, r.check(obj)...)
		}
	}
	return append(errs, validateJobTransition(obj, old)...)
}

func validateJobCounts(s *batchv1.JobStatus) field.ErrorList {
	errs := notNegative(&s.Active, statusPath.Child("active"))
	errs = append(errs, notNegative(&s.Succeeded, statusPath.Child("succeeded"))...)
	errs = append(errs, notNegative(&s.Failed, statusPath.Child("failed"))...)
	errs = append(errs, notNegative(s.Ready, statusPath.Child("ready"))...)
	errs = append(errs, notNegative(s.Terminating, statusPath.Child("terminating"))...)
	if s.UncountedTerminatedPods == nil {
		return errs
	}
	seen := make(map[types.UID]bool)
	check := func(uids []types.UID, path *field.Path) {
		for i, uid := range uids {
			switch {
			case uid == "":
				errs = append(errs, field.Invalid(path.Index(i), uid, "must not be empty"))
			case seen[uid]:
				errs = append(errs, field.Duplicate(path.Index(i), uid))
			}
			seen[uid] = true
		}
	}
	check(s.UncountedTerminatedPods.Succeeded, statusPath.Child("uncountedTerminatedPods", "succeeded"))
	check(s.UncountedTerminatedPods.Failed, statusPath.Child("uncountedTerminatedPods", "failed"))
	return errs
}

// jobStatusRule is one promise of a job's status. applies tells whether a write
// touches it.
type jobStatusRule struct {
	applies func(obj, old *batchv1.Job) bool
	check   func(obj *batchv1.Job) field.ErrorList
}

// What a write changes.
func completeChanged(obj, old *batchv1.Job) bool {
	return differ(obj, old, batchv1.JobComplete)
}

func differ(obj, old *batchv1.Job, kind batchv1.JobConditionType) bool {
	return hasCondition(obj, kind) != hasCondition(old, kind)
}

func finishedChanged(obj, old *batchv1.Job) bool { return finished(obj) != finished(old) }

func startChanged(obj, old *batchv1.Job) bool {
	return !sameTime(obj.Status.StartTime, old.Status.StartTime)
}

func completionChanged(obj, old *batchv1.Job) bool {
	return !sameTime(obj.Status.CompletionTime, old.Status.CompletionTime)
}

func completedChanged(obj, old *batchv1.Job) bool {
	return obj.Status.CompletedIndexes != old.Status.CompletedIndexes
}

func failedIndexesChanged(obj, old *batchv1.Job) bool {
	return !same(obj.Status.FailedIndexes, old.Status.FailedIndexes)
}

func activeChanged(obj, old *batchv1.Job) bool { return obj.Status.Active != old.Status.Active }

func always(_, _ *batchv1.Job) bool { return true }

func either(changes ...func(obj, old *batchv1.Job) bool) func(obj, old *batchv1.Job) bool {
	return func(obj, old *batchv1.Job) bool {
		for _, c := range changes {
			if c(obj, old) {
				return true
			}
		}
		return false
	}
}

func condition(kind batchv1.JobConditionType) func(obj, old *batchv1.Job) bool {
	return func(obj, old *batchv1.Job) bool { return differ(obj, old, kind) }
}

// forbid makes a rule of a state that must not be.
func forbid(applies func(obj, old *batchv1.Job) bool, bad func(j *batchv1.Job) bool, at func(j *batchv1.Job) *field.Error) jobStatusRule {
	return jobStatusRule{applies, func(j *batchv1.Job) field.ErrorList {
		if !bad(j) {
			return nil
		}
		return field.ErrorList{at(j)}
	}}
}

// conditions blames the list of conditions.
func conditions(message string) func(*batchv1.Job) *field.Error {
	return func(*batchv1.Job) *field.Error {
		return field.Invalid(statusPath.Child("conditions"), field.OmitValueType{}, message)
	}
}

func has(kinds ...batchv1.JobConditionType) func(*batchv1.Job) bool {
	return func(j *batchv1.Job) bool {
		for _, k := range kinds {
			if !hasCondition(j, k) {
				return false
			}
		}
		return true
	}
}

func finished(j *batchv1.Job) bool {
	return hasCondition(j, batchv1.JobComplete) || hasCondition(j, batchv1.JobFailed)
}

func sameTime(a, b *metav1.Time) bool { return a.Equal(b) }

// jobStatusRules are in the order in which violations are listed.
var jobStatusRules = []jobStatusRule{
	forbid(either(completeChanged, condition(batchv1.JobFailed)), has(batchv1.JobComplete, batchv1.JobFailed),
		conditions("cannot set Complete=True and Failed=true conditions")),
	forbid(either(completeChanged, condition(batchv1.JobFailureTarget)), has(batchv1.JobComplete, batchv1.JobFailureTarget),
		conditions("cannot set Complete=True and FailureTarget=true conditions")),
	forbid(either(completeChanged, completionChanged),
		func(j *batchv1.Job) bool {
			return j.Status.CompletionTime != nil && !hasCondition(j, batchv1.JobComplete)
		},
		func(j *batchv1.Job) *field.Error {
			return field.Invalid(statusPath.Child("completionTime"), j.Status.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		}),
	forbid(either(completeChanged, completionChanged),
		func(j *batchv1.Job) bool {
			return j.Status.CompletionTime == nil && hasCondition(j, batchv1.JobComplete)
		},
		func(*batchv1.Job) *field.Error {
			return field.Required(statusPath.Child("completionTime"), "completionTime is required for Complete jobs")
		}),
	forbid(either(startChanged, completionChanged),
		func(j *batchv1.Job) bool {
			return j.Status.StartTime != nil && j.Status.CompletionTime != nil && j.Status.CompletionTime.Before(j.Status.StartTime)
		},
		func(j *batchv1.Job) *field.Error {
			return field.Invalid(statusPath.Child("completionTime"), j.Status.CompletionTime, "must be equal to or after `startTime`")
		}),
	forbid(either(condition(batchv1.JobFailed), failedIndexesChanged),
		func(j *batchv1.Job) bool {
			return hasCondition(j, batchv1.JobFailed) && !hasCondition(j, batchv1.JobFailureTarget)
		},
		conditions("cannot set Failed=True condition without the FailureTarget=true condition")),
	forbid(either(completeChanged, condition(batchv1.JobSuccessCriteriaMet)),
		func(j *batchv1.Job) bool {
			return hasCondition(j, batchv1.JobComplete) && !hasCondition(j, batchv1.JobSuccessCriteriaMet)
		},
		conditions("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")),
	forbid(either(finishedChanged, activeChanged),
		func(j *batchv1.Job) bool { return j.Status.Active > 0 && finished(j) },
		func(j *batchv1.Job) *field.Error {
			return field.Invalid(statusPath.Child("active"), j.Status.Active, "active>0 is invalid for finished job")
		}),
	forbid(func(obj, old *batchv1.Job) bool {
		neverStarts := deref(obj.Spec.Suspend) && obj.Spec.Completions != nil && *obj.Spec.Completions == 0
		return !neverStarts && (finishedChanged(obj, old) || startChanged(obj, old))
	},
		func(j *batchv1.Job) bool { return j.Status.StartTime == nil && finished(j) },
		func(*batchv1.Job) *field.Error {
			return field.Required(statusPath.Child("startTime"), "startTime is required for finished job")
		}),
	forbid(either(finishedChanged, func(obj, old *batchv1.Job) bool {
		return changed(obj.Status.UncountedTerminatedPods, old.Status.UncountedTerminatedPods)
	}),
		func(j *batchv1.Job) bool {
			u := j.Status.UncountedTerminatedPods
			return finished(j) && u != nil && len(u.Failed)+len(u.Succeeded) > 0
		},
		func(j *batchv1.Job) *field.Error {
			return field.Invalid(statusPath.Child("uncountedTerminatedPods"), podspec.Untagged(j.Status.UncountedTerminatedPods), "must be empty for finished job")
		}),
	{completedChanged, func(j *batchv1.Job) field.ErrorList {
		return validateIndexes(j, "completedIndexes", j.Status.CompletedIndexes, j.Status.CompletedIndexes)
	}},
	{failedIndexesChanged, func(j *batchv1.Job) field.ErrorList {
		if j.Spec.BackoffLimitPerIndex == nil || j.Status.FailedIndexes == nil {
			return nil
		}
		return validateIndexes(j, "failedIndexes", *j.Status.FailedIndexes, j.Status.FailedIndexes)
	}},
	forbid(completedChanged,
		func(j *batchv1.Job) bool {
			return j.Status.CompletedIndexes != "" && deref(j.Spec.CompletionMode) != batchv1.IndexedCompletion
		},
		func(j *batchv1.Job) *field.Error {
			return field.Invalid(statusPath.Child("completedIndexes"), j.Status.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
		}),
	forbid(failedIndexesChanged,
		func(j *batchv1.Job) bool { return j.Spec.BackoffLimitPerIndex == nil && j.Status.FailedIndexes != nil },
		func(j *batchv1.Job) *field.Error {
			return field.Invalid(statusPath.Child("failedIndexes"), *j.Status.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
		}),
	{either(failedIndexesChanged, completedChanged), validateDisjoint},
	forbid(either(finishedChanged, func(obj, old *batchv1.Job) bool { return !same(obj.Status.Terminating, old.Status.Terminating) }),
		func(j *batchv1.Job) bool { return deref(j.Status.Terminating) > 0 && finished(j) },
		func(j *batchv1.Job) *field.Error {
			return field.Invalid(statusPath.Child("terminating"), j.Status.Terminating, "terminating>0 is invalid for finished job")
		}),
	forbid(either(activeChanged, func(obj, old *batchv1.Job) bool { return !same(obj.Status.Ready, old.Status.Ready) }),
		func(j *batchv1.Job) bool { return j.Status.Ready != nil && *j.Status.Ready > j.Status.Active },
		func(j *batchv1.Job) *field.Error {
			return field.Invalid(statusPath.Child("ready"), *j.Status.Ready, "cannot set more ready pods than active")
		}),
	forbid(always, has(batchv1.JobSuccessCriteriaMet, batchv1.JobFailed),
		conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions")),
	forbid(always, has(batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget),
		conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")),
	forbid(always,
		func(j *batchv1.Job) bool {
			return j.Spec.SuccessPolicy != nil && !hasCondition(j, batchv1.JobSuccessCriteriaMet) && hasCondition(j, batchv1.JobComplete)
		},
		conditions("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")),
}

func validateIndexes(j *batchv1.Job, name, text string, value any) field.ErrorList {
	if j.Spec.Completions == nil {
		return nil
	}
	if _, err := parseIndexes(text, *j.Spec.Completions); err != nil {
		return field.ErrorList{field.Invalid(statusPath.Child(name), value, fmt.Sprintf("error parsing %s: %s", name, err))}
	}
	return nil
}

func validateDisjoint(j *batchv1.Job) field.ErrorList {
	if j.Spec.Completions == nil || j.Status.FailedIndexes == nil {
		return nil
	}
	index, found := overlap(j.Status.CompletedIndexes, *j.Status.FailedIndexes, *j.Spec.Completions)
	if !found {
		return nil
	}
	return field.ErrorList{field.Invalid(statusPath.Child("failedIndexes"), *j.Status.FailedIndexes,
		fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", index))}
}

// validateJobTransition checks what may not be taken back.
func validateJobTransition(obj, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	blame := func(message string) { errs = append(errs, conditions(message)(obj)) }
	now, before := &obj.Status, &old.Status
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if hasCondition(old, kind) && !hasCondition(obj, kind) {
			blame(fmt.Sprintf("cannot disable the terminal %s=True condition", kind))
		}
	}
	if now.Failed < before.Failed {
		errs = append(errs, field.Invalid(statusPath.Child("failed"), now.Failed, "cannot decrease the failed counter"))
	}
	// Indexed jobs can be scaled down, which takes back successes.
	scalable := deref(obj.Spec.CompletionMode) == batchv1.IndexedCompletion && same(obj.Spec.Completions, obj.Spec.Parallelism)
	if now.Succeeded < before.Succeeded && !scalable {
		errs = append(errs, field.Invalid(statusPath.Child("succeeded"), now.Succeeded, "cannot decrease the succeeded counter"))
	}
	if now.CompletionTime != nil && before.CompletionTime != nil && completionChanged(obj, old) {
		errs = append(errs, field.Invalid(statusPath.Child("completionTime"), now.CompletionTime, "field is immutable"))
	}
	resuming := hasCondition(old, batchv1.JobSuspended) && conditionIs(obj, batchv1.JobSuspended, v1.ConditionFalse)
	if before.StartTime != nil && startChanged(obj, old) && !resuming && !deref(obj.Spec.Suspend) {
		errs = append(errs, field.Invalid(statusPath.Child("startTime"), now.StartTime, "field is immutable for unsuspended job once set"))
	}
	met, metBefore := hasCondition(obj, batchv1.JobSuccessCriteriaMet), hasCondition(old, batchv1.JobSuccessCriteriaMet)
	if metBefore && !met {
		blame("cannot disable the SuccessCriteriaMet=True condition")
	}
	if hasCondition(old, batchv1.JobComplete) && !metBefore && met {
		blame("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	}
	return errs
}
