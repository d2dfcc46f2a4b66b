package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
	"k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/guard/clientgo"
	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// followDevices watches claims for devices and what they are allocated from. What changes wakes only pods that have
// such claims, and a claim only its own pods, unless it gives devices back.
func (s *Scheduler) followDevices(factory informers.SharedInformerFactory) error {
	claims, all, classes := factory.Resource().V1().ResourceClaims(), factory.Resource().V1().ResourceSlices(), factory.Resource().V1().DeviceClasses()
	s.devices = newLedger(claims.Lister())
	s.state.devices = plugin.Devices{
		Claim: s.devices.claim, Allocating: s.devices.allocating, Allocated: s.devices.allocated,
		Slices:      func() ([]*resourcev1.ResourceSlice, error) { return all.Lister().List(labels.Everything()) },
		Classes:     deviceClasses{classes.Lister()},
		Expressions: plugin.NewExpressions(),
	}
	anything := func() { s.queue.stirThose(time.Now(), s.wantsDevices) }
	whatever := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { anything() },
		UpdateFunc: func(any, any) { anything() },
		DeleteFunc: func(any) { anything() }, // a pool may be whole without it
	}
	if err := s.follow(all.Informer(), whatever); err != nil {
		return err
	}
	extended := extendedresourcecache.NewExtendedResourceCache(klog.Background(), whatever) // which calls whatever when it knows
	s.state.devices.ClassOf, s.state.devices.Extended = extended.GetDeviceClass, s.devices.extended
	if err := s.follow(classes.Informer(), extended); err != nil {
		return err
	}
	return s.follow(claims.Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.claimChanged(nil, obj.(*resourcev1.ResourceClaim)) },
		UpdateFunc: func(old, obj any) { s.claimChanged(old.(*resourcev1.ResourceClaim), obj.(*resourcev1.ResourceClaim)) },
		DeleteFunc: func(obj any) {
			claim, ok := last[*resourcev1.ResourceClaim](obj)
			if ok && (claim.Status.Allocation != nil || claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true") {
				anything() // devices are free, or a pod is free of a claim that was stale
			}
			s.devices.stir()
		},
	})
}

// follow calls handlers of the scheduler's, and makes Run wait for the informer.
func (s *Scheduler) follow(informer cache.SharedIndexInformer, handlers cache.ResourceEventHandler) error {
	registration, err := informer.AddEventHandler(clientgo.Handler("scheduler's events", handlers))
	if err != nil {
		return err
	}
	s.synced = append(s.synced, registration.HasSyncedChecker())
	return nil
}

// deviceClasses lists classes as the allocator asks for them.
type deviceClasses struct {
	resourcelisters.DeviceClassLister
}

func (c deviceClasses) List() ([]*resourcev1.DeviceClass, error) {
	return c.DeviceClassLister.List(labels.Everything())
}

func (s *Scheduler) wantsDevices(pod *plugin.Pod) bool { return s.state.devices.Wanted(pod) }

func (s *Scheduler) claimChanged(old, claim *resourcev1.ResourceClaim) {
	s.devices.stir()
	switch {
	case old != nil && equality.Semantic.DeepEqual(old.Status, claim.Status):
	case old != nil && old.Status.Allocation != nil && claim.Status.Allocation == nil:
		s.queue.stirThose(time.Now(), s.wantsDevices)
	default:
		s.queue.stirThose(time.Now(), func(pod *plugin.Pod) bool { return uses(pod.Pod, claim) })
	}
}

func uses(pod *corev1.Pod, claim *resourcev1.ResourceClaim) bool {
	return pod.Namespace == claim.Namespace && slices.ContainsFunc(pod.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool {
		name, _, err := resourceclaim.Name(pod, &c)
		return err == nil && name != nil && *name == claim.Name
	})
}

// foundDevices is what a pod needs of devices on its node.
type foundDevices struct {
	claims   []*resourcev1.ResourceClaim // all of the pod
	extended *plugin.ExtendedClaim       // nil: it needs none
	made     *resourcev1.ResourceClaim   // of extended; among claims then
}

