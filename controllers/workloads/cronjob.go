package workloads

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

var cronJobKind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// CronJob creates a Job each time the schedule of a CronJob says so, and deletes old ones. It is woken by the
// CronJob and by its jobs, and sleeps until the next time. schedule.go reads schedules.
func CronJob(d Deps) (reconcile.Controller, error) {
	crons := d.Informers.Batch().V1().CronJobs()
	jobs := d.Informers.Batch().V1().Jobs().Informer()
	index, err := indexByOwner(jobs)
	if err != nil {
		return reconcile.Controller{}, err
	}
	c := &cronJobs{client: d.Client, crons: crons.Lister(), jobIndex: index, writes: reconcile.NewWrites(), events: d.Recorder("cronjob-controller")}
	return reconcile.Controller{
		Name:    "CronJob",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(crons.Informer()),
			reconcile.On(crons.Informer(), func(old, cron *batchv1.CronJob) []reconcile.Key {
				if cron == nil {
					c.writes.Forget(old.UID)
				}
				return nil
			}),
			childSource[*batchv1.Job](jobs, cronJobKind, nil, func(metav1.Object) []reconcile.Key { return nil }),
		},
		Sync: c.sync,
	}, nil
}

type cronJobs struct {
	client   kubernetes.Interface
	crons    batchlisters.CronJobLister
	jobIndex cache.Indexer
	writes   *reconcile.Writes
	events   record.EventRecorder
}

func (c *cronJobs) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	cached, err := c.crons.CronJobs(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	if !c.writes.Seen(cached) {
		return 0, nil
	}
	jobs, err := controlled[*batchv1.Job](c.jobIndex, cached.UID)
	if err != nil {
		return 0, err
	}
	cron := cached.DeepCopy()
	if err := c.follow(ctx, cron, jobs); err != nil {
		return 0, err
	}
	again, failed := c.start(ctx, cron, time.Now())
	failed = errors.Join(failed, c.prune(ctx, cron, jobs))
	return again, errors.Join(failed, c.report(ctx, cached, cron))
}

