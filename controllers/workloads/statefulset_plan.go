package workloads

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// statefulView is a set and its pods as one sync sees them. Its methods only plan.
type statefulView struct {
	set             *appsv1.StatefulSet
	current, update string // names of revisions
	pods            []*corev1.Pod
	replicas        []*corev1.Pod // by index, nil where one is missing
	condemned       []*corev1.Pod // beyond the wanted ordinals, the highest first
	now             time.Time
	// claimsRight tells whether the claims of a pod have the owners they should have.
	claimsRight func(*corev1.Pod) bool
}

type statefulAction string

const (
	createPod    statefulAction = "create"
	deletePod    statefulAction = "delete"
	repairPod    statefulAction = "repair"
	ensureClaims statefulAction = "claims"
)

// statefulStep is one thing to do.
type statefulStep struct {
	action   statefulAction
	pod      *corev1.Pod
	ordinal  int    // of a pod to create
	revision string // of a pod to create
	update   bool   // deleted only to be updated
}

func newStatefulView(set *appsv1.StatefulSet, current, update string, pods []*corev1.Pod, now time.Time) *statefulView {
	v := &statefulView{
		set: set, current: current, update: update, pods: pods, now: now,
		replicas:    make([]*corev1.Pod, *set.Spec.Replicas),
		claimsRight: func(*corev1.Pod) bool { return true },
	}
	for _, pod := range pods {
		if i := ordinalOf(set, pod) - v.start(); i >= 0 && i < len(v.replicas) {
			v.replicas[i] = pod
		} else {
			v.condemned = append(v.condemned, pod)
		}
	}
	slices.SortFunc(v.condemned, func(a, b *corev1.Pod) int {
		return cmp.Compare(ordinalOf(set, b), ordinalOf(set, a))
	})
	return v
}

