package workloads

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	newReplicaSetAvailable   = "NewReplicaSetAvailable"
	progressDeadlineExceeded = "ProgressDeadlineExceeded"
	deploymentPaused         = "DeploymentPaused"
)

// hasDeadline tells whether progress is to be watched at all.
func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// complete tells whether all replicas are of the current template and available, and no others are left.
func complete(d *appsv1.Deployment, status appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return status.UpdatedReplicas == want && status.Replicas == want && status.AvailableReplicas == want &&
		status.ObservedGeneration >= d.Generation
}

// notePause makes Progressing unknown while a deployment is paused, so that its deadline does not run, and
// starts the deadline anew when it is resumed.
func (r *rollout) notePause(now time.Time) {
	d := r.deployment
	if !hasDeadline(d) {
		return
	}
	c := deploymentCondition(d, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == progressDeadlineExceeded {
		return
	}
	noted := c != nil && c.Reason == deploymentPaused
	switch {
	case d.Spec.Paused && !noted:
		setCondition(&d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, deploymentPaused, "Deployment is paused", now))
	case !d.Spec.Paused && noted:
		setCondition(&d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed", now))
	}
}

// finish writes the status that the sets add up to.
func (r *rollout) finish(now time.Time) {
	before := r.deployment.Status
	status := r.counts()
	if maxMissing := maxUnavailable(r.deployment); status.AvailableReplicas >= r.want()-maxMissing {
		setCondition(&status, newCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.", now))
	} else {
		setCondition(&status, newCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now))
	}
	if !r.scalingOnly && r.deployment.DeletionTimestamp == nil {
		r.noteProgress(before, &status, now)
		r.noteFailure(&status)
	}
	r.deployment.Status = status
}

func (r *rollout) counts() appsv1.DeploymentStatus {
	all := r.all()
	available := sum(all, availableReplicas)
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  r.deployment.Generation,
		Replicas:            sum(all, statusReplicas),
		ReadyReplicas:       sum(all, readyReplicas),
		AvailableReplicas:   available,
		UnavailableReplicas: max(sum(all, specReplicas)-available, 0),
		TerminatingReplicas: terminatingReplicas(all),
		CollisionCount:      r.deployment.Status.CollisionCount,
		Conditions:          slices.Clone(r.deployment.Status.Conditions),
	}
	if r.current != nil {
		status.UpdatedReplicas = r.current.Status.Replicas
	}
	return status
}

// terminatingReplicas adds up what the sets report; nil if one that was observed does not.
func terminatingReplicas(sets []*appsv1.ReplicaSet) *int32 {
	total := int32(0)
	for _, set := range sets {
		switch {
		case set.Status.TerminatingReplicas != nil:
			total += *set.Status.TerminatingReplicas
		case set.Status.ObservedGeneration != 0:
			return nil
		}
	}
	return &total
}

// noteProgress keeps the Progressing condition: complete, moving, or stuck for longer than the deadline.
func (r *rollout) noteProgress(before appsv1.DeploymentStatus, status *appsv1.DeploymentStatus, now time.Time) {
	d := r.deployment
	if !hasDeadline(d) {
		status.Conditions = slices.DeleteFunc(status.Conditions, ofType(appsv1.DeploymentProgressing))
		return
	}
	c := deploymentCondition(d, appsv1.DeploymentProgressing)
	if status.Replicas == status.UpdatedReplicas && c != nil && c.Reason == newReplicaSetAvailable {
		return // a finished rollout stays finished, whatever its pods do
	}
	subject := fmt.Sprintf("Deployment %q", d.Name)
	if r.current != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.current.Name)
	}
	switch {
	case complete(d, *status):
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, newReplicaSetAvailable, subject+" has successfully progressed.", now))
	case moved(before, *status):
		moving := newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", subject+" is progressing.", now)
		if c != nil && c.Status == corev1.ConditionTrue {
			moving.LastTransitionTime = c.LastTransitionTime
		}
		// Replaced even if it says the same: its update time is what the deadline counts from.
		status.Conditions = slices.DeleteFunc(status.Conditions, ofType(appsv1.DeploymentProgressing))
		setCondition(status, moving)
	case r.timedOut(c, now):
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, progressDeadlineExceeded, subject+" has timed out progressing.", now))
	}
}