// findDevices finds devices on node for the claims of pod that have none, and for its extended resources, and keeps
// them from other pods until they are written.
func (s *Scheduler) findDevices(pod *plugin.Pod, snapshot *plugin.Snapshot, node string) (foundDevices, error) {
	if !s.wantsDevices(pod) {
		return foundDevices{}, nil
	}
	claims, why, err := plugin.DeviceClaimsOf(pod, snapshot.Devices)
	if err != nil || why != "" {
		return foundDevices{}, errors.Join(err, errors.New(why))
	}
	found, reason := claims.Allocate(snapshot.Node(node))
	if reason != nil {
		return foundDevices{}, errors.Join(reason.Err, fmt.Errorf("node %s has lost the devices that were found: %q", node, reason.Texts))
	}
	for i, claim := range claims.Open {
		s.devices.find(claim.UID, pod.UID, &found.Open[i])
	}
	if e := found.Extended; e != nil {
		s.devices.find(e.Claim.UID, pod.UID, &e.Allocation)
	}
	return foundDevices{claims: claims.All, extended: found.Extended}, nil
}

// takeDevices writes into the claims of pod what was found for them, and that they are the pod's, the claim for
// extended resources included, which it makes. Then it waits until the devices are ready for node.
func (s *Scheduler) takeDevices(ctx context.Context, pod *plugin.Pod, node string, devices *foundDevices) error {
	if err := s.makeExtendedClaim(ctx, pod, devices); err != nil {
		return err
	}
	for _, claim := range devices.claims {
		if resourceclaim.IsReservedForPod(pod.Pod, claim, false) {
			continue
		}
		if err := s.takeClaim(ctx, pod, claim); err != nil {
			return err
		}
	}
	if err := s.nameExtendedClaim(ctx, pod, devices); err != nil {
		return err
	}
	return s.waitForDevices(ctx, pod, node, devices.claims)
}

// takeClaim writes one claim, anew if it was changed in the meantime.
func (s *Scheduler) takeClaim(ctx context.Context, pod *plugin.Pod, claim *resourcev1.ResourceClaim) error {
	client, key := s.client.ResourceV1().ResourceClaims(claim.Namespace), claim.Namespace+"/"+claim.Name
	allocation := s.devices.finding(claim.UID, pod.UID)
	fresh := true
	return retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		if !fresh {
			if claim, err = client.Get(ctx, claim.Name, metav1.GetOptions{}); err != nil {
				return fmt.Errorf("get updated claim %s after conflict: %w", key, err)
			}
		}
		fresh = false
		switch {
		case claim.DeletionTimestamp != nil:
			return fmt.Errorf("claim %s got deleted in the meantime", key)
		case allocation != nil && claim.Status.Allocation != nil:
			return fmt.Errorf("claim %s got allocated elsewhere in the meantime", key)
		case allocation == nil && claim.Status.Allocation == nil:
			return fmt.Errorf("claim %s got deallocated elsewhere in the meantime", key)
		}
		change := claim.DeepCopy()
		if allocation != nil && !slices.Contains(change.Finalizers, resourcev1.Finalizer) {
			change.Finalizers = append(change.Finalizers, resourcev1.Finalizer)
			if change, err = client.Update(ctx, change, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("add finalizer to claim %s: %w", key, err)
			}
		}
		what := "reservation"
		if allocation != nil {
			what, change.Status.Allocation = "allocation and reservation", allocation.DeepCopy()
		}
		if change.Status.Allocation.AllocationTimestamp == nil {
			now := metav1.Now()
			change.Status.Allocation.AllocationTimestamp = &now
		}
		change.Status.ReservedFor = append(change.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if change, err = client.UpdateStatus(ctx, change, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("add %s to claim %s: %w", what, key, err)
		}
		s.devices.write(change)
		return nil
	})
}

