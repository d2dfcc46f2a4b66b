// Package storage holds the controllers of claims and volumes.
package storage

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// The finalizers that keep what is in use from being deleted.
const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

// Deps is what the controllers of this package are made of.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  func(component string) record.EventRecorder
	Workers   int
}

// ClaimProtection lets a claim that is being deleted go only when no pod uses it. It is woken by the claim, and by
// the end of a pod.
func ClaimProtection(d Deps) reconcile.Controller {
	claims := d.Informers.Core().V1().PersistentVolumeClaims()
	pods := d.Informers.Core().V1().Pods()
	return reconcile.Controller{
		Name:    "ClaimProtection",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(claims.Informer()),
			reconcile.On(pods.Informer(), func(old, pod *corev1.Pod) []reconcile.Key {
				if old == nil || pod != nil && (finished(old) || !finished(pod)) {
					return nil
				}
				var keys []reconcile.Key
				for _, name := range claimsOf(old) {
					keys = append(keys, reconcile.Key{Namespace: old.Namespace, Name: name})
				}
				return keys
			}),
		},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			claim, err := claims.Lister().PersistentVolumeClaims(key.Namespace).Get(key.Name)
			if err != nil {
				return 0, reconcile.IgnoreNotFound(err)
			}
			finalizers, changed, err := protect(claim, claimFinalizer, func() (bool, error) { return claimUsed(ctx, d.Client, claim) })
			if err != nil || !changed {
				return 0, err
			}
			updated := claim.DeepCopy()
			updated.Finalizers = finalizers
			_, err = d.Client.CoreV1().PersistentVolumeClaims(key.Namespace).Update(ctx, updated, metav1.UpdateOptions{})
			return 0, reconcile.IgnoreNotFound(err)
		},
	}
}

// VolumeProtection lets a volume that is being deleted go only when no claim is bound to it. It is woken by the
// volume.
func VolumeProtection(d Deps) reconcile.Controller {
	volumes := d.Informers.Core().V1().PersistentVolumes()
	return reconcile.Controller{
		Name:    "VolumeProtection",
		Workers: d.Workers,
		Watch:   []reconcile.Source{reconcile.Self(volumes.Informer())},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			volume, err := volumes.Lister().Get(key.Name)
			if err != nil {
				return 0, reconcile.IgnoreNotFound(err)
			}
			finalizers, changed, err := protect(volume, volumeFinalizer, func() (bool, error) { return volume.Status.Phase == corev1.VolumeBound, nil })
			if err != nil || !changed {
				return 0, err
			}
			updated := volume.DeepCopy()
			updated.Finalizers = finalizers
			_, err = d.Client.CoreV1().PersistentVolumes().Update(ctx, updated, metav1.UpdateOptions{})
			return 0, reconcile.IgnoreNotFound(err)
		},
	}
}

// AttributesClassProtection lets a class of volume attributes that is being deleted go only when no claim and no volume
// names it. It is woken by the class, and by claims and volumes that stop naming one.
func AttributesClassProtection(d Deps) reconcile.Controller {
	classes := d.Informers.Storage().V1().VolumeAttributesClasses()
	claims := d.Informers.Core().V1().PersistentVolumeClaims()
	volumes := d.Informers.Core().V1().PersistentVolumes()
	return reconcile.Controller{
		Name:    "AttributesClassProtection",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(classes.Informer()),
			reconcile.On(claims.Informer(), func(old, _ *corev1.PersistentVolumeClaim) []reconcile.Key {
				if old == nil {
					return nil
				}
				return classKeys(classesOfClaim(old))
			}),
			reconcile.On(volumes.Informer(), func(old, _ *corev1.PersistentVolume) []reconcile.Key {
				if old == nil {
					return nil
				}
				return classKeys([]*string{old.Spec.VolumeAttributesClassName})
			}),
		},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			class, err := classes.Lister().Get(key.Name)
			if err != nil {
				return 0, reconcile.IgnoreNotFound(err)
			}
			finalizers, changed, err := protect(class, classFinalizer, func() (bool, error) { return classUsed(ctx, d.Client, class.Name) })
			if err != nil || !changed {
				return 0, err
			}
			updated := class.DeepCopy()
			updated.Finalizers = finalizers
			_, err = d.Client.StorageV1().VolumeAttributesClasses().Update(ctx, updated, metav1.UpdateOptions{})
			return 0, reconcile.IgnoreNotFound(err)
		},
	}
}

func classKeys(names []*string) []reconcile.Key {
	var keys []reconcile.Key
	for _, name := range names {
		if name != nil && *name != "" {
			keys = append(keys, reconcile.Key{Name: *name})
		}
	}
	return keys
}

// classesOfClaim are the classes a claim asks for, has, or is on its way to.
func classesOfClaim(claim *corev1.PersistentVolumeClaim) []*string {
	names := []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName}
	if modify := claim.Status.ModifyVolumeStatus; modify != nil {
		names = append(names, &modify.TargetVolumeAttributesClassName)
	}
	return names
}

// classUsed asks the server, as claimUsed does.
func classUsed(ctx context.Context, client kubernetes.Interface, class string) (bool, error) {
	names := func(name *string) bool { return name != nil && *name == class }
	claims, err := client.CoreV1().PersistentVolumeClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list claims that may use class %s: %w", class, err)
	}
	if slices.ContainsFunc(claims.Items, func(c corev1.PersistentVolumeClaim) bool { return slices.ContainsFunc(classesOfClaim(&c), names) }) {
		return true, nil
	}
	volumes, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list volumes that may use class %s: %w", class, err)
	}
	return slices.ContainsFunc(volumes.Items, func(v corev1.PersistentVolume) bool { return names(v.Spec.VolumeAttributesClassName) }), nil
}

// protect returns the finalizers an object should have: with ours while it lives, without when it is being deleted
// and not in use. It tells whether that differs from those it has.
func protect(obj metav1.Object, finalizer string, used func() (bool, error)) (finalizers []string, changed bool, err error) {
	has := obj.GetFinalizers()
	protected := slices.Contains(has, finalizer)
	if obj.GetDeletionTimestamp() == nil {
		if protected {
			return nil, false, nil
		}
		return append(slices.Clone(has), finalizer), true, nil
	}
	if !protected {
		return nil, false, nil
	}
	if inUse, err := used(); inUse || err != nil {
		return nil, false, err
	}
	return slices.DeleteFunc(slices.Clone(has), func(f string) bool { return f == finalizer }), true, nil
}

// claimUsed asks the server which pods there are: one that the cache does not know yet may just be starting.
func claimUsed(ctx context.Context, client kubernetes.Interface, claim *corev1.PersistentVolumeClaim) (bool, error) {
	pods, err := client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list pods that may use claim %s: %w", claim.Name, err)
	}
	return slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.Spec.NodeName != "" && !finished(&pod) && slices.Contains(claimsOf(&pod), claim.Name)
	}), nil
}

// claimsOf lists the claims that a pod names, also those made for it alone.
func claimsOf(pod *corev1.Pod) []string {
	var names []string
	for _, volume := range pod.Spec.Volumes {
		switch {
		case volume.PersistentVolumeClaim != nil:
			names = append(names, volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			names = append(names, pod.Name+"-"+volume.Name)
		}
	}
	return names
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
