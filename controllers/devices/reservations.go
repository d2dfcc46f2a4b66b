package devices

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Reservations ends the reservation of a claim for pods that are over. A claim that nobody uses any more gives its
// devices back, may be deleted then, and is deleted if it was made for a pod. It is woken by the claim, and by the
// end of a pod.
func Reservations(d Deps) reconcile.Controller {
	pods, claims := d.Informers.Core().V1().Pods(), d.Informers.Resource().V1().ResourceClaims()
	r := &reservations{d.Client, pods.Lister(), claims.Lister()}
	return reconcile.Controller{
		Name:    "DeviceReservations",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(claims.Informer(), func(_, claim *resourcev1.ResourceClaim) []reconcile.Key {
				if claim == nil {
					return nil
				}
				return []reconcile.Key{reconcile.KeyOf(claim)}
			}),
			reconcile.On(pods.Informer(), func(old, pod *corev1.Pod) []reconcile.Key {
				switch {
				case pod == nil:
					return claimsOf(old)
				case !done(pod):
					return nil
				}
				return claimsOf(pod)
			}),
			reconcile.Synced(pods.Informer()),
		},
		Sync: r.sync,
	}
}

type reservations struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
	claims resourcelisters.ResourceClaimLister
}

func (r *reservations) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	claim, err := r.claims.ResourceClaims(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	remaining, err := r.remaining(ctx, claim)
	if err != nil {
		return 0, named(claim, err)
	}
	claim, err = r.release(ctx, claim, remaining)
	if err != nil || len(remaining) > 0 {
		return 0, named(claim, reconcile.IgnoreNotFound(err))
	}
	return 0, named(claim, r.collect(ctx, claim))
}

// remaining are the consumers of a claim that still are, or that are none of ours to judge.
func (r *reservations) remaining(ctx context.Context, claim *resourcev1.ResourceClaim) ([]resourcev1.ResourceClaimConsumerReference, error) {
	var remaining []resourcev1.ResourceClaimConsumerReference
	for _, consumer := range claim.Status.ReservedFor {
		if consumer.APIGroup == "" && consumer.Resource == "pods" {
			used, err := r.uses(ctx, claim.Namespace, consumer)
			if err != nil {
				return nil, err
			}
			if !used {
				continue
			}
		}
		remaining = append(remaining, consumer)
	}
	return remaining, nil
}

// uses reports whether the pod of a consumer still needs its devices. One that the cache does not have is asked
// for: the scheduler may reserve for a pod before the cache has it.
func (r *reservations) uses(ctx context.Context, namespace string, consumer resourcev1.ResourceClaimConsumerReference) (bool, error) {
	pod, err := r.pods.Pods(namespace).Get(consumer.Name)
	if err == nil && pod.UID == consumer.UID {
		return !done(pod), nil
	}
	pod, err = r.client.CoreV1().Pods(namespace).Get(ctx, consumer.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	}
	return pod.UID == consumer.UID && !done(pod), nil
}

// release writes down who still uses a claim. The last one to go takes the allocation along: the next one may need
// it elsewhere. A claim without devices may be deleted. Devices that nobody has used yet stay allocated until the
// claim is deleted.
func (r *reservations) release(ctx context.Context, claim *resourcev1.ResourceClaim, remaining []resourcev1.ResourceClaimConsumerReference) (*resourcev1.ResourceClaim, error) {
	fewer := len(remaining) < len(claim.Status.ReservedFor)
	held := slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	unused := len(remaining) == 0 && held && (fewer || claim.DeletionTimestamp != nil)
	if fewer || unused && claim.Status.Allocation != nil {
		change := claim.DeepCopy()
		change.Status.ReservedFor = remaining
		if unused {
			change.Status.Allocation = nil
		}
		updated, err := r.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, change, metav1.UpdateOptions{})
		if err != nil {
			return claim, err
		}
		claim = updated
	}
	if !unused || !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
		return claim, nil
	}
	change := claim.DeepCopy()
	change.Finalizers = slices.DeleteFunc(change.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
	updated, err := r.client.ResourceV1().ResourceClaims(claim.Namespace).Update(ctx, change, metav1.UpdateOptions{})
	if err != nil {
		return claim, err
	}
	return updated, nil
}

// collect deletes an unused claim that was made for a pod that is over. The pod may stay long after its end. Where
// the pod is gone the garbage collector does it.
func (r *reservations) collect(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	owner := podOf(claim)
	if owner == nil || claim.DeletionTimestamp != nil {
		return nil
	}
	pod, err := r.pods.Pods(claim.Namespace).Get(owner.Name)
	if err != nil || pod.UID == owner.UID && !done(pod) {
		return reconcile.IgnoreNotFound(err)
	}
	return reconcile.IgnoreNotFound(r.client.ResourceV1().ResourceClaims(claim.Namespace).Delete(ctx, claim.Name, metav1.DeleteOptions{
		Preconditions: metav1.NewUIDPreconditions(string(claim.UID)),
	}))
}
