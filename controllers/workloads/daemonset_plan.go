package workloads

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// templateGeneration is the label by which pods of very old sets are recognised as up to date.
const templateGeneration = "pod-template-generation"

// fit says whether a node should get a pod of a set, and whether one that is there may stay.
type fit struct{ run, stay bool }

// fitOf decides by node name, node selector and affinity, and taints. A taint that only forbids scheduling
// leaves pods where they are.
func fitOf(set *appsv1.DaemonSet, node *corev1.Node) fit {
	spec := set.Spec.Template.Spec
	if spec.NodeName != "" && spec.NodeName != node.Name {
		return fit{}
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: spec}).Match(node); err != nil || !ok {
		return fit{}
	}
	tolerations := withDaemonTolerations(spec)
	untolerated := func(effects ...corev1.TaintEffect) bool {
		_, found := scheduling.FindMatchingUntoleratedTaint(logr.Discard(), node.Spec.Taints, tolerations, func(t *corev1.Taint) bool {
			return slices.Contains(effects, t.Effect)
		}, false)
		return found
	}
	return fit{
		run:  !untolerated(corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule),
		stay: !untolerated(corev1.TaintEffectNoExecute),
	}
}

// withDaemonTolerations adds what every daemon pod tolerates: a sick node is where daemons are needed.
func withDaemonTolerations(spec corev1.PodSpec) []corev1.Toleration {
	tolerations := slices.Clone(spec.Tolerations)
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
		for i := range tolerations {
			if tolerations[i].MatchToleration(&t) {
				tolerations[i] = t
				return
			}
		}
		tolerations = append(tolerations, t)
	}
	add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	add(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if spec.HostNetwork {
		add(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return tolerations
}

// daemonPod makes the pod for a node. The scheduler binds it there, because its affinity allows no other.
func daemonPod(set *appsv1.DaemonSet, hash, node string) *corev1.Pod {
	pod := podFrom(&set.Spec.Template, set, daemonSetKind)
	pod.Labels = withLabel(pod.Labels, appsv1.DefaultDaemonSetUniqueLabelKey, hash)
	if generation, ok := set.Annotations[appsv1.DeprecatedTemplateGeneration]; ok {
		pod.Labels[templateGeneration] = generation
	}
	pod.Spec.Tolerations = withDaemonTolerations(pod.Spec)
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	// Node selector terms are alternatives; those of the template were checked when the node was chosen.
	pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}}},
	}
	return pod
}

// nodeOf returns the node a daemon pod is on, or is meant for.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" || pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return pod.Spec.NodeName
	}
	required := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return ""
	}
	for _, term := range required.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == corev1.NodeSelectorOpIn && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// spread is a set and how its pods lie over the nodes, as one sync sees it. Its methods only plan.
type spread struct {
	set   *appsv1.DaemonSet
	hash  string
	fits  map[string]fit           // every node
	pods  map[string][]*corev1.Pod // by node, the eldest first; also nodes that are gone
	order []string                 // the nodes, sorted
	now   time.Time
}

// daemonPlan names nodes that get a pod and pods to delete.
type daemonPlan struct {
	create []string
	remove []*corev1.Pod
}

func (p daemonPlan) empty() bool { return len(p.create) == 0 && len(p.remove) == 0 }

func newSpread(set *appsv1.DaemonSet, hash string, nodes []*corev1.Node, pods []*corev1.Pod, now time.Time) *spread {
	s := &spread{set: set, hash: hash, fits: map[string]fit{}, pods: map[string][]*corev1.Pod{}, now: now}
	for _, node := range nodes {
		s.fits[node.Name] = fitOf(set, node)
	}
	for _, pod := range pods {
		if podFinished(pod) && pod.DeletionTimestamp != nil {
			continue // does not even hold its place any more
		}
		name := nodeOf(pod)
		if name == "" {
			slog.Debug("daemon pod without a node", "pod", pod.Namespace+"/"+pod.Name)
			continue
		}
		s.pods[name] = append(s.pods[name], pod)
	}
	for _, on := range s.pods {
		slices.SortFunc(on, func(a, b *corev1.Pod) int {
			return cmp.Or(
				falseFirst(a.Spec.NodeName == "", b.Spec.NodeName == ""),
				a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
				cmp.Compare(a.Name, b.Name),
			)
		})
	}
	s.order = slices.Sorted(maps.Keys(s.fits))
	return s
}

