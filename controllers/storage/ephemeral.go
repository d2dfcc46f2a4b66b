package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// EphemeralClaims makes the claims that pods bring along in their volumes (KEP-1698). A claim is its pod's, and
// goes with it. It is woken by the pod, and when such a claim goes before its pod.
func EphemeralClaims(d Deps) reconcile.Controller {
	pods := d.Informers.Core().V1().Pods()
	claims := d.Informers.Core().V1().PersistentVolumeClaims()
	e := &ephemeralClaims{d.Client, pods.Lister(), claims.Lister(), d.Recorder("ephemeral_volume")}
	return reconcile.Controller{
		Name:    "EphemeralClaims",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(pods.Informer(), func(old, pod *corev1.Pod) []reconcile.Key {
				if old != nil || !bringsClaims(pod) {
					return nil // the volumes of a pod never change
				}
				return []reconcile.Key{reconcile.KeyOf(pod)}
			}),
			reconcile.On(claims.Informer(), func(old, claim *corev1.PersistentVolumeClaim) []reconcile.Key {
				if claim != nil {
					return nil
				}
				if owner := metav1.GetControllerOfNoCopy(old); owner != nil && owner.Kind == "Pod" {
					return []reconcile.Key{{Namespace: old.Namespace, Name: owner.Name}}
				}
				return nil
			}),
		},
		Sync: e.sync,
	}
}

type ephemeralClaims struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
	claims corelisters.PersistentVolumeClaimLister
	events record.EventRecorder
}

func bringsClaims(pod *corev1.Pod) bool {
	for _, volume := range pod.Spec.Volumes {
		if volume.Ephemeral != nil {
			return true
		}
	}
	return false
}

func (e *ephemeralClaims) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	pod, err := e.pods.Pods(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp != nil || finished(pod) {
		return 0, nil
	}
	var errs []error
	for i := range pod.Spec.Volumes {
		if volume := &pod.Spec.Volumes[i]; volume.Ephemeral != nil {
			errs = append(errs, e.ensure(ctx, pod, volume))
		}
	}
	return 0, errors.Join(errs...)
}

// ensure makes the claim of a volume. One that has its name and is somebody else's is left alone: the pod waits.
func (e *ephemeralClaims) ensure(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume) error {
	claim, err := e.claims.PersistentVolumeClaims(pod.Namespace).Get(ephemeral.VolumeClaimName(pod, volume))
	if apierrors.IsNotFound(err) {
		claim, err = e.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Create(ctx, claimFor(pod, volume), metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
	}
	if err == nil {
		err = ephemeral.VolumeIsForPod(pod, claim)
	}
	if err != nil {
		e.events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", volume.Name, err)
		return fmt.Errorf("ephemeral volume %s: %w", volume.Name, err)
	}
	return nil
}

func claimFor(pod *corev1.Pod, volume *corev1.Volume) *corev1.PersistentVolumeClaim {
	template := volume.Ephemeral.VolumeClaimTemplate.DeepCopy()
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: ephemeral.VolumeClaimName(pod, volume), Namespace: pod.Namespace,
			Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec,
	}
}
