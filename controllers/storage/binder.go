package storage

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Binder binds claims to volumes. A claim gets the volume that it names or that names it, else the smallest there
// is that offers what it asks for. If there is none, the provisioner of its class is asked to make one. Claims
// whose class waits for a pod are left to the scheduler, which then names the claim in a volume, or a node in the
// claim. A volume whose claim is gone is released: nobody gets it again before an administrator, or its
// provisioner, has dealt with what is on it.
//
// It is woken by claims, volumes and classes, and works on one at a time, so that no volume is given twice.
func Binder(d Deps) reconcile.Controller {
	claims := d.Informers.Core().V1().PersistentVolumeClaims()
	volumes := d.Informers.Core().V1().PersistentVolumes()
	classes := d.Informers.Storage().V1().StorageClasses()
	b := &binder{
		client: d.Client, claims: claims.Lister(), volumes: volumes.Lister(), classes: classes.Lister(),
		events: d.Recorder("persistentvolume-controller"),
	}
	return reconcile.Controller{
		Name: "VolumeBinder",
		Watch: []reconcile.Source{
			reconcile.On(claims.Informer(), b.claimChanged),
			reconcile.On(volumes.Informer(), b.volumeChanged),
			reconcile.On(classes.Informer(), b.classChanged),
		},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			if key.Namespace == "" {
				return 0, b.syncVolume(ctx, key.Name)
			}
			return 0, b.syncClaim(ctx, key)
		},
	}
}

type binder struct {
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	events  record.EventRecorder
}

// claimChanged names a claim, and the volume it is bound to, or was. Of one that has just got a volume it names the others
// that name it: they are given back.
func (b *binder) claimChanged(old, claim *corev1.PersistentVolumeClaim) []reconcile.Key {
	var keys []reconcile.Key
	last := claim
	if claim == nil {
		last = old
	} else {
		keys = append(keys, reconcile.KeyOf(claim))
	}
	if last.Spec.VolumeName == "" {
		return keys
	}
	keys = append(keys, reconcile.Key{Name: last.Spec.VolumeName})
	if claim == nil || old != nil && old.Spec.VolumeName == claim.Spec.VolumeName {
		return keys
	}
	volumes, _ := b.volumes.List(labels.Everything()) // a lister over a cache has no errors
	for _, pv := range volumes {
		if pv.Name != claim.Spec.VolumeName && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == claim.UID {
			keys = append(keys, reconcile.KeyOf(pv))
		}
	}
	return keys
}

// volumeChanged names a volume, its claim, and the claims that may want it: those that name it, and, if it has
// become free or another one, those that it would suit. Its status and its end make no claim bindable.
func (b *binder) volumeChanged(old, pv *corev1.PersistentVolume) []reconcile.Key {
	var keys []reconcile.Key
	last := pv
	if pv == nil {
		last = old
	} else {
		keys = append(keys, reconcile.KeyOf(pv))
	}
	if ref := last.Spec.ClaimRef; ref != nil {
		keys = append(keys, reconcile.Key{Namespace: ref.Namespace, Name: ref.Name})
	}
	changed := old == nil || pv != nil && (!equality.Semantic.DeepEqual(old.Spec, pv.Spec) || old.Status.Phase != pv.Status.Phase ||
		!maps.Equal(old.Labels, pv.Labels) || !maps.Equal(old.Annotations, pv.Annotations))
	return append(keys, b.unbound(func(claim *corev1.PersistentVolumeClaim) bool {
		if claim.Spec.VolumeName != "" {
			return claim.Spec.VolumeName == last.Name
		}
		return changed && suits(claim, pv)
	})...)
}

// suits tells whether a volume is free and offers what a claim asks for.
func suits(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) bool {
	found, err := volume.FindMatchingVolume(claim, volumesFor(claim, []*corev1.PersistentVolume{pv}), nil, nil, false, true)
	return err != nil || found != nil // an error is for the claim's own turn to tell
}

// classChanged names the claims that wait for a volume of a class.
func (b *binder) classChanged(old, class *storagev1.StorageClass) []reconcile.Key {
	if class == nil {
		class = old
	}
	return b.unbound(func(claim *corev1.PersistentVolumeClaim) bool {
		return volume.GetPersistentVolumeClaimClass(claim) == class.Name
	})
}

// unbound names the claims that are not bound and for which something holds.
func (b *binder) unbound(holds func(*corev1.PersistentVolumeClaim) bool) []reconcile.Key {
	claims, err := b.claims.List(labels.Everything())
	if err != nil {
		return nil
	}
	var keys []reconcile.Key
	for _, claim := range claims {
		if claim.Status.Phase != corev1.ClaimBound && holds(claim) {
			keys = append(keys, reconcile.KeyOf(claim))
		}
	}
	return keys
}

