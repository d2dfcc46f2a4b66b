package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// attempt does what it is about a pod. A pod at which that panics is tried again after a pause, as after any error
// of our own, and takes no room until then; the others are none the worse.
func (s *Scheduler) attempt(ctx context.Context, pod *plugin.Pod, moved int64, step func()) {
	err := guard.Call("scheduler", func() error { step(); return nil })
	if err == nil {
		return
	}
	s.devices.drop(pod.UID)
	if s.state.unassume(pod.UID) {
		s.queue.stir()
	}
	s.broken(ctx, pod, err, moved)
}

// broken tells of an attempt that ended with an error, and has it repeated after a pause.
func (s *Scheduler) broken(ctx context.Context, pod *plugin.Pod, err error, moved int64) {
	s.queue.failed(pod.UID, moved, false, time.Now())
	s.tell(ctx, pod, corev1.PodReasonSchedulerError, err.Error(), "")
}

// place is one cycle: it looks for a node for pod and binds the pod there, or
// says why it stays pending and, if that helps, makes room.
func (s *Scheduler) place(ctx context.Context, pod *plugin.Pod, moved int64) {
	snapshot := s.state.snapshot(pod)
	if _, err := plugin.ClaimsForDevices(pod.Pod, snapshot.Devices); err != nil {
		s.queue.park(pod.UID, moved, time.Now())
		return
	}
	found := choose(pod, snapshot, s.start)
	s.start += found.looked
	switch {
	case found.err != nil:
		s.broken(ctx, pod, found.err, moved)
		return
	case found.node == "":
		s.pending(ctx, pod, snapshot, found, moved)
		return
	}
	if !s.bindClaims(ctx, pod, snapshot, found.node, moved) {
		return
	}
	devices, err := s.findDevices(pod, snapshot, found.node)
	if err != nil {
		s.broken(ctx, pod, fmt.Errorf("running Reserve plugin %q: %w", "DynamicResources", err), moved)
		return
	}
	// The pod counts on its node from now on, so that the next cycle need not
	// wait for the binding.
	s.state.assume(pod, found.node)
	s.bindings.Go("scheduler", func() {
		s.attempt(ctx, pod, moved, func() { s.bindWithDevices(ctx, pod, found.node, devices, moved) })
	})
}

// bindWithDevices binds a pod once its claims have what was found for them.
func (s *Scheduler) bindWithDevices(ctx context.Context, pod *plugin.Pod, node string, devices foundDevices, moved int64) {
	err := s.takeDevices(ctx, pod, node, &devices)
	if err == nil && s.bind(ctx, pod, node, moved) || ctx.Err() != nil {
		return
	}
	s.giveDevicesBack(ctx, pod, devices)
	if err == nil {
		return // bind has told
	}
	if s.state.unassume(pod.UID) {
		s.queue.stir()
	}
	s.broken(ctx, pod, fmt.Errorf("running PreBind plugin %q: %w", "DynamicResources", err), moved)
}

// bindClaims asks for the binding of the claims that waited until it was known
// that pod goes to a node. Until they are bound the pod sleeps: the change of a
// claim wakes it, and then the volume keeps it on the node.
func (s *Scheduler) bindClaims(ctx context.Context, pod *plugin.Pod, snapshot *plugin.Snapshot, node string, moved int64) (bound bool) {
	claims, why := plugin.ClaimsOf(pod, snapshot.Storage)
	bindings, reason := claims.Bindings(snapshot.Node(node), snapshot.Storage)
	if why == "" && reason == nil && len(bindings) == 0 {
		return true
	}
	for _, b := range bindings {
		if err := s.bindClaim(ctx, b, node); err != nil && ctx.Err() == nil {
			s.broken(ctx, pod, fmt.Errorf("running PreBind plugin %q: %w", "VolumeBinding", err), moved)
			return false
		}
	}
	s.queue.failed(pod.UID, moved, true, time.Now())
	return false
}

// bindClaim gives a volume to a claim, or asks the provisioner of the claim's
// class to make one where node is. What was asked for already is not repeated.
func (s *Scheduler) bindClaim(ctx context.Context, b plugin.Binding, node string) error {
	if b.Volume == nil {
		if b.Claim.Annotations[volume.AnnSelectedNode] == node {
			return nil
		}
		claim := b.Claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, node)
		_, err := s.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		return err
	}
	pv, changed, err := volume.GetBindVolumeToClaim(b.Volume, b.Claim)
	if err != nil || !changed {
		return err
	}
	if pv, err = s.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
		return err
	}
	s.given.add(b.Volume, pv)
	return nil
}

