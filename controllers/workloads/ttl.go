package workloads

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// TTLAfterFinished deletes jobs, with their pods, when the time they wish to be kept after their end has passed.
// It is woken by the job, and sleeps until then.
func TTLAfterFinished(d Deps) reconcile.Controller {
	jobs := d.Informers.Batch().V1().Jobs()
	return reconcile.Controller{
		Name:    "TTLAfterFinished",
		Workers: d.Workers,
		Watch:   []reconcile.Source{reconcile.Self(jobs.Informer())},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			cached, err := jobs.Lister().Jobs(key.Namespace).Get(key.Name)
			if err != nil {
				return 0, reconcile.IgnoreNotFound(err)
			}
			if left, expires := timeToLive(cached, time.Now()); !expires || left > 0 {
				return left, nil
			}
			// The cache may not know yet that the wish has changed.
			job, err := d.Client.BatchV1().Jobs(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
			if err != nil {
				return 0, reconcile.IgnoreNotFound(err)
			}
			if left, expires := timeToLive(job, time.Now()); !expires || left > 0 {
				return left, nil
			}
			foreground := metav1.DeletePropagationForeground
			err = d.Client.BatchV1().Jobs(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{
				PropagationPolicy: &foreground,
				Preconditions:     metav1.NewUIDPreconditions(string(job.UID)),
			})
			if err != nil && !apierrors.IsNotFound(err) {
				return 0, fmt.Errorf("delete expired job: %w", err)
			}
			return 0, nil
		},
	}
}

// timeToLive tells whether a job expires, and in how long.
func timeToLive(job *batchv1.Job, now time.Time) (left time.Duration, expires bool) {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return 0, false
	}
	c := finalCondition(job)
	if c == nil {
		return 0, false
	}
	end := c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second)
	return max(end.Sub(now), 0), true
}