// ordered tells whether pods come and go one after the other.
func (v *statefulView) ordered() bool {
	return v.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

func (v *statefulView) start() int {
	if v.set.Spec.Ordinals != nil {
		return int(v.set.Spec.Ordinals.Start)
	}
	return 0
}

// plan lists what to do now: first complete the wanted pods, then remove the superfluous, then update. In an
// ordered set each has to wait until all before it are well.
func (v *statefulView) plan() []statefulStep {
	if v.set.DeletionTimestamp != nil {
		return nil
	}
	steps, wait := v.planReplicas()
	if wait {
		return steps
	}
	more, wait := v.planCondemned()
	steps = append(steps, more...)
	if wait {
		return steps
	}
	return append(steps, v.planUpdate()...)
}

func (v *statefulView) planReplicas() (steps []statefulStep, wait bool) {
	for i, pod := range v.replicas {
		step, well := v.planReplica(i, pod)
		if step != nil {
			steps = append(steps, *step)
		}
		if !well && v.ordered() {
			return steps, true
		}
	}
	return steps, false
}

// planReplica says what to do about one wanted pod, and whether those after it may go on.
func (v *statefulView) planReplica(i int, pod *corev1.Pod) (step *statefulStep, well bool) {
	switch {
	case pod == nil:
		return &statefulStep{action: createPod, ordinal: v.start() + i, revision: v.revisionFor(i)}, false
	case podFinished(pod) && pod.DeletionTimestamp == nil:
		return &statefulStep{action: deletePod, pod: pod}, false
	case podFinished(pod):
		return nil, false
	case pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil && len(v.set.Spec.VolumeClaimTemplates) > 0:
		return &statefulStep{action: ensureClaims, pod: pod}, false
	case v.ordered() && !v.wellRunning(pod):
		return nil, false
	case !identityRight(pod) || !v.claimsRight(pod):
		return &statefulStep{action: repairPod, pod: pod}, true
	}
	return nil, true
}

// planCondemned removes pods beyond the wanted ordinals from the top. In an ordered set one that is not well
// holds the others up, unless it is the first of all that is not: then nothing will make it well any more.
func (v *statefulView) planCondemned() (steps []statefulStep, wait bool) {
	sick := v.firstUnwell()
	for _, pod := range v.condemned {
		if !v.ordered() {
			if pod.DeletionTimestamp == nil {
				steps = append(steps, statefulStep{action: deletePod, pod: pod})
			}
			continue
		}
		if pod.DeletionTimestamp != nil || !v.wellRunning(pod) && pod != sick {
			return steps, true
		}
		return append(steps, statefulStep{action: deletePod, pod: pod}), true
	}
	return steps, false
}

// firstUnwell is the pod of the lowest ordinal that is not well; those of wanted ordinals come first.
func (v *statefulView) firstUnwell() *corev1.Pod {
	for _, pod := range v.replicas {
		if pod == nil || !v.wellRunning(pod) {
			return pod
		}
	}
	for _, pod := range slices.Backward(v.condemned) {
		if !v.wellRunning(pod) {
			return pod
		}
	}
	return nil
}

// planUpdate deletes the highest pod that is of another revision, if all above it are well, down to the
// partition.
func (v *statefulView) planUpdate() []statefulStep {
	strategy := v.set.Spec.UpdateStrategy
	if strategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	for i := len(v.replicas) - 1; i >= v.partition(); i-- {
		pod := v.replicas[i]
		if pod == nil {
			return nil
		}
		if revisionName(pod) != v.update && pod.DeletionTimestamp == nil {
			if podFinished(pod) {
				return nil // is being replaced anyway
			}
			return []statefulStep{{action: deletePod, pod: pod, update: true}}
		}
		if !v.wellRunning(pod) {
			return nil
		}
	}
	return nil
}

func (v *statefulView) partition() int {
	rolling := v.set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil || rolling.Partition == nil {
		return 0
	}
	return int(*rolling.Partition)
}

// revisionFor is the revision a missing pod is made of: what it was before, for those the update has not reached.
func (v *statefulView) revisionFor(i int) string {
	strategy := v.set.Spec.UpdateStrategy
	switch {
	case strategy.Type != appsv1.RollingUpdateStatefulSetStrategyType:
		return v.update
	case strategy.RollingUpdate == nil && i < int(v.set.Status.CurrentReplicas):
		return v.current
	case strategy.RollingUpdate != nil && i < v.partition():
		return v.current
	}
	return v.update
}

// wellRunning tells whether a pod is available and not on its way out.
func (v *statefulView) wellRunning(pod *corev1.Pod) bool {
	available, _ := podAvailable(pod, v.set.Spec.MinReadySeconds, v.now)
	return available && pod.DeletionTimestamp == nil
}

// status computes the status to report once a plan was carried out, and after which time one more pod will be
// available.
func (v *statefulView) status(plan []statefulStep) (appsv1.StatefulSetStatus, time.Duration) {
	status := appsv1.StatefulSetStatus{
		ObservedGeneration: v.set.Generation,
		CurrentRevision:    v.current,
		UpdateRevision:     v.update,
		Replicas:           int32(len(v.pods)),
	}
	var ripe time.Duration
	for _, pod := range v.pods {
		if _, ready := podReady(pod); ready && pod.Status.Phase == corev1.PodRunning {
			status.ReadyReplicas++
			available, in := podAvailable(pod, v.set.Spec.MinReadySeconds, v.now)
			if available {
				status.AvailableReplicas++
			}
			ripe = sooner(ripe, in)
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		if revisionName(pod) == v.current {
			status.CurrentReplicas++
		}
		if revisionName(pod) == v.update {
			status.UpdatedReplicas++
		}
	}
	for _, step := range plan {
		if step.update && revisionName(step.pod) == v.current {
			status.CurrentReplicas--
		}
	}
	want := *v.set.Spec.Replicas
	if v.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType &&
		status.UpdatedReplicas == want && status.ReadyReplicas == want && status.Replicas == want {
		status.CurrentReplicas, status.CurrentRevision = status.UpdatedReplicas, status.UpdateRevision
	}
	return status, ripe
}

func revisionName(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

// ordinalOf returns the ordinal in a pod's name, -1 if the name is not one of the set's.
func ordinalOf(set *appsv1.StatefulSet, pod *corev1.Pod) int {
	text, ok := strings.CutPrefix(pod.Name, set.Name+"-")
	n, err := strconv.ParseInt(text, 10, 32)
	if !ok || err != nil || n < 0 || strconv.FormatInt(n, 10) != text {
		return -1
	}
	return int(n)
}

// statefulPod makes the pod of an ordinal.
func statefulPod(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, ordinal int, revision string) *corev1.Pod {
	pod := podFrom(template, set, statefulSetKind)
	pod.GenerateName = podPrefix(set.Name)
	pod.Name = set.Name + "-" + strconv.Itoa(ordinal)
	setIdentity(set, pod, ordinal)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = revision
	pod.Spec.Hostname = pod.Name
	pod.Spec.Subdomain = set.Spec.ServiceName
	pod.Spec.Volumes = statefulVolumes(set, pod)
	return pod
}

// setIdentity writes the labels that name a pod.
func setIdentity(set *appsv1.StatefulSet, pod *corev1.Pod, ordinal int) {
	pod.Labels = withLabel(pod.Labels, appsv1.StatefulSetPodNameLabel, set.Name+"-"+strconv.Itoa(ordinal))
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

func identityRight(pod *corev1.Pod) bool {
	return pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name
}