// syncVolume keeps the phase of a volume.
func (b *binder) syncVolume(ctx context.Context, name string) error {
	pv, err := b.volumes.Get(name)
	if err != nil {
		return reconcile.IgnoreNotFound(err)
	}
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return b.setVolumePhase(ctx, pv, corev1.VolumeAvailable)
	}
	claim, err := b.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID {
		// The cache may not know the claim yet; a volume that was released is lost to it.
		claim, err = b.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID:
		if pv.Status.Phase == corev1.VolumeFailed {
			return nil // its provisioner said so
		}
		return b.setVolumePhase(ctx, pv, corev1.VolumeReleased)
	case err != nil:
		return err
	case claim.Spec.VolumeName == pv.Name:
		return b.setVolumePhase(ctx, pv, corev1.VolumeBound)
	case claim.Spec.VolumeName != "" && metav1.HasAnnotation(pv.ObjectMeta, volume.AnnBoundByController):
		return b.unbind(ctx, pv) // the claim got another meanwhile
	}
	return nil // the claim's turn
}

// unbind gives a volume back that was bound to a claim which did not take it.
func (b *binder) unbind(ctx context.Context, pv *corev1.PersistentVolume) error {
	pv = pv.DeepCopy()
	pv.Spec.ClaimRef = nil
	delete(pv.Annotations, volume.AnnBoundByController)
	_, err := b.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	return reconcile.IgnoreNotFound(err)
}

func (b *binder) setVolumePhase(ctx context.Context, pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase) error {
	if pv.Status.Phase == phase {
		return nil
	}
	pv = pv.DeepCopy()
	pv.Status.Phase, pv.Status.Message, pv.Status.Reason = phase, "", ""
	_, err := b.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, pv, metav1.UpdateOptions{})
	if reconcile.IgnoreNotFound(err) != nil {
		return fmt.Errorf("say that volume %s is %s: %w", pv.Name, phase, err)
	}
	return nil
}

func (b *binder) syncClaim(ctx context.Context, key reconcile.Key) error {
	claim, err := b.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if err != nil {
		return reconcile.IgnoreNotFound(err)
	}
	switch {
	case metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted):
		return b.keepBound(ctx, claim)
	case claim.Spec.VolumeName != "":
		return b.bindWanted(ctx, claim)
	case claim.DeletionTimestamp != nil:
		return nil
	}
	return b.bindFitting(ctx, claim)
}

