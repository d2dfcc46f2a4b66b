package batch

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // time zones must be known where the host has none

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// maxCronJobName leaves room for the time in the names of the jobs.
const maxCronJobName = 52

func cronJobs() *resource.Resource {
	path := field.NewPath("spec", "jobTemplate", "spec")
	return resource.Define[batchv1.CronJobList](resource.Definition[batchv1.CronJob]{
		Group: "batch", Version: "v1", Kind: "CronJob", Plural: "cronjobs",
		ShortNames: []string{"cj"}, Categories: []string{"all"},
		Default: defaultCronJob,
		Prepare: func(obj, old *batchv1.CronJob) {
			podspec.DropDisabled(&obj.Spec.JobTemplate.Spec.Template.Spec)
			obj.Status = batchv1.CronJobStatus{}
			if old != nil {
				obj.Status = old.Status
			}
		},
		Validate: validateCronJob,
		Warn: func(obj, old *batchv1.CronJob) []string {
			if old == nil {
				return append(podspec.WarnName(obj.Name), warnJobSpec(&obj.Spec.JobTemplate.Spec, nil, path)...)
			}
			var warnings []string
			if changed(obj.Spec, old.Spec) {
				warnings = warnJobSpec(&obj.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec, path)
			}
			if strings.Contains(obj.Spec.Schedule, "TZ") {
				warnings = append(warnings, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
			}
			return warnings
		},
		Generation: func(obj, old *batchv1.CronJob) bool { return changed(obj.Spec, old.Spec) },
		Columns:    cronJobColumns(),
		Subresources: []resource.Subresource[batchv1.CronJob]{
			{Name: "status", View: true, Prepare: func(obj, old *batchv1.CronJob) { obj.Spec = old.Spec }},
		},
	})
}

func defaultCronJob(c *batchv1.CronJob) {
	defaultJobSpec(&c.Spec.JobTemplate.Spec)
	if c.Spec.ConcurrencyPolicy == "" {
		c.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
	}
	podspec.SetDefault(&c.Spec.Suspend, false)
	podspec.SetDefault(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	podspec.SetDefault(&c.Spec.FailedJobsHistoryLimit, 1)
}

func validateCronJob(obj, old *batchv1.CronJob) field.ErrorList {
	s, opts := &obj.Spec, podspec.Options{}
	if old != nil {
		opts = podspec.OptionsFor(&old.Spec.JobTemplate.Spec.Template)
	}
	errs := validateSchedule(s, old != nil && strings.Contains(old.Spec.Schedule, "TZ"))
	errs = append(errs, notNegative(s.StartingDeadlineSeconds, specPath.Child("startingDeadlineSeconds"))...)
	if s.TimeZone != nil && (old == nil || !same(s.TimeZone, old.Spec.TimeZone)) {
		errs = append(errs, validateTimeZone(s.TimeZone, specPath.Child("timeZone"))...)
	}
	errs = append(errs, oneOf(s.ConcurrencyPolicy, specPath.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	errs = append(errs, validateJobTemplate(&s.JobTemplate.Spec, specPath.Child("jobTemplate", "spec"), opts)...)
	errs = append(errs, notNegative(s.SuccessfulJobsHistoryLimit, specPath.Child("successfulJobsHistoryLimit"))...)
	errs = append(errs, notNegative(s.FailedJobsHistoryLimit, specPath.Child("failedJobsHistoryLimit"))...)
	if old == nil && len(obj.Name) > maxCronJobName {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), obj.Name, "must be no more than 52 characters"))
	}
	return errs
}

func validateSchedule(s *batchv1.CronJobSpec, hadZone bool) field.ErrorList {
	path := specPath.Child("schedule")
	if s.Schedule == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if err := parseSchedule(s.Schedule); err != nil {
		errs = append(errs, field.Invalid(path, s.Schedule, err.Error()))
	}
	switch zone := strings.Contains(s.Schedule, "TZ"); {
	case zone && hadZone && s.TimeZone != nil:
		errs = append(errs, field.Invalid(path, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	case zone && !hadZone:
		errs = append(errs, field.Invalid(path, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	}
	return errs
}

// parseSchedule turns the panics of the parser on some inputs into errors.
func parseSchedule(schedule string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	_, err = cron.ParseStandard(schedule)
	return err
}

// timeZonePart is one part of a time zone name as the IANA database has them.
var timeZonePart = regexp.MustCompile(`^[A-Za-z.\-_0-9+]{1,14}$`)

func validateTimeZone(zone *string, path *field.Path) field.ErrorList {
	if *zone == "" {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(*zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !timeZonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, zone, "unknown time zone "+*zone)}
		}
	}
	var errs field.ErrorList
	if strings.EqualFold(*zone, "Local") {
		errs = append(errs, field.Invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		errs = append(errs, field.Invalid(path, zone, err.Error()))
	}
	return errs
}

func validateJobTemplate(s *batchv1.JobSpec, path *field.Path, opts podspec.Options) field.ErrorList {
	errs := validateJobSpec(s, path, opts)
	if s.Selector != nil {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "`selector` will be auto-generated"))
	}
	if deref(s.ManualSelector) {
		errs = append(errs, field.NotSupported(path.Child("manualSelector"), s.ManualSelector, []string{"nil", "false"}))
	}
	return errs
}

func cronJobColumns() []resource.Column[*batchv1.CronJob] {
	type cronJob = *batchv1.CronJob
	spec := func(c cronJob) *v1.PodSpec { return &c.Spec.JobTemplate.Spec.Template.Spec }
	return []resource.Column[cronJob]{
		resource.NameColumn[cronJob](),
		table.Text("Schedule", table.Doc(batchv1.CronJobSpec{}, "schedule"), func(c cronJob) string { return c.Spec.Schedule }),
		table.Text("Timezone", table.Doc(batchv1.CronJobSpec{}, "timeZone"), func(c cronJob) string {
			if c.Spec.TimeZone == nil {
				return "<none>"
			}
			return *c.Spec.TimeZone
		}),
		suspendColumn(),
		table.Number("Active", table.Doc(batchv1.CronJobStatus{}, "active"), func(c cronJob) int64 { return int64(len(c.Status.Active)) }),
		table.Ago("Last Schedule", table.Doc(batchv1.CronJobStatus{}, "lastScheduleTime"), func(c cronJob) any {
			if c.Status.LastScheduleTime == nil {
				return "<none>"
			}
			return resource.Age(*c.Status.LastScheduleTime)
		}),
		resource.AgeColumn[cronJob](),
		table.Wide(podspec.ContainersColumn(spec)),
		table.Wide(podspec.ImagesColumn(spec)),
		table.Wide(table.Text("Selector", table.Doc(batchv1.JobSpec{}, "selector"), func(c cronJob) string { return table.Selector(c.Spec.JobTemplate.Spec.Selector) })),
	}
}

// suspendColumn says boolean and holds strings, as the API's does.
func suspendColumn() resource.Column[*batchv1.CronJob] {
	c := table.Text("Suspend", table.Doc(batchv1.CronJobSpec{}, "suspend"), func(c *batchv1.CronJob) string {
		if deref(c.Spec.Suspend) {
			return "True"
		}
		return "False"
	})
	c.Type = "boolean"
	return c
}
