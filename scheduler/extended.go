package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// makeExtendedClaim makes the claim for the extended resources of a pod, if it needs one. Until the informer has it,
// the ledger counts what was found for it; so it returns only then.
func (s *Scheduler) makeExtendedClaim(ctx context.Context, pod *plugin.Pod, devices *foundDevices) error {
	if devices.extended == nil {
		return nil
	}
	wanted := devices.extended.Claim.DeepCopy()
	wanted.UID = ""
	made, err := s.client.ResourceV1().ResourceClaims(pod.Namespace).Create(ctx, wanted, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create claim for extended resources %s/%s: %w", pod.Namespace, wanted.GenerateName, err)
	}
	s.devices.made(devices.extended.Claim.UID, made.UID)
	devices.made, devices.claims = made, append(slices.Clip(devices.claims), made)
	ctx, cancel := context.WithTimeout(ctx, plugin.BindingTimeout)
	defer cancel()
	for {
		next := s.devices.next()
		if _, err := s.devices.claim(made.Namespace, made.Name); err == nil {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("wait for claim %s/%s: %w", made.Namespace, made.Name, ctx.Err())
		}
	}
}

// nameExtendedClaim tells the kubelet which claim has the devices for the extended resources of a pod.
func (s *Scheduler) nameExtendedClaim(ctx context.Context, pod *plugin.Pod, devices *foundDevices) error {
	if devices.made == nil {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{
		"extendedResourceClaimStatus": corev1.PodExtendedResourceClaimStatus{RequestMappings: devices.extended.Mappings, ResourceClaimName: devices.made.Name},
	}})
	if err != nil {
		return err
	}
	if _, err := s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("update pod %s/%s ExtendedResourceClaimStatus: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// deleteExtendedClaim deletes a claim that the scheduler made. Nobody but its pod can have used it.
func (s *Scheduler) deleteExtendedClaim(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	client, uid := s.client.ResourceV1().ResourceClaims(claim.Namespace), claim.UID
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		now, err := client.Get(ctx, claim.Name, metav1.GetOptions{})
		if err != nil || now.UID != uid || !slices.Contains(now.Finalizers, resourcev1.Finalizer) {
			return err
		}
		now.Finalizers = slices.DeleteFunc(now.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		_, err = client.Update(ctx, now, metav1.UpdateOptions{})
		return err
	})
	if err == nil {
		err = client.Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(uid))})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete resourceclaim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}