// follow brings the list of active jobs up to date with the jobs there are.
func (c *cronJobs) follow(ctx context.Context, cron *batchv1.CronJob, jobs []*batchv1.Job) error {
	for _, job := range jobs {
		listed := slices.ContainsFunc(cron.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
		end := endOfJob(job)
		switch {
		case end == "" && !listed:
			c.events.Eventf(cron, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		case end != "" && listed:
			dropActive(cron, job.UID)
			c.events.Eventf(cron, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, end)
		}
		if last := cron.Status.LastSuccessfulTime; end == batchv1.JobComplete && job.Status.CompletionTime != nil && (last == nil || job.Status.CompletionTime.After(last.Time)) {
			cron.Status.LastSuccessfulTime = job.Status.CompletionTime
		}
	}
	for _, ref := range slices.Clone(cron.Status.Active) {
		if slices.ContainsFunc(jobs, func(job *batchv1.Job) bool { return job.UID == ref.UID }) {
			continue
		}
		live, err := c.client.BatchV1().Jobs(cron.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) || err == nil && live.UID != ref.UID:
			c.events.Eventf(cron, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			dropActive(cron, ref.UID)
		case err != nil:
			return err
		}
	}
	return nil
}

// start creates the job that is due, if there is one, and returns when the next will be.
func (c *cronJobs) start(ctx context.Context, cron *batchv1.CronJob, now time.Time) (time.Duration, error) {
	if cron.DeletionTimestamp != nil {
		return 0, nil
	}
	location, problem := zoneOf(cron)
	if problem != nil {
		return 0, c.complain(cron, problem)
	}
	if cron.Spec.Suspend != nil && *cron.Spec.Suspend {
		return 0, nil
	}
	if namesZone(cron) {
		c.events.Eventf(cron, corev1.EventTypeWarning, "UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", cron.Spec.Schedule)
	}
	plan, problem := scheduleOf(cron, location)
	if problem != nil {
		return 0, c.complain(cron, problem)
	}
	due, missed, problem := plan.due(cron, now)
	if problem != nil {
		return 0, c.complain(cron, problem)
	}
	next := plan.next(now)
	if due.IsZero() {
		return next, nil
	}
	if missed > manyMissed {
		c.events.Event(cron, corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if deadline := cron.Spec.StartingDeadlineSeconds; deadline != nil && due.Add(time.Duration(*deadline)*time.Second).Before(now) {
		c.events.Eventf(cron, corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
		return next, nil
	}
	job := jobFor(cron, due, plan.location)
	if done := cron.Status.LastScheduleTime; done != nil && done.Time.Equal(due) || slices.ContainsFunc(cron.Status.Active, func(ref corev1.ObjectReference) bool { return ref.Name == job.Name }) {
		return next, nil
	}
	switch cron.Spec.ConcurrencyPolicy {
	case batchv1.ForbidConcurrent:
		if len(cron.Status.Active) > 0 {
			c.events.Event(cron, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return next, nil
		}
	case batchv1.ReplaceConcurrent:
		for _, ref := range slices.Clone(cron.Status.Active) {
			if err := c.remove(ctx, cron, ref); err != nil {
				return 0, err
			}
		}
	}
	return next, c.create(ctx, cron, job, due)
}

// complain says why a CronJob is not followed. That is no error: no retry makes it valid.
func (c *cronJobs) complain(cron *batchv1.CronJob, problem *scheduleProblem) error {
	c.events.Event(cron, corev1.EventTypeWarning, problem.reason, problem.message)
	return nil
}

func (c *cronJobs) create(ctx context.Context, cron *batchv1.CronJob, job *batchv1.Job, due time.Time) error {
	client := c.client.BatchV1().Jobs(cron.Namespace)
	created, err := client.Create(ctx, job, metav1.CreateOptions{})
	switch {
	case err == nil:
		c.events.Eventf(cron, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", created.Name)
	case namespaceGoing(err):
		return nil
	case apierrors.IsAlreadyExists(err):
		// Ours, from before a crash or a failed write of the status; or a stranger's, and then there is no job.
		if created, err = client.Get(ctx, job.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !metav1.IsControlledBy(created, cron) || endOfJob(created) != "" {
			return nil
		}
	default:
		c.events.Eventf(cron, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create job %s: %w", job.Name, err)
	}
	cron.Status.Active = append(cron.Status.Active, corev1.ObjectReference{
		Kind: "Job", APIVersion: "batch/v1", Namespace: created.Namespace, Name: created.Name,
		UID: created.UID, ResourceVersion: created.ResourceVersion,
	})
	cron.Status.LastScheduleTime = &metav1.Time{Time: due}
	return nil
}

// jobFor makes the job of a time. Its name is the same whoever makes it, so that no time is served twice.
func jobFor(cron *batchv1.CronJob, due time.Time, location *time.Location) *batchv1.Job {
	template := cron.Spec.JobTemplate.DeepCopy()
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name:            fmt.Sprintf("%s-%d", cron.Name, due.Unix()/60),
			Namespace:       cron.Namespace,
			Labels:          template.Labels,
			Annotations:     withLabel(template.Annotations, batchv1.CronJobScheduledTimestampAnnotation, due.In(location).Format(time.RFC3339)),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cron, cronJobKind)},
		},
		Spec: template.Spec,
	}
}

// prune deletes the oldest ended jobs beyond the limits, which succeeded and failed ones have of their own.
func (c *cronJobs) prune(ctx context.Context, cron *batchv1.CronJob, jobs []*batchv1.Job) error {
	var errs []error
	for end, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: cron.Spec.SuccessfulJobsHistoryLimit,
		batchv1.JobFailed:   cron.Spec.FailedJobsHistoryLimit,
	} {
		for _, job := range oldestJobs(jobs, end, limit) {
			errs = append(errs, c.remove(ctx, cron, corev1.ObjectReference{Name: job.Name, UID: job.UID}))
		}
	}
	return errors.Join(errs...)
}

// oldestJobs returns the jobs that ended this way beyond a history limit.
func oldestJobs(jobs []*batchv1.Job, end batchv1.JobConditionType, limit *int32) []*batchv1.Job {
	ended := slices.DeleteFunc(slices.Clone(jobs), func(job *batchv1.Job) bool {
		return endOfJob(job) != end || job.DeletionTimestamp != nil
	})
	slices.SortFunc(ended, func(a, b *batchv1.Job) int {
		started := func(job *batchv1.Job) time.Time {
			if job.Status.StartTime == nil {
				return job.CreationTimestamp.Time
			}
			return job.Status.StartTime.Time
		}
		return started(a).Compare(started(b))
	})
	return ended[:excess(len(ended), limit)]
}

// remove deletes a job with its pods.
func (c *cronJobs) remove(ctx context.Context, cron *batchv1.CronJob, ref corev1.ObjectReference) error {
	background := metav1.DeletePropagationBackground
	err := c.client.BatchV1().Jobs(cron.Namespace).Delete(ctx, ref.Name, metav1.DeleteOptions{
		PropagationPolicy: &background, Preconditions: metav1.NewUIDPreconditions(string(ref.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) {
		c.events.Eventf(cron, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete job %s: %w", ref.Name, err)
	}
	dropActive(cron, ref.UID)
	if err == nil {
		c.events.Eventf(cron, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", ref.Name)
	}
	return nil
}

func (c *cronJobs) report(ctx context.Context, before, after *batchv1.CronJob) error {
	if equality.Semantic.DeepEqual(before.Status, after.Status) {
		return nil
	}
	written, err := c.client.BatchV1().CronJobs(after.Namespace).UpdateStatus(ctx, after, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	c.writes.Note(written)
	return nil
}

// endOfJob is the type of a job's final condition, "" while it has none.
func endOfJob(job *batchv1.Job) batchv1.JobConditionType {
	if c := finalCondition(job); c != nil {
		return c.Type
	}
	return ""
}

func dropActive(cron *batchv1.CronJob, uid types.UID) {
	cron.Status.Active = slices.DeleteFunc(cron.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}