// keepBound checks that a claim that was bound still has its volume.
func (b *binder) keepBound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName == "" {
		return b.lose(ctx, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	pv, err := b.volumes.Get(claim.Spec.VolumeName)
	switch {
	case apierrors.IsNotFound(err):
		return b.lose(ctx, claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case err != nil:
		return err
	case pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == claim.UID:
		return b.bind(ctx, claim, pv)
	}
	return b.lose(ctx, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

// lose says that a claim is of no more use.
func (b *binder) lose(ctx context.Context, claim *corev1.PersistentVolumeClaim, reason, message string) error {
	if claim.Status.Phase == corev1.ClaimLost {
		return nil
	}
	b.events.Event(claim, corev1.EventTypeWarning, reason, message)
	return b.setClaimStatus(ctx, claim, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost})
}

// bindWanted binds a claim to the volume that its maker named.
func (b *binder) bindWanted(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	pv, err := b.volumes.Get(claim.Spec.VolumeName)
	switch {
	case apierrors.IsNotFound(err):
		return b.pend(ctx, claim) // it may come yet
	case err != nil:
		return err
	case pv.Spec.ClaimRef != nil && !volume.IsVolumeBoundToClaim(pv, claim):
		b.events.Eventf(claim, corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", pv.Name)
		return b.pend(ctx, claim)
	}
	if why := mismatch(claim, pv); why != "" {
		b.events.Eventf(claim, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", pv.Name, why)
		return b.pend(ctx, claim)
	}
	return b.bind(ctx, claim, pv)
}

// mismatch says why a volume is not what a claim asks for, or nothing.
func mismatch(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) string {
	size := pv.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case size.Cmp(claim.Spec.Resources.Requests[corev1.ResourceStorage]) < 0:
		return "requested PV is too small"
	case volume.GetPersistentVolumeClass(pv) != volume.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case volume.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec):
		return "incompatible volumeMode"
	case !volume.CheckAccessModes(claim, pv):
		return "incompatible accessMode"
	}
	return ""
}

// bindFitting binds a claim to a volume that offers what it asks for, or sees to it that there will be one.
func (b *binder) bindFitting(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	volumes, err := b.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	class, err := classOf(ctx, b.client, b.classes, claim)
	if reconcile.IgnoreNotFound(err) != nil {
		return err
	}
	waits := err == nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	pv, findErr := volume.FindMatchingVolume(claim, volumesFor(claim, volumes), nil, nil, waits, true)
	switch {
	case findErr != nil:
		return findErr
	case pv != nil:
		return b.bind(ctx, claim, pv)
	}
	switch {
	case waits && !metav1.HasAnnotation(claim.ObjectMeta, volume.AnnSelectedNode):
		b.events.Event(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case err == nil && class.Provisioner != volume.NotSupportedProvisioner:
		if claim, err = b.askProvisioner(ctx, claim, class.Provisioner); err != nil {
			return err
		}
	case volume.GetPersistentVolumeClaimClass(claim) == "":
		b.events.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case err != nil:
		b.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", err.Error())
	}
	return b.pend(ctx, claim)
}

// classOf returns the class that a claim names. A claim is often made right after its class, and a cache may hear of the class
// last: a claim that should wait for its pod would be bound at once. So the server is asked before a class is missing.
func classOf(ctx context.Context, client kubernetes.Interface, cached storagelisters.StorageClassLister, claim *corev1.PersistentVolumeClaim) (*storagev1.StorageClass, error) {
	name := volume.GetPersistentVolumeClaimClass(claim)
	class, err := cached.Get(name)
	if name == "" || !apierrors.IsNotFound(err) {
		return class, err
	}
	return client.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{})
}

// volumesFor are the volumes that have all the ways of access a claim asks for, or that name it.
func volumesFor(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume) []*corev1.PersistentVolume {
	var fitting []*corev1.PersistentVolume
	for _, pv := range volumes {
		if volume.CheckAccessModes(claim, pv) || volume.IsVolumeBoundToClaim(pv, claim) {
			fitting = append(fitting, pv)
		}
	}
	return fitting
}

// askProvisioner tells a provisioner that it is its turn: it watches claims with this annotation.
func (b *binder) askProvisioner(ctx context.Context, claim *corev1.PersistentVolumeClaim, name string) (*corev1.PersistentVolumeClaim, error) {
	b.events.Eventf(claim, corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' "+
		"or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", name)
	if claim.Annotations[volume.AnnStorageProvisioner] == name {
		return claim, nil
	}
	claim = claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnStorageProvisioner, name)
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBetaStorageProvisioner, name)
	updated, err := b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask provisioner %s for a volume: %w", name, err)
	}
	return updated, nil
}

func (b *binder) pend(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	return b.setClaimStatus(ctx, claim, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending})
}

// bind makes volume and claim each other's, in an order in which a crash at any point leaves it to be continued:
// who is named in the volume has it.
func (b *binder) bind(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	bound, changed, err := volume.GetBindVolumeToClaim(pv, claim)
	if err != nil {
		return err
	}
	if changed {
		if bound, err = b.client.CoreV1().PersistentVolumes().Update(ctx, bound, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind volume %s to claim %s: %w", pv.Name, claim.Name, err)
		}
	}
	if err := b.setVolumePhase(ctx, bound, corev1.VolumeBound); err != nil {
		return err
	}
	if updated := claim.DeepCopy(); nameVolume(updated, pv.Name) {
		if claim, err = b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind claim %s to volume %s: %w", updated.Name, pv.Name, err)
		}
	}
	status := *claim.Status.DeepCopy()
	status.Phase, status.AccessModes = corev1.ClaimBound, pv.Spec.AccessModes
	if claim.Status.Phase != corev1.ClaimBound { // later it is for who resizes volumes
		status.Capacity = pv.Spec.Capacity
		status.CurrentVolumeAttributesClassName = pv.Spec.VolumeAttributesClassName
	}
	return b.setClaimStatus(ctx, claim, status)
}

// nameVolume writes the volume into a claim, and tells whether that was news.
func nameVolume(claim *corev1.PersistentVolumeClaim, name string) bool {
	if claim.Spec.VolumeName == name && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
		return false
	}
	if claim.Spec.VolumeName != name {
		claim.Spec.VolumeName = name
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBindCompleted, "yes")
	return true
}

func (b *binder) setClaimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, status corev1.PersistentVolumeClaimStatus) error {
	status.Conditions = claim.Status.Conditions
	if equality.Semantic.DeepEqual(claim.Status, status) {
		return nil
	}
	claim = claim.DeepCopy()
	claim.Status = status
	_, err := b.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	if reconcile.IgnoreNotFound(err) != nil {
		return fmt.Errorf("say that claim %s is %s: %w", claim.Name, status.Phase, err)
	}
	return nil
}