func (s *spread) available(pod *corev1.Pod) bool {
	ok, _ := podAvailable(pod, s.set.Spec.MinReadySeconds, s.now)
	return ok
}

func (s *spread) updated(pod *corev1.Pod) bool {
	if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == s.hash {
		return true
	}
	generation, ok := s.set.Annotations[appsv1.DeprecatedTemplateGeneration]
	return ok && pod.Labels[templateGeneration] == generation
}

// planPresence sees to it that each node has as many pods as it should, whatever their template.
func (s *spread) planPresence() daemonPlan {
	var plan daemonPlan
	for _, node := range s.order {
		s.planNode(node, &plan)
	}
	for node, pods := range s.pods {
		if _, exists := s.fits[node]; exists {
			continue
		}
		for _, pod := range pods {
			if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				plan.remove = append(plan.remove, pod) // its node went before it could be bound
			}
		}
	}
	return plan
}

func (s *spread) planNode(node string, plan *daemonPlan) {
	fit, pods := s.fits[node], s.pods[node]
	if fit.run && len(pods) == 0 {
		plan.create = append(plan.create, node)
		return
	}
	var alive []*corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case !fit.stay || podFinished(pod):
			plan.remove = append(plan.remove, pod)
		default:
			alive = append(alive, pod)
		}
	}
	if !fit.stay {
		return
	}
	if surge, _ := s.limits(1); surge == 0 {
		plan.remove = append(plan.remove, alive[min(1, len(alive)):]...)
		return
	}
	if len(alive) == 0 {
		if fit.run {
			plan.create = append(plan.create, node) // surge does not wait for the old pod's end
		}
		return
	}
	plan.remove = append(plan.remove, s.excessWithSurge(alive)...)
}

// excessWithSurge keeps the eldest old and the eldest new pod, and the old one only until the new one can do
// without it.
func (s *spread) excessWithSurge(alive []*corev1.Pod) (excess []*corev1.Pod) {
	var oldPod, newPod *corev1.Pod
	for _, pod := range alive {
		switch {
		case newPod == nil && s.updated(pod):
			newPod = pod
		case oldPod == nil && !s.updated(pod):
			oldPod = pod
		default:
			excess = append(excess, pod)
		}
	}
	if oldPod != nil && newPod != nil {
		if _, ready := podReady(oldPod); !ready || s.available(newPod) {
			excess = append(excess, oldPod)
		}
	}
	return excess
}