// moved tells whether the new status is nearer to the goal than the one before.
func moved(before, now appsv1.DeploymentStatus) bool {
	return now.UpdatedReplicas > before.UpdatedReplicas ||
		now.Replicas-now.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		now.ReadyReplicas > before.ReadyReplicas ||
		now.AvailableReplicas > before.AvailableReplicas
}

func (r *rollout) timedOut(c *appsv1.DeploymentCondition, now time.Time) bool {
	switch {
	case c == nil || c.Reason == newReplicaSetAvailable:
		return false
	case c.Reason == progressDeadlineExceeded:
		return true
	}
	return r.deadline(c).Before(now)
}

func (r *rollout) deadline(c *appsv1.DeploymentCondition) time.Time {
	return c.LastUpdateTime.Add(time.Duration(*r.deployment.Spec.ProgressDeadlineSeconds) * time.Second)
}

// nextProgressCheck is after which time the deadline will have passed, 0 if none runs. Condition times have
// whole seconds, so one is added.
func (r *rollout) nextProgressCheck(now time.Time) time.Duration {
	d := r.deployment
	c := deploymentCondition(d, appsv1.DeploymentProgressing)
	if d.Spec.Paused || d.DeletionTimestamp != nil || !hasDeadline(d) || c == nil ||
		c.Reason == progressDeadlineExceeded || complete(d, d.Status) ||
		c.Reason == newReplicaSetAvailable && d.Status.Replicas == d.Status.UpdatedReplicas {
		return 0
	}
	return max(r.deadline(c).Sub(now), 0) + time.Second
}

// noteFailure lifts the failure of a set to create pods up to the deployment, the current set's first.
func (r *rollout) noteFailure(status *appsv1.DeploymentStatus) {
	sets := slices.Clone(r.old)
	if r.current != nil {
		sets = slices.Insert(sets, 0, r.current)
	}
	for _, set := range sets {
		for _, c := range set.Status.Conditions {
			if c.Type != appsv1.ReplicaSetReplicaFailure {
				continue
			}
			setCondition(status, appsv1.DeploymentCondition{
				Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
				LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
			})
			return
		}
	}
	status.Conditions = slices.DeleteFunc(status.Conditions, ofType(appsv1.DeploymentReplicaFailure))
}

func newCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) appsv1.DeploymentCondition {
	at := metav1.NewTime(now)
	return appsv1.DeploymentCondition{Type: kind, Status: status, LastUpdateTime: at, LastTransitionTime: at, Reason: reason, Message: message}
}

// setCondition adds or replaces a condition. One with the same status and reason stays as it is.
func setCondition(status *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	i := slices.IndexFunc(status.Conditions, ofType(c.Type))
	if i >= 0 {
		has := status.Conditions[i]
		if has.Status == c.Status && has.Reason == c.Reason {
			return
		}
		if has.Status == c.Status {
			c.LastTransitionTime = has.LastTransitionTime
		}
		status.Conditions = slices.Delete(status.Conditions, i, i+1)
	}
	status.Conditions = append(status.Conditions, c)
}

func deploymentCondition(d *appsv1.Deployment, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	i := slices.IndexFunc(d.Status.Conditions, ofType(kind))
	if i < 0 {
		return nil
	}
	c := d.Status.Conditions[i]
	return &c
}

func ofType(kind appsv1.DeploymentConditionType) func(appsv1.DeploymentCondition) bool {
	return func(c appsv1.DeploymentCondition) bool { return c.Type == kind }
}
