package workloads

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// claimName is the name of the claim that a template makes for a pod.
func claimName(template, pod string) string { return template + "-" + pod }

// claimsFor makes the claims of a pod, by the name of their volume.
func claimsFor(set *appsv1.StatefulSet, pod string) map[string]*corev1.PersistentVolumeClaim {
	claims := map[string]*corev1.PersistentVolumeClaim{}
	for _, template := range set.Spec.VolumeClaimTemplates {
		claim := template.DeepCopy()
		claim.Name = claimName(template.Name, pod)
		claim.Namespace = set.Namespace
		claim.Labels = maps.Clone(claim.Labels)
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
		claims[template.Name] = claim
	}
	return claims
}

// statefulVolumes are a pod's volumes with those of its claims in the place of any of the same name.
func statefulVolumes(set *appsv1.StatefulSet, pod *corev1.Pod) []corev1.Volume {
	var volumes []corev1.Volume
	for _, template := range set.Spec.VolumeClaimTemplates {
		volumes = append(volumes, corev1.Volume{Name: template.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(template.Name, pod.Name)},
		}})
	}
	for _, volume := range pod.Spec.Volumes {
		if !slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == volume.Name }) {
			volumes = append(volumes, volume)
		}
	}
	return volumes
}

// ensureClaims creates the claims of a pod that are missing.
func (c *statefulSets) ensureClaims(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	var errs []error
	for _, claim := range claimsFor(set, pod.Name) {
		has, err := c.claims.PersistentVolumeClaims(claim.Namespace).Get(claim.Name)
		switch {
		case err == nil && has.DeletionTimestamp != nil:
			errs = append(errs, fmt.Errorf("pvc %s is being deleted", claim.Name))
			continue
		case err == nil:
			continue
		case !apierrors.IsNotFound(err):
			errs = append(errs, err)
			continue
		}
		_, err = c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Create(ctx, claim, metav1.CreateOptions{})
		switch {
		case err == nil:
			c.events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod.Name, set.Name)
		case !apierrors.IsAlreadyExists(err):
			c.events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %s", claim.Name, pod.Name, set.Name, err)
			errs = append(errs, fmt.Errorf("failed to create PVC %s: %w", claim.Name, err))
		}
	}
	return errors.Join(errs...)
}

// claimsFree returns an error while a claim still belongs to a pod that had the same name: it is going to be
// deleted with that.
func (c *statefulSets) claimsFree(set *appsv1.StatefulSet, pod *corev1.Pod) error {
	if retention(set).WhenScaled == appsv1.RetainPersistentVolumeClaimRetentionPolicyType {
		return nil
	}
	for _, claim := range claimsFor(set, pod.Name) {
		has, err := c.claims.PersistentVolumeClaims(claim.Namespace).Get(claim.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, ref := range has.OwnerReferences {
			if ref.Kind == podKind.Kind && ref.APIVersion == "v1" && ref.Name == pod.Name {
				return fmt.Errorf("claim %s is about to go with the pod that had the name %s", has.Name, pod.Name)
			}
		}
	}
	return nil
}

// claimsRight tells whether the claims of a pod that exist have the owners that the retention policy demands.
func (c *statefulSets) claimsRight(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	for _, claim := range claimsFor(set, pod.Name) {
		has, err := c.claims.PersistentVolumeClaims(claim.Namespace).Get(claim.Name)
		if err != nil {
			continue
		}
		if wanted, _ := claimOwners(has.OwnerReferences, set, pod); !equality.Semantic.DeepEqual(wanted, has.OwnerReferences) {
			return false
		}
	}
	return true
}

// fixClaims gives the claims of a pod the owners they should have.
func (c *statefulSets) fixClaims(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	for _, claim := range claimsFor(set, pod.Name) {
		has, err := c.claims.PersistentVolumeClaims(claim.Namespace).Get(claim.Name)
		if apierrors.IsNotFound(err) && retention(set) != keepClaims {
			// Just made: if its pod goes before the cache shows it, it would stay for ever.
			has, err = c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		wanted, conflict := claimOwners(has.OwnerReferences, set, pod)
		if conflict {
			c.events.Eventf(set, corev1.EventTypeWarning, "ConflictingController", "PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", has.Name)
		}
		if equality.Semantic.DeepEqual(wanted, has.OwnerReferences) {
			continue
		}
		updated := has.DeepCopy()
		updated.OwnerReferences = wanted
		if _, err := c.client.CoreV1().PersistentVolumeClaims(has.Namespace).Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", has.Name, err)
		}
	}
	return nil
}

var keepClaims = appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
	WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
	WhenScaled:  appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
}

// retention is the set's policy; without one all claims stay.
func retention(set *appsv1.StatefulSet) appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy {
	if set.Spec.PersistentVolumeClaimRetentionPolicy != nil {
		return *set.Spec.PersistentVolumeClaimRetentionPolicy
	}
	return keepClaims
}

// claimOwners returns the owner references a claim should have (KEP-1847): the set's if the claim is to go with
// the set, the pod's if it is to go because the pod was scaled away. The references of others stay; if one of
// them is a controller, or is to an earlier object of our name, we stay out of it.
func claimOwners(refs []metav1.OwnerReference, set *appsv1.StatefulSet, pod *corev1.Pod) (wanted []metav1.OwnerReference, conflict bool) {
	policy := retention(set)
	remove := appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	if policy.WhenDeleted != remove && policy.WhenScaled != remove {
		return without(refs, set.UID, pod.UID), false
	}
	for _, ref := range refs {
		ours := ref.UID == set.UID || ref.UID == pod.UID
		former := !ours && (ref.Kind == statefulSetKind.Kind && ref.Name == set.Name || ref.Kind == podKind.Kind && ref.Name == pod.Name)
		if former {
			return refs, false
		}
		if !ours && ref.Controller != nil && *ref.Controller {
			return without(refs, set.UID, pod.UID), true
		}
	}
	start := 0
	if set.Spec.Ordinals != nil {
		start = int(set.Spec.Ordinals.Start)
	}
	i := ordinalOf(set, pod) - start
	scaledAway := i < 0 || i >= int(*set.Spec.Replicas)
	wanted = without(refs, set.UID, pod.UID)
	switch {
	case policy.WhenScaled == remove && scaledAway:
		wanted = append(wanted, *metav1.NewControllerRef(pod, podKind))
	case policy.WhenDeleted == remove:
		wanted = append(wanted, *metav1.NewControllerRef(set, statefulSetKind))
	}
	return wanted, false
}
