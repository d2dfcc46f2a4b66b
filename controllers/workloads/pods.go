package workloads

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/guard"
)

// object is a workload: something with metadata that events can be about.
type object interface {
	runtime.Object
	metav1.Object
}

// podWriter creates and deletes the pods of one kind of owner and tells of it in events.
type podWriter struct {
	client kubernetes.Interface
	events record.EventRecorder
	kind   schema.GroupVersionKind
}

// podFrom makes a pod from a template, without a name but with the prefix of one.
func podFrom(template *corev1.PodTemplateSpec, owner metav1.Object, kind schema.GroupVersionKind) *corev1.Pod {
	template = template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    podPrefix(owner.GetName()),
			Namespace:       owner.GetNamespace(),
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: template.Spec,
	}
}

// podPrefix is the owner's name and a dash, if that makes a valid prefix.
func podPrefix(owner string) string {
	if prefix := owner + "-"; len(validation.NameIsDNSSubdomain(prefix, true)) == 0 {
		return prefix
	}
	return owner
}

// create makes a pod. An error says why, also in an event on the owner, unless the namespace is going away.
func (w podWriter) create(ctx context.Context, owner object, pod *corev1.Pod) error {
	if len(pod.Labels) == 0 {
		return errors.New("unable to create pods, no labels")
	}
	created, err := w.client.CoreV1().Pods(owner.GetNamespace()).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		if !namespaceGoing(err) {
			w.events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	w.events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", created.Name)
	return nil
}

// remove deletes exactly this pod. NotFound is returned as it is and told to nobody.
func (w podWriter) remove(ctx context.Context, owner object, pod *corev1.Pod) error {
	err := w.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	switch {
	case err == nil:
		w.events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
		return nil
	case apierrors.IsNotFound(err):
		return err
	}
	w.events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	return fmt.Errorf("unable to delete pods: %w", err)
}

// patch applies a strategic merge patch to a pod.
func (w podWriter) patch(ctx context.Context, pod metav1.Object, data []byte) error {
	_, err := w.client.CoreV1().Pods(pod.GetNamespace()).Patch(ctx, pod.GetName(), types.StrategicMergePatchType, data, metav1.PatchOptions{})
	return err
}

// namespaceGoing tells whether a create failed because its namespace is being deleted: then nothing created
// there can succeed, and there is nothing to retry.
func namespaceGoing(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// inBatches calls do for 0..n-1, one call first and then twice as many at once each time, and stops after a
// batch with an error: what fails for one, as over quota, is not tried n times. It returns how many calls
// succeeded and the first error.
func inBatches(n int, do func(i int) error) (done int, err error) {
	next := 0
	for size := 1; next < n && err == nil; size *= 2 {
		size = min(size, n-next)
		var batch guard.Group
		errs := make([]error, size)
		for i := range size {
			batch.Go("controllers' calls", func() { errs[i] = guard.Call("controllers' calls", func() error { return do(next + i) }) })
		}
		batch.Wait()
		for _, e := range errs {
			if e == nil {
				done++
			} else if err == nil {
				err = e
			}
		}
		next += size
	}
	return done, err
}

// allAtOnce calls do for each item, at most 32 at the same time, and joins the errors.
func allAtOnce[T any](items []T, do func(T) error) error {
	errs := make([]error, len(items))
	slots := make(chan struct{}, 32)
	var calls guard.Group
	for i, item := range items {
		slots <- struct{}{}
		calls.Go("controllers' calls", func() {
			defer func() { <-slots }()
			errs[i] = guard.Call("controllers' calls", func() error { return do(item) })
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

// podCondition returns a condition of a pod, or nil.
func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// podReady tells whether a pod is ready, and since when.
func podReady(pod *corev1.Pod) (since time.Time, ready bool) {
	c := podCondition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return time.Time{}, false
	}
	return c.LastTransitionTime.Time, true
}

// podAvailable tells whether a pod has been ready for minReady seconds, and if it is ready but not for so long,
// after which time it will be.
func podAvailable(pod *corev1.Pod, minReady int32, now time.Time) (available bool, in time.Duration) {
	since, ready := podReady(pod)
	switch {
	case !ready:
		return false, 0
	case minReady == 0:
		return true, 0
	case since.IsZero():
		return false, 0
	}
	if wait := since.Add(time.Duration(minReady) * time.Second).Sub(now); wait > 0 {
		return false, wait
	}
	return true, 0
}

// podFinished tells whether all containers of a pod have ended for good.
func podFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// podActive tells whether a pod runs or will, and is not being deleted.
func podActive(pod *corev1.Pod) bool { return !podFinished(pod) && pod.DeletionTimestamp == nil }

// podTerminating tells whether a pod is being deleted and still has containers that may run.
func podTerminating(pod *corev1.Pod) bool { return !podFinished(pod) && pod.DeletionTimestamp != nil }

// sooner returns the smaller of two waiting times, of which 0 means none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
