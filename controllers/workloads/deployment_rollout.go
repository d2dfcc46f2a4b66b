package workloads

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Annotations on a deployment's sets: the size the deployment had, and with surge, when the set was last sized.
const (
	desiredReplicas = "deployment.kubernetes.io/desired-replicas"
	maxReplicas     = "deployment.kubernetes.io/max-replicas"
)

// rollout is a deployment and its sets as one sync sees them. Its methods only plan; deployment is a copy that
// may be changed, the sets are the cache's.
type rollout struct {
	deployment *appsv1.Deployment
	current    *appsv1.ReplicaSet   // the set of the current template, or nil
	old        []*appsv1.ReplicaSet // all others, oldest first
	// scalingOnly says that this sync only changed sizes: it tells nothing about progress.
	scalingOnly bool
}

// sizing is a set and the number of replicas it should get.
type sizing struct {
	set *appsv1.ReplicaSet
	to  int32
}

func newRollout(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *rollout {
	sets = slices.Clone(sets)
	slices.SortFunc(sets, olderFirst)
	r := &rollout{deployment: d}
	for _, set := range sets {
		if r.current == nil && sameTemplate(&set.Spec.Template, &d.Spec.Template) {
			r.current = set
			continue
		}
		r.old = append(r.old, set)
	}
	return r
}

func olderFirst(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.current == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.current)
}

// active lists the sets that have or should have pods.
func (r *rollout) active() []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(r.all()), func(set *appsv1.ReplicaSet) bool { return *set.Spec.Replicas == 0 })
}

// replace puts an updated set in the place of what the cache had.
func (r *rollout) replace(set *appsv1.ReplicaSet) {
	if r.current != nil && r.current.UID == set.UID {
		r.current = set
		return
	}
	for i := range r.old {
		if r.old[i].UID == set.UID {
			r.old[i] = set
		}
	}
}

func (r *rollout) want() int32 { return *r.deployment.Spec.Replicas }

// wasScaled tells whether the deployment's size changed since its sets were last sized.
func (r *rollout) wasScaled() bool {
	return slices.ContainsFunc(r.active(), func(set *appsv1.ReplicaSet) bool {
		desired, ok := sizeNote(set, desiredReplicas)
		return ok && desired != r.want()
	})
}

// planGrow sizes the current set: as large as the deployment wants, as far as the surge leaves room.
func (r *rollout) planGrow() []sizing {
	to := r.currentSize()
	if *r.current.Spec.Replicas == to {
		return nil
	}
	return []sizing{{r.current, to}}
}

// currentSize is how large the current set may be now. It never shrinks below its size because of a lack of
// room, only because the deployment wants less.
func (r *rollout) currentSize() int32 {
	has := int32(0)
	if r.current != nil {
		has = *r.current.Spec.Replicas
	}
	want := r.want()
	if has >= want || r.deployment.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return want
	}
	room := want + maxSurge(r.deployment) - sum(r.all(), specReplicas)
	return has + min(max(room, 0), want-has)
}

// planShrink takes replicas from old sets: first those that are not available anyway, then as many of the
// others as are available beyond the minimum. Pods of the current set that are not yet available count against
// both, so that a rollout that does not come up stops here.
func (r *rollout) planShrink() []sizing {
	minimum := r.want() - maxUnavailable(r.deployment)
	coming := *r.current.Spec.Replicas - r.current.Status.AvailableReplicas
	budget := sum(r.all(), specReplicas) - minimum - coming
	if budget <= 0 {
		return nil
	}
	sizes := map[*appsv1.ReplicaSet]int32{}
	for _, set := range r.old {
		has := *set.Spec.Replicas
		broken := min(budget, max(has-set.Status.AvailableReplicas, 0))
		sizes[set] = has - broken
		budget -= broken
	}
	spare := sum(r.all(), availableReplicas) - minimum
	var plan []sizing
	for _, set := range r.old {
		take := min(sizes[set], max(spare, 0))
		spare -= take
		if to := sizes[set] - take; to != *set.Spec.Replicas {
			plan = append(plan, sizing{set, to})
		}
	}
	return plan
}

func (r *rollout) planStopOld() []sizing {
	var plan []sizing
	for _, set := range r.old {
		if *set.Spec.Replicas > 0 {
			plan = append(plan, sizing{set, 0})
		}
	}
	return plan
}

// planScale follows a change of the deployment's size without furthering the rollout: one active set takes it
// all; if the current one is complete the old ones go; else every active set keeps its share.
func (r *rollout) planScale() []sizing {
	active := r.active()
	if len(active) <= 1 {
		if only := r.onlyOrLatest(active); only != nil {
			return []sizing{{only, r.want()}} // also if only its note of the size is stale
		}
		return nil
	}
	if r.saturated() {
		return r.planStopOld()
	}
	if r.deployment.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return nil
	}
	return r.planShares(active)
}