// waitForDevices waits for drivers that make devices ready only for a node that is known.
func (s *Scheduler) waitForDevices(ctx context.Context, pod *plugin.Pod, node string, claims []*resourcev1.ResourceClaim) error {
	ctx, cancel := context.WithTimeout(ctx, plugin.BindingTimeout)
	defer cancel()
	for told := false; ; told = true {
		next, ready := s.devices.next(), true
		for _, claim := range claims {
			now, err := s.devices.claim(claim.Namespace, claim.Name)
			if err == nil {
				err = plugin.DevicesFailed(now, time.Now())
			}
			if err != nil {
				return err
			}
			ready = ready && plugin.DevicesReady(now)
		}
		if ready {
			return nil
		}
		if !told {
			s.recorder.Eventf(pod.Pod, nil, corev1.EventTypeNormal, "BindingConditionsPending", "Scheduling", "waiting for binding conditions for device on node %s", node)
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("device binding timeout: %w", ctx.Err())
		}
	}
}

// giveDevicesBack ends what takeDevices began for a pod that is not bound after all. Claims stay allocated: whoever
// wants them where they are can have them.
func (s *Scheduler) giveDevicesBack(ctx context.Context, pod *plugin.Pod, devices foundDevices) {
	s.devices.drop(pod.UID)
	for _, claim := range devices.claims {
		if claim == devices.made {
			if err := s.deleteExtendedClaim(ctx, claim); err != nil { // the next attempt does it
				s.log.Warn("delete a claim for extended resources", "pod", pod.Namespace+"/"+pod.Name, "claim", claim.Name, "error", err)
			}
			continue
		}
		now, err := s.devices.claim(claim.Namespace, claim.Name)
		if err != nil || now.UID != claim.UID || now.Status.Allocation == nil || !resourceclaim.IsReservedForPod(pod.Pod, now, false) {
			continue
		}
		patch := fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"reservedFor":[{"$patch":"delete","uid":%q}]}}`, claim.UID, pod.UID)
		updated, err := s.client.ResourceV1().ResourceClaims(claim.Namespace).Patch(ctx, claim.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		if err != nil { // the next attempt finds the claim as its own
			s.log.Warn("give a claim back", "pod", pod.Namespace+"/"+pod.Name, "claim", claim.Name, "error", err)
			continue
		}
		s.devices.write(updated)
	}
	s.queue.stirThose(time.Now(), s.wantsDevices)
}

// deallocate takes the devices from one claim of a pod that fits nowhere, if nobody else has the claim and the
// devices are not where the pod could go. It says, as Kubernetes' scheduler does, what it did.
func (s *Scheduler) deallocate(ctx context.Context, pod *plugin.Pod, snapshot *plugin.Snapshot, found choice) (string, error) {
	const nothing = "no new claims to deallocate"
	if !s.wantsDevices(pod) || found.never != "" {
		return nothing, nil
	}
	claims, why, err := plugin.DeviceClaimsOf(pod, snapshot.Devices)
	if err != nil || why != "" || len(claims.All) == 0 && claims.Stale == nil {
		return nothing, err
	}
	if claims.Stale != nil {
		if err := s.deleteExtendedClaim(ctx, claims.Stale); err != nil {
			return "", err
		}
		return "deletion of ResourceClaim completed", nil
	}
	for _, n := range snapshot.Nodes {
		for _, claim := range claims.Unavailable(n) {
			if slices.ContainsFunc(claim.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID != pod.UID }) {
				continue
			}
			change := claim.DeepCopy()
			change.Status = resourcev1.ResourceClaimStatus{}
			updated, err := s.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, change, metav1.UpdateOptions{})
			if err != nil {
				return "", fmt.Errorf("deallocate claim %s/%s: %w", claim.Namespace, claim.Name, err)
			}
			s.devices.write(updated)
			return "deallocation of ResourceClaim completed", nil
		}
	}
	return "still not schedulable", nil
}
