package workloads

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// JobOrphans takes the tracking finalizer off pods that nobody will count any more, because their job is gone or
// has ended, or because they were released: without it they could never be deleted. It is woken by such a pod
// and by the end of a job.
func JobOrphans(d Deps) (reconcile.Controller, error) {
	jobs := d.Informers.Batch().V1().Jobs()
	pods := d.Informers.Core().V1().Pods()
	index, err := indexByOwner(pods.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	o := &jobOrphans{d.Client, jobs.Lister(), pods.Lister(), index}
	return reconcile.Controller{
		Name:    "JobOrphans",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(jobs.Informer(), o.jobEnded),
			reconcile.On(pods.Informer(), func(_, pod *corev1.Pod) []reconcile.Key {
				if pod == nil || !tracked(pod) || o.hasJob(pod) {
					return nil
				}
				return []reconcile.Key{reconcile.KeyOf(pod)}
			}),
		},
		Sync: o.sync,
	}, nil
}

type jobOrphans struct {
	client   kubernetes.Interface
	jobs     batchlisters.JobLister
	pods     corelisters.PodLister
	podIndex cache.Indexer
}

func (o *jobOrphans) jobEnded(old, job *batchv1.Job) []reconcile.Key {
	if job != nil && !jobFinished(job) {
		return nil
	}
	if job == nil {
		job = old
	}
	pods, err := controlled[*corev1.Pod](o.podIndex, job.UID)
	if err != nil {
		return nil
	}
	var keys []reconcile.Key
	for _, pod := range pods {
		if tracked(pod) {
			keys = append(keys, reconcile.KeyOf(pod))
		}
	}
	return keys
}

// hasJob tells whether somebody will count a pod. A controller of another kind may use the finalizer for its own
// purposes.
func (o *jobOrphans) hasJob(pod *corev1.Pod) bool {
	if metav1.GetControllerOfNoCopy(pod) == nil {
		return false
	}
	ref := controllerOf(pod, jobKind)
	if ref == nil {
		return true
	}
	job, err := o.jobs.Jobs(pod.Namespace).Get(ref.Name)
	if err != nil || job.UID != ref.UID {
		return !apierrors.IsNotFound(err) && err != nil
	}
	return managedElsewhere(job) || !jobFinished(job)
}

func (o *jobOrphans) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	pod, err := o.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && o.hasJob(pod) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if err := releasePod(ctx, o.client, pod); err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	return 0, nil
}