// bind binds a pod, or puts it back and tells why.
func (s *Scheduler) bind(ctx context.Context, pod *plugin.Pod, node string, moved int64) (bound bool) {
	err := s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.queue.remove(pod.UID)
		s.recorder.Eventf(pod.Pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return true
	}
	if s.state.unassume(pod.UID) {
		s.queue.stir() // others may use the room it did not take
	}
	if apierrors.IsNotFound(err) || ctx.Err() != nil {
		s.queue.remove(pod.UID)
		return false
	}
	s.log.Warn("bind pod", "pod", pod.Namespace+"/"+pod.Name, "node", node, "error", err)
	s.broken(ctx, pod, fmt.Errorf("running Bind plugin %q: %w", "DefaultBinder", err), moved)
	return false
}

// pending tells why pod could not be placed, in its status and as an event, and
// takes pods of lower priority off a node if that makes room. The cycle does not
// wait for that: until it is done, pod is not tried again.
func (s *Scheduler) pending(ctx context.Context, pod *plugin.Pod, snapshot *plugin.Snapshot, found choice, moved int64) {
	message := found.message()
	var plan *eviction
	if found.total > 0 {
		budgets, err := s.budgets()
		if err != nil {
			s.log.Error("list disruption budgets", "error", err)
			s.queue.failed(pod.UID, moved, false, time.Now())
			return
		}
		devices, err := s.deallocate(ctx, pod, snapshot, found)
		if err != nil {
			s.log.Warn("deallocate", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			s.queue.failed(pod.UID, moved, false, time.Now())
			return
		}
		var why string
		if plan, why = planEviction(pod, snapshot, found, budgets); plan == nil {
			message += " " + devices + ", preemption: " + why
		}
	}
	nominated := ""
	switch {
	case plan != nil:
		nominated = plan.node
	case waitsForVictims(pod, snapshot): // a pod whose victims are still going keeps its claim on the node
		nominated = pod.Status.NominatedNodeName
	}
	s.state.nominate(pod, nominated)
	s.bindings.Go("scheduler", func() {
		s.attempt(ctx, pod, moved, func() { s.makeRoom(ctx, pod, plan, message, nominated, moved) })
	})
}

// makeRoom carries out what was decided about a pod that could not be placed, and puts it back.
func (s *Scheduler) makeRoom(ctx context.Context, pod *plugin.Pod, plan *eviction, message, nominated string, moved int64) {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	if plan != nil {
		if err := s.evict(ctx, pod, plan); err != nil {
			s.log.Warn("make room", "pod", pod.Namespace+"/"+pod.Name, "node", plan.node, "error", err)
			s.state.nominate(pod, "")
			s.queue.failed(pod.UID, moved, false, time.Now())
			return
		}
	}
	s.tell(ctx, pod, corev1.PodReasonUnschedulable, message, nominated)
	s.queue.failed(pod.UID, moved, true, time.Now())
}

// evict carries a plan out.
func (s *Scheduler) evict(ctx context.Context, pod *plugin.Pod, plan *eviction) error {
	for _, victim := range plan.victims {
		if victim.DeletionTimestamp != nil {
			continue
		}
		if err := s.patchCondition(ctx, victim.Pod, corev1.PodCondition{
			Type:    corev1.DisruptionTarget,
			Status:  corev1.ConditionTrue,
			Reason:  corev1.PodReasonPreemptionByScheduler,
			Message: Name + ": preempting to accommodate a higher priority pod",
		}, nil); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		err := s.client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{
			Preconditions: metav1.NewUIDPreconditions(string(victim.UID)),
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
		s.recorder.Eventf(victim.Pod, pod.Pod, corev1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", pod.UID, plan.node)
	}
	return nil
}

// tell says why pod is not placed, in an event and in the PodScheduled condition,
// and writes its nominated node.
func (s *Scheduler) tell(ctx context.Context, pod *plugin.Pod, reason, message, nominated string) {
	s.recorder.Eventf(pod.Pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", shortened(message))
	err := s.patchCondition(ctx, pod.Pod, corev1.PodCondition{
		Type:    corev1.PodScheduled,
		Status:  corev1.ConditionFalse,
		Reason:  reason,
		Message: message,
	}, &nominated)
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.log.Warn("report a pending pod", "pod", pod.Namespace+"/"+pod.Name, "error", err)
	}
}

// shortened is message as far as the note of an event may be long.
func shortened(message string) string {
	const longest, more = 1024, " ..."
	if len(message) <= longest {
		return message
	}
	return message[:longest-len(more)] + more
}

// patchCondition sets one condition of a pod, and its nominated node unless
// that is nil. It writes nothing if the pod says so already.
func (s *Scheduler) patchCondition(ctx context.Context, pod *corev1.Pod, c corev1.PodCondition, nominated *string) error {
	c.ObservedGeneration = pod.Generation
	c.LastTransitionTime = metav1.Now()
	for _, old := range pod.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		same := old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message && old.ObservedGeneration == c.ObservedGeneration
		if same && (nominated == nil || *nominated == pod.Status.NominatedNodeName) {
			return nil
		}
	}
	status := map[string]any{"conditions": []corev1.PodCondition{c}}
	if nominated != nil && *nominated != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = *nominated
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("patch status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