func (r *rollout) onlyOrLatest(active []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	switch {
	case len(active) == 1:
		return active[0]
	case r.current != nil:
		return r.current
	case len(r.old) > 0:
		return r.old[len(r.old)-1]
	}
	return nil
}

// saturated tells whether the current set has all the replicas the deployment wants, available, and was told so.
func (r *rollout) saturated() bool {
	if r.current == nil {
		return false
	}
	desired, ok := sizeNote(r.current, desiredReplicas)
	want := r.want()
	return ok && desired == want && *r.current.Spec.Replicas == want && r.current.Status.AvailableReplicas == want
}

// planShares gives each set the part of the new size that it had of the old one. What rounding leaves goes to
// the largest; of equals, growth goes to the newest and loss to the oldest.
func (r *rollout) planShares(active []*appsv1.ReplicaSet) []sizing {
	allowed := int32(0)
	if r.want() > 0 {
		allowed = r.want() + maxSurge(r.deployment)
	}
	change := allowed - sum(active, specReplicas)
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := olderFirst(a, b)
		if change > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	})

	plan := make([]sizing, len(active))
	left := change
	for i, set := range active {
		share := r.share(set)
		switch {
		case change > 0:
			share = min(share, left)
		case change < 0:
			share = max(share, left)
		default:
			share = 0
		}
		plan[i] = sizing{set, *set.Spec.Replicas + share}
		left -= share
	}
	plan[0].to = max(plan[0].to+left, 0)
	return plan
}

// share is by how much a set would change if it kept its part of the whole.
func (r *rollout) share(set *appsv1.ReplicaSet) int32 {
	has := *set.Spec.Replicas
	if r.want() == 0 {
		return -has
	}
	before, ok := sizeNote(set, maxReplicas)
	if !ok || before == 0 {
		if before = r.deployment.Status.Replicas; before == 0 {
			return 0
		}
	}
	now := r.want() + maxSurge(r.deployment)
	return int32(math.Round(float64(has)*float64(now)/float64(before))) - has
}

// superfluous lists the old sets beyond the history limit, lowest revision first, that hold no pods.
func (r *rollout) superfluous() []*appsv1.ReplicaSet {
	kept := slices.DeleteFunc(slices.Clone(r.old), func(set *appsv1.ReplicaSet) bool { return set.DeletionTimestamp != nil })
	slices.SortStableFunc(kept, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	return slices.DeleteFunc(kept[:excess(len(kept), r.deployment.Spec.RevisionHistoryLimit)], func(set *appsv1.ReplicaSet) bool {
		return set.Status.Replicas != 0 || *set.Spec.Replicas != 0 || set.Generation > set.Status.ObservedGeneration
	})
}

// noteSize writes the deployment's size on a set and tells whether that was news.
func noteSize(set *appsv1.ReplicaSet, d *appsv1.Deployment) bool {
	desired := fmt.Sprint(*d.Spec.Replicas)
	most := fmt.Sprint(*d.Spec.Replicas + maxSurge(d))
	if set.Annotations[desiredReplicas] == desired && set.Annotations[maxReplicas] == most {
		return false
	}
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	set.Annotations[desiredReplicas] = desired
	set.Annotations[maxReplicas] = most
	return true
}

func sizeNote(set *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(set.Annotations[annotation], 10, 32)
	if err != nil || n < 0 {
		return 0, false
	}
	return int32(n), true
}

// bounds resolves the strategy's surge, rounded up, and unavailability, rounded down. If both come to nothing
// one pod may be unavailable, or no rollout would ever move.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	surge = scaled(rolling.MaxSurge, *d.Spec.Replicas, true)
	unavailable = scaled(rolling.MaxUnavailable, *d.Spec.Replicas, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, *d.Spec.Replicas)
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := bounds(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, unavailable := bounds(d)
	return unavailable
}

// scaled resolves a number or a percentage of total. Validation keeps what it cannot parse away.
func scaled(value *intstr.IntOrString, total int32, roundUp bool) int32 {
	if value == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(value, int(total), roundUp)
	if err != nil {
		return 0
	}
	return int32(n)
}

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) (n int32) {
	for _, set := range sets {
		n += of(set)
	}
	return n
}

func specReplicas(set *appsv1.ReplicaSet) int32      { return *set.Spec.Replicas }
func statusReplicas(set *appsv1.ReplicaSet) int32    { return set.Status.Replicas }
func readyReplicas(set *appsv1.ReplicaSet) int32     { return set.Status.ReadyReplicas }
func availableReplicas(set *appsv1.ReplicaSet) int32 { return set.Status.AvailableReplicas }
