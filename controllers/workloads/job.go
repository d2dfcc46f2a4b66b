package workloads

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

var jobKind = batchv1.SchemeGroupVersion.WithKind("Job")

// Job runs pods until as many have succeeded as each job asks for, or until it has to give up. Every pod is
// counted exactly once: a finalizer holds it until its UID, or its index, is in the job's status (KEP-2307).
// It is woken by the job, by its pods, and by pods it could adopt.
//
// job_view.go works out where a job stands, job_verdict.go whether that is the end, job_account.go what its
// status becomes; job_index.go, job_policy.go and job_backoff.go hold the rules for each.
func Job(d Deps) (reconcile.Controller, error) {
	jobs := d.Informers.Batch().V1().Jobs()
	pods := d.Informers.Core().V1().Pods().Informer()
	index, err := indexByOwner(pods)
	if err != nil {
		return reconcile.Controller{}, err
	}
	events := d.Recorder("job-controller")
	c := &jobLoop{
		client:   d.Client,
		jobs:     jobs.Lister(),
		podIndex: index,
		pods:     podWriter{client: d.Client, events: events, kind: jobKind},
		events:   events,
		expected: reconcile.NewExpectations(),
		released: reconcile.NewExpectations(),
		writes:   reconcile.NewWrites(),
		failures: map[types.UID]failures{},
	}
	orphan := adopters(func(namespace string) ([]*batchv1.Job, error) {
		return jobs.Lister().Jobs(namespace).List(labels.Everything())
	}, func(job *batchv1.Job) *metav1.LabelSelector { return job.Spec.Selector })
	return reconcile.Controller{
		Name:    "Job",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(jobs.Informer()),
			reconcile.On(jobs.Informer(), c.forget),
			reconcile.On(pods, c.finalizerGone),
			childSource[*corev1.Pod](pods, jobKind, c.expected, orphan),
		},
		Sync: c.sync,
	}, nil
}

type jobLoop struct {
	client   kubernetes.Interface
	jobs     batchlisters.JobLister
	podIndex cache.Indexer
	pods     podWriter
	events   record.EventRecorder
	expected *reconcile.Expectations // pods created and deleted
	released *reconcile.Expectations // pods whose finalizer was taken off, as deletions
	writes   *reconcile.Writes

	mu       sync.Mutex
	failures map[types.UID]failures // by job
}

func (c *jobLoop) forget(old, job *batchv1.Job) []reconcile.Key {
	if old == nil || job != nil && job.UID == old.UID && !jobFinished(job) {
		return nil
	}
	c.expected.Forget(old.UID)
	c.released.Forget(old.UID)
	c.writes.Forget(old.UID)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failures, old.UID)
	return nil
}

// finalizerGone notes what the cache shows of finalizers taken off. Its owner is woken by childSource.
func (c *jobLoop) finalizerGone(old, pod *corev1.Pod) []reconcile.Key {
	if old == nil || pod != nil && tracked(pod) {
		return nil
	}
	if ref := controllerOf(old, jobKind); ref != nil {
		c.released.Deleted(ref.UID, old.UID)
	}
	return nil
}

func (c *jobLoop) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	job, err := c.jobs.Jobs(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err) // its pods' finalizers are JobOrphans'
	}
	if managedElsewhere(job) || jobFinished(job) || !c.writes.Seen(job) {
		return 0, nil
	}
	actNow := c.expected.Met(job.UID)
	v, err := c.observe(ctx, job)
	if err != nil {
		return 0, err
	}
	v.judge()
	failed := c.act(ctx, v, actNow)
	if err := c.account(ctx, job, v); err != nil {
		return 0, errors.Join(failed, err)
	}
	if !actNow {
		v.again = sooner(v.again, time.Minute)
	}
	return v.again, failed
}

func (c *jobLoop) observe(ctx context.Context, job *batchv1.Job) (*jobView, error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, err
	}
	candidates, err := family[*corev1.Pod](c.podIndex, job)
	if err != nil {
		return nil, err
	}
	pods, err := take(ctx, claim{
		owner: job, kind: jobKind, selector: selector, patch: c.pods.patch, finalizer: batchv1.JobTrackingFinalizer,
		live: func(ctx context.Context) (metav1.Object, error) {
			return c.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		},
	}, candidates)
	if err != nil {
		return nil, err
	}
	for i, pod := range pods {
		if metav1.GetControllerOfNoCopy(pod) == nil && !tracked(pod) {
			pods[i] = pod.DeepCopy() // adopted just now, with the finalizer
			pods[i].Finalizers = append(pods[i].Finalizers, batchv1.JobTrackingFinalizer)
		}
	}
	c.mu.Lock()
	past := c.failures[job.UID]
	c.mu.Unlock()
	return newJobView(job.DeepCopy(), pods, past, time.Now(), func(pod *corev1.Pod) bool {
		return tracked(pod) && !c.released.Going(job.UID, pod.UID)
	}), nil
}

// act ends a job that was judged, or gives it the pods it needs. A verdict stands only when every active pod was
// told to end; until then it is dropped and found again.
func (c *jobLoop) act(ctx context.Context, v *jobView, actNow bool) error {
	if v.verdict != nil {
		gone, err := c.endAll(ctx, v)
		if !actNow || gone < len(v.active) {
			v.verdict = nil
		}
		return err
	}
	var err error
	if actNow && v.job.DeletionTimestamp == nil {
		err = c.manage(ctx, v)
		v.noteSuspension(func(reason, message string) {
			c.events.Event(v.job, corev1.EventTypeNormal, reason, message)
		})
	}
	v.judgeComplete()
	return err
}

