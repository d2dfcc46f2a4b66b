// Package backup is a small controller, written as one is with client-go, and an example of how skifftest tests one: for
// each Backup it keeps a CronJob, and tells in the Backup's status when that succeeded last.
package backup

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// workers is how many Backups are looked at at once.
const workers = 2

// controller has the caches and clients of Run.
type controller struct {
	api     kubernetes.Interface
	dynamic dynamic.Interface
	backups cache.GenericLister
	crons   batchlisters.CronJobLister
	queue   workqueue.TypedRateLimitingInterface[cache.ObjectName]
}

// Run keeps a CronJob for each Backup until ctx ends.
func Run(ctx context.Context, config *rest.Config) error {
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	typed, custom := informers.NewSharedInformerFactory(api, 0), dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	crons, backups := typed.Batch().V1().CronJobs(), custom.ForResource(Resource)
	c := &controller{
		api: api, dynamic: client, backups: backups.Lister(), crons: crons.Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]()),
	}
	if err := c.watch(backups.Informer(), cache.MetaObjectToName); err != nil {
		return err
	}
	if err := c.watch(crons.Informer(), ownerOf); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	typed.StartWithContext(ctx)
	custom.Start(ctx.Done())
	defer running.Wait()
	defer typed.Shutdown()
	defer custom.Shutdown()
	defer c.queue.ShutDown()
	defer cancel()
	if !cache.WaitFor(ctx, "", backups.Informer().HasSyncedChecker(), crons.Informer().HasSyncedChecker()) {
		return nil
	}
	for range workers {
		running.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	return nil
}

// watch has an informer put the names of Backups into the queue.
func (c *controller) watch(informer cache.SharedIndexInformer, name func(metav1.Object) cache.ObjectName) error {
	wake := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if key := name(obj.(metav1.Object)); key.Name != "" {
			c.queue.Add(key)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: wake, UpdateFunc: func(_, obj any) { wake(obj) }, DeleteFunc: wake,
	})
	return err
}

// ownerOf is the Backup an object is kept for; none if it has no name.
func ownerOf(obj metav1.Object) cache.ObjectName {
	owner := metav1.GetControllerOf(obj)
	if owner == nil || owner.Kind != "Backup" {
		return cache.ObjectName{}
	}
	return cache.NewObjectName(obj.GetNamespace(), owner.Name)
}

// next looks at the next Backup of the queue; it is false when there will be none.
func (c *controller) next(ctx context.Context) bool {
	key, end := c.queue.Get()
	if end {
		return false
	}
	defer c.queue.Done(key)
	switch err := c.reconcile(ctx, key); {
	case err == nil:
		c.queue.Forget(key)
	case ctx.Err() == nil:
		if !apierrors.IsConflict(err) {
			slog.WarnContext(ctx, "backup", "name", key, "error", err)
		}
		c.queue.AddRateLimited(key)
	}
	return true
}

// reconcile brings what there is closer to what a Backup wants. What is owned by one that is gone is collected by the
// cluster.
func (c *controller) reconcile(ctx context.Context, key cache.ObjectName) error {
	obj, err := c.backups.ByNamespace(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := parse(obj.(*unstructured.Unstructured))
	if err != nil || b.DeletionTimestamp != nil {
		return err
	}
	cron, err := c.ensure(ctx, b)
	if err != nil {
		return fmt.Errorf("cron job: %w", err)
	}
	if equality.Semantic.DeepEqual(b.Status.LastSuccess, cron.Status.LastSuccessfulTime) {
		return nil
	}
	b.Status.LastSuccess = cron.Status.LastSuccessfulTime
	changed, err := format(b)
	if err != nil {
		return err
	}
	_, err = c.dynamic.Resource(Resource).Namespace(b.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	return err
}

// ensure makes the CronJob of a Backup, or has it do what the Backup says now.
func (c *controller) ensure(ctx context.Context, b *Backup) (*batchv1.CronJob, error) {
	want, crons := cronJob(b), c.api.BatchV1().CronJobs(b.Namespace)
	have, err := c.crons.CronJobs(b.Namespace).Get(want.Name)
	switch {
	case apierrors.IsNotFound(err):
		return crons.Create(ctx, want, metav1.CreateOptions{})
	case err != nil:
		return nil, err
	case !metav1.IsControlledBy(have, b):
		return nil, fmt.Errorf("%s is not of this Backup", have.Name)
	case equality.Semantic.DeepDerivative(want.Spec, have.Spec):
		return have, nil
	}
	have = have.DeepCopy()
	have.Spec = want.Spec
	return crons.Update(ctx, have, metav1.UpdateOptions{})
}

// cronJob is what a Backup wants.
func cronJob(b *Backup) *batchv1.CronJob {
	const dir = "/data"
	pod := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyOnFailure,
		Containers: []corev1.Container{{
			Name: "backup", Image: b.Spec.Image, VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: dir, ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: b.Spec.Claim, ReadOnly: true},
		}}},
	}
	return &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{
			Name: b.Name + "-backup", Namespace: b.Namespace,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(b, Resource.GroupVersion().WithKind("Backup"))},
		},
		Spec: batchv1.CronJobSpec{
			Schedule: b.Spec.Schedule, ConcurrencyPolicy: batchv1.ForbidConcurrent, SuccessfulJobsHistoryLimit: &b.Spec.Keep,
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: pod}}},
		},
	}
}