// limits resolves the update strategy for a number of nodes. If both come to nothing one pod may be
// unavailable, or no rollout would ever move.
func (s *spread) limits(nodes int) (surge, unavailable int) {
	rolling := s.set.Spec.UpdateStrategy.RollingUpdate
	if s.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || rolling == nil {
		return 0, 0
	}
	surge = int(scaled(rolling.MaxSurge, int32(nodes), true))
	unavailable = int(scaled(rolling.MaxUnavailable, int32(nodes), true))
	if nodes > 0 && surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// planUpdate replaces pods of an old template within the limits of the strategy.
func (s *spread) planUpdate() daemonPlan {
	wanted := 0
	nodes := map[string]bool{}
	for node, fit := range s.fits {
		if fit.run {
			wanted++
			nodes[node] = true
		}
	}
	for node := range s.pods {
		nodes[node] = true
	}
	order := slices.Sorted(maps.Keys(nodes))
	if surge, unavailable := s.limits(wanted); surge > 0 {
		return s.planSurge(order, surge, wanted)
	} else {
		return s.planReplace(order, unavailable)
	}
}

// pair returns the one old and the one new pod on a node that are not being deleted; ok is false if there are
// more, which planPresence has to sort out first.
func (s *spread) pair(node string) (oldPod, newPod *corev1.Pod, ok bool) {
	for _, pod := range s.pods[node] {
		switch {
		case pod.DeletionTimestamp != nil:
		case s.updated(pod) && newPod == nil:
			newPod = pod
		case !s.updated(pod) && oldPod == nil:
			oldPod = pod
		default:
			return nil, nil, false
		}
	}
	return oldPod, newPod, true
}

// planReplace deletes old pods: those not available anyway at once, others as long as not too many nodes are
// without an available pod. planPresence puts the new ones in their place.
func (s *spread) planReplace(nodes []string, maxUnavailable int) daemonPlan {
	var plan daemonPlan
	var candidates []*corev1.Pod
	unavailable := 0
	for _, node := range nodes {
		oldPod, newPod, ok := s.pair(node)
		switch {
		case !ok || (oldPod == nil) == (newPod == nil):
			unavailable++
		case newPod != nil:
			if !s.available(newPod) {
				unavailable++
			}
		case !s.available(oldPod):
			plan.remove = append(plan.remove, oldPod)
			unavailable++
		default:
			candidates = append(candidates, oldPod)
		}
	}
	room := min(max(maxUnavailable-unavailable, 0), len(candidates))
	plan.remove = append(plan.remove, candidates[:room]...)
	return plan
}

// planSurge starts new pods beside old ones, and deletes an old one when its successor is available.
func (s *spread) planSurge(nodes []string, maxSurge, wanted int) daemonPlan {
	var plan daemonPlan
	var candidates []string
	var unfit []*corev1.Pod
	surging, available := 0, 0
	for _, node := range nodes {
		oldPod, newPod, ok := s.pair(node)
		if !ok {
			surging++
			continue
		}
		if first := cmp.Or(oldPod, newPod); first != nil && s.available(first) {
			available++
		}
		switch {
		case oldPod == nil:
		case newPod != nil && !s.available(newPod):
			surging++
		case newPod != nil:
			plan.remove = append(plan.remove, oldPod)
		case !s.available(oldPod) && s.fits[node].run:
			plan.create = append(plan.create, node)
		case !s.available(oldPod):
			plan.remove = append(plan.remove, oldPod)
		case !s.fits[node].run:
			unfit = append(unfit, oldPod)
		default:
			candidates = append(candidates, node)
		}
	}
	spare := min(max(available-wanted, 0), len(unfit))
	plan.remove = append(plan.remove, unfit[:spare]...)
	room := min(max(maxSurge-surging, 0), len(candidates))
	plan.create = append(plan.create, candidates[:room]...)
	return plan
}

// status computes the status to report, but for the observed generation, and after which time one more pod will
// be available.
func (s *spread) status() (appsv1.DaemonSetStatus, time.Duration) {
	status := *s.set.Status.DeepCopy()
	status.DesiredNumberScheduled, status.CurrentNumberScheduled, status.NumberMisscheduled = 0, 0, 0
	status.NumberReady, status.UpdatedNumberScheduled, status.NumberAvailable = 0, 0, 0
	var ripe time.Duration
	for _, node := range s.order {
		pods := s.pods[node]
		if !s.fits[node].run {
			if len(pods) > 0 {
				status.NumberMisscheduled++
			}
			continue
		}
		status.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		status.CurrentNumberScheduled++
		if _, ready := podReady(pods[0]); ready {
			status.NumberReady++
		}
		available, in := podAvailable(pods[0], s.set.Spec.MinReadySeconds, s.now)
		if available {
			status.NumberAvailable++
		}
		ripe = sooner(ripe, in)
		if s.updated(pods[0]) {
			status.UpdatedNumberScheduled++
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status, ripe
}