// endAll deletes the active pods and leaves their finalizers, so that they are counted.
func (c *jobLoop) endAll(ctx context.Context, v *jobView) (gone int, err error) {
	errs := make(map[types.UID]error, len(v.active))
	var mu sync.Mutex
	err = allAtOnce(v.active, func(pod *corev1.Pod) error {
		err := c.pods.remove(ctx, v.job, pod)
		if apierrors.IsNotFound(err) {
			err = nil
		}
		mu.Lock()
		defer mu.Unlock()
		errs[pod.UID] = err
		return err
	})
	for _, pod := range v.active {
		if errs[pod.UID] == nil {
			gone++
			v.ended(pod)
		}
	}
	return gone, err
}

// manage deletes pods that are too many and creates those missing.
func (c *jobLoop) manage(ctx context.Context, v *jobView) error {
	if extra := v.planRemoval(); len(extra) > 0 {
		return c.dismiss(ctx, v, extra[:min(len(extra), burst)])
	}
	starts := v.planStarts()
	if len(starts) == 0 {
		return nil
	}
	job := v.job
	c.expected.Creating(job.UID, len(starts))
	done, err := inBatches(len(starts), func(i int) error { return c.pods.create(ctx, job, v.pod(starts[i])) })
	for range len(starts) - done {
		c.expected.Created(job.UID)
	}
	v.activeCount += int32(done)
	if namespaceGoing(err) {
		return nil
	}
	return err
}

// dismiss deletes pods that are not wanted any more. They shall not count as failed, so their finalizer goes
// first.
func (c *jobLoop) dismiss(ctx context.Context, v *jobView, pods []*corev1.Pod) error {
	for _, pod := range pods {
		c.expected.Deleting(v.job.UID, pod.UID)
		c.released.Deleting(v.job.UID, pod.UID)
	}
	var mu sync.Mutex
	return allAtOnce(pods, func(pod *corev1.Pod) error {
		err := releasePod(ctx, c.client, pod)
		if err == nil {
			err = c.pods.remove(ctx, v.job, pod)
		}
		if err != nil {
			c.expected.Deleted(v.job.UID, pod.UID)
			c.released.Deleted(v.job.UID, pod.UID)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		v.ended(pod)
		return nil
	})
}

// account writes newly ended pods into the status, lets them go, and then moves them from the list of uncounted
// pods into the counters. In this order a crash at any point neither loses nor repeats one.
func (c *jobLoop) account(ctx context.Context, cached *batchv1.Job, v *jobView) error {
	job := v.job
	release := v.noteEnded()
	verdict := v.noteVerdict()
	if err := c.write(ctx, cached, job); err != nil {
		return err
	}
	c.mu.Lock()
	c.failures[job.UID] = v.failures
	c.mu.Unlock()

	releaseErr := c.release(ctx, v, release)
	before := job.DeepCopy()
	v.settle()
	finished := releaseErr == nil && !v.truncated && v.conclude(verdict)
	if err := c.write(ctx, before, job); err != nil {
		return errors.Join(releaseErr, err)
	}
	if finished {
		c.announce(job, verdict)
	}
	return releaseErr
}

// release takes the finalizer off pods that are in the status now.
func (c *jobLoop) release(ctx context.Context, v *jobView, pods []*corev1.Pod) error {
	for _, pod := range pods {
		c.released.Deleting(v.job.UID, pod.UID)
	}
	var mu sync.Mutex
	return allAtOnce(pods, func(pod *corev1.Pod) error {
		err := releasePod(ctx, c.client, pod)
		if err != nil {
			c.released.Deleted(v.job.UID, pod.UID)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("release pod %s: %w", pod.Name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		delete(v.held, pod.UID)
		return nil
	})
}

// write stores the status if it differs, and lets job carry the version written.
func (c *jobLoop) write(ctx context.Context, before, job *batchv1.Job) error {
	if equality.Semantic.DeepEqual(before.Status, job.Status) {
		return nil
	}
	written, err := c.client.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, job, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	c.writes.Note(written)
	*job = *written
	if job.Status.UncountedTerminatedPods == nil {
		job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	return nil
}

func (c *jobLoop) announce(job *batchv1.Job, verdict *batchv1.JobCondition) {
	if verdict.Type != batchv1.JobComplete {
		c.events.Event(job, corev1.EventTypeWarning, verdict.Reason, verdict.Message)
		return
	}
	if job.Spec.Completions != nil && job.Status.Succeeded > *job.Spec.Completions {
		c.events.Event(job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	c.events.Event(job, corev1.EventTypeNormal, "Completed", "Job completed")
}

// tracked tells whether a pod still waits to be counted.
func tracked(pod *corev1.Pod) bool {
	for _, f := range pod.Finalizers {
		if f == batchv1.JobTrackingFinalizer {
			return true
		}
	}
	return false
}

// releasePod takes the tracking finalizer off a pod. NotFound is returned as it is.
func releasePod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	if !tracked(pod) {
		return nil
	}
	patch := patchOf(map[string]any{"$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer}})
	_, err := client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// managedElsewhere tells whether another controller than this was named to run a job (KEP-4368).
func managedElsewhere(job *batchv1.Job) bool {
	return job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName
}

// jobFinished tells whether a job has ended, well or not.
func jobFinished(job *batchv1.Job) bool { return finalCondition(job) != nil }

// finalCondition is how a job ended, nil if it has not.
func finalCondition(job *batchv1.Job) *batchv1.JobCondition {
	for i, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}
