package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skiff-k8s/skiff/kubelet/resources"
	"github.com/skiff-k8s/skiff/kubelet/runtime"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// A pod's resources can be changed while it runs (KEP-1287). What its definition asks for becomes its
// allocation when the node can give it; the allocation is then brought to its containers. Both are kept
// in memory; after a restart the pod's status in the API tells how far it was.

// sizes are a pod's resources: those of its containers by name, and its own under "".
type sizes map[string]v1.ResourceRequirements

// wanted are the resources a pod's definition asks for.
func wanted(pod *v1.Pod) sizes {
	s := sizes{}
	for _, c := range allContainers(&pod.Spec) {
		s[c.Name] = c.Resources
	}
	if pod.Spec.Resources != nil {
		s[""] = *pod.Spec.Resources
	}
	return s
}

// allocatedBefore are the resources an earlier kubelet had allocated: those in the statuses of containers
// that run, else what is asked for.
func allocatedBefore(pod *v1.Pod) sizes {
	s := wanted(pod)
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, c := range list {
			if _, found := s[c.Name]; found && c.State.Running != nil && c.Resources != nil {
				s[c.Name] = *c.Resources
			}
		}
	}
	return s
}

// sized is the pod with other resources.
func sized(pod *v1.Pod, s sizes) *v1.Pod {
	if equality.Semantic.DeepEqual(wanted(pod), s) {
		return pod
	}
	pod = pod.DeepCopy()
	for _, c := range allContainers(&pod.Spec) {
		if own, found := s[c.Name]; found {
			c.Resources = own
		}
	}
	if own, found := s[""]; found {
		pod.Spec.Resources = &own
	}
	return pod
}

// allocate gives the pod the resources it asks for, if the node has them. From here on the pass is about
// the pod with the resources it has been given.
func allocate(_ context.Context, p *pass) (outcome, error) {
	w := p.w
	w.mu.Lock()
	asked := w.pod
	if w.allocated == nil {
		w.allocated = allocatedBefore(asked)
	}
	same := equality.Semantic.DeepEqual(wanted(asked), w.allocated)
	w.mu.Unlock()

	if same {
		w.pending = nil
	} else if refusal := p.m.refuseResize(asked); refusal != nil {
		w.setPending(p, asked, refusal)
		p.soon(10 * time.Second) // other pods may leave
	} else {
		w.mu.Lock()
		w.allocated = wanted(asked)
		w.mu.Unlock()
		w.pending = nil
		w.progress = &v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue, ObservedGeneration: asked.Generation}
		p.m.event(asked, "", v1.EventTypeNormal, "ResizeStarted", "Pod resize started: "+summary(asked, ""))
	}
	p.pod = sized(asked, w.allocated)
	return proceed, nil
}

// refuseResize says why the node cannot give a pod what it asks for: never (Infeasible), or not now
// (Deferred).
func (m *Manager) refuseResize(pod *v1.Pod) *status.Failure {
	m.admission.Lock()
	defer m.admission.Unlock()
	node := m.cfg.Node()
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		q, has := requests[name], node.Status.Allocatable[name]
		if amount(name, q) > amount(name, has) {
			return &status.Failure{Reason: v1.PodReasonInfeasible, Message: fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, amount(name, q), amount(name, has))}
		}
	}
	if f := refuseResources(pod, node, m.active(pod)); f != nil {
		return &status.Failure{Reason: v1.PodReasonDeferred, Message: f.Message}
	}
	return nil
}

func (w *worker) setPending(p *pass, pod *v1.Pod, why *status.Failure) {
	if w.pending != nil && w.pending.Reason == why.Reason && w.pending.ObservedGeneration == pod.Generation {
		w.pending.Message = why.Message
		return
	}
	w.pending = &v1.PodCondition{
		Type: v1.PodResizePending, Status: v1.ConditionTrue,
		Reason: why.Reason, Message: why.Message, ObservedGeneration: pod.Generation,
	}
	p.m.event(pod, "", v1.EventTypeWarning, "Resize"+why.Reason, fmt.Sprintf("Pod resize %s: %s", why.Reason, summary(pod, why.Message)))
}

// resizeConditions are the conditions of a resize under way.
func (w *worker) resizeConditions() []v1.PodCondition {
	var list []v1.PodCondition
	for _, c := range []*v1.PodCondition{w.pending, w.progress} {
		if c != nil {
			list = append(list, *c)
		}
	}
	return list
}

// has are the resources a running container has been given; w.mu must be held.
func (w *worker) has(pod *v1.Pod, r *runtime.Container) v1.ResourceRequirements {
	if own, found := w.actuated[r.ID]; found {
		return own
	}
	id := w.m.cfg.Runtime.ContainerID(r.ID)
	for _, list := range [][]v1.ContainerStatus{w.status.InitContainerStatuses, w.status.ContainerStatuses} {
		for _, c := range list {
			if c.ContainerID == id && c.Resources != nil {
				return *c.Resources
			}
		}
	}
	if c := findContainer(&pod.Spec, r.Name); c != nil {
		return c.Resources
	}
	return v1.ResourceRequirements{}
}

// given are the resources of the running containers by name, for the status; w.mu must be held.
func (w *worker) given(pod *v1.Pod, rt *runtime.Pod) map[string]v1.ResourceRequirements {
	all := map[string]v1.ResourceRequirements{}
	for _, c := range allContainers(&pod.Spec) {
		if r := rt.Latest(c.Name); r != nil && r.State == runtime.Running {
			all[c.Name] = w.has(pod, r)
		}
	}
	return all
}

// resizeContainers brings the pod's allocation to its running containers. Where a container's policy
// wants it, that means a restart.
func resizeContainers(ctx context.Context, p *pass) (outcome, error) {
	w := p.w
	var due []*runtime.Container
	w.mu.Lock()
	for _, c := range allContainers(&p.pod.Spec) {
		r := p.rt.Latest(c.Name)
		if r == nil || r.State != runtime.Running || w.killing[r.ID] != nil {
			continue
		}
		if !equality.Semantic.DeepEqual(w.has(p.pod, r), c.Resources) {
			due = append(due, r)
		}
	}
	w.mu.Unlock()
	if len(due) == 0 {
		w.finishResize(p)
		return proceed, nil
	}
	if err := w.resize(ctx, p, due); err != nil {
		w.progress = &v1.PodCondition{
			Type: v1.PodResizeInProgress, Status: v1.ConditionTrue, ObservedGeneration: p.pod.Generation,
			Reason: v1.PodReasonError, Message: err.Error(),
		}
		return wait, err
	}
	w.finishResize(p)
	return proceed, nil
}

// finishResize ends a resize that nothing waits for any more.
func (w *worker) finishResize(p *pass) {
	if w.progress == nil || len(w.killing) > 0 {
		return
	}
	w.progress = nil
	p.m.event(p.pod, "", v1.EventTypeNormal, "ResizeCompleted", "Pod resize completed: "+summary(p.pod, ""))
}

// resize changes containers. The pod's own limits must never be below those of its containers, so they
// are set before, which fails when they shrink, and after, which must not.
func (w *worker) resize(ctx context.Context, p *pass, due []*runtime.Container) error {
	_ = p.m.cfg.Cgroups.EnsurePod(p.pod)
	for _, r := range due {
		c := findContainer(&p.pod.Spec, r.Name)
		w.mu.Lock()
		had := w.has(p.pod, r)
		w.mu.Unlock()
		if needsRestart(c, had) {
			w.replace[r.ID] = true
			p.m.cfg.Probes.Stop(r.ID)
			w.forgive(c.Name)
			w.kill(ctx, p.pod, podIP(p), victim{
				container: *r, spec: c, grace: specGrace(p.pod),
				message: fmt.Sprintf("Container %s resize requires restart, will be restarted", c.Name),
			})
			continue
		}
		if err := p.m.cfg.Runtime.UpdateContainer(ctx, r.ID, resources.Linux(p.pod, c, p.m.cfg.Resources)); err != nil {
			return fmt.Errorf("resize container %s: %w", c.Name, err)
		}
		w.mu.Lock()
		w.actuated[r.ID] = *c.Resources.DeepCopy()
		w.mu.Unlock()
	}
	if err := p.m.cfg.Cgroups.EnsurePod(p.pod); err != nil {
		return fmt.Errorf("resize the pod: %w", err)
	}
	return nil
}

// needsRestart says whether one of the resources that change may only change with a restart.
func needsRestart(c *v1.Container, had v1.ResourceRequirements) bool {
	return slices.ContainsFunc(c.ResizePolicy, func(policy v1.ContainerResizePolicy) bool {
		name := policy.ResourceName
		changed := !had.Requests[name].Equal(c.Resources.Requests[name]) || !had.Limits[name].Equal(c.Resources.Limits[name])
		return changed && policy.RestartPolicy == v1.RestartContainer
	})
}

// summary is a pod's resources as events about resizes show them.
func summary(pod *v1.Pod, problem string) string {
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources,omitempty"`
	}
	var s struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}
	for _, c := range pod.Spec.InitContainers {
		s.InitContainers = append(s.InitContainers, container{c.Name, c.Resources})
	}
	for _, c := range pod.Spec.Containers {
		s.Containers = append(s.Containers, container{c.Name, c.Resources})
	}
	s.Generation, s.Error = pod.Generation, problem
	text, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// forgetOld drops what is kept of containers the runtime no longer has; w.mu must be held.
func (w *worker) forgetOld(rt *runtime.Pod) {
	here := map[string]bool{}
	for _, c := range rt.Containers {
		here[c.ID] = true
	}
	if w.starting == nil { // else one may just have been made
		keep(w.actuated, here)
	}
	keep(w.failed, here)
	keep(w.grace, here)
	keep(w.replace, here)
}

func keep[V any](m map[string]V, ids map[string]bool) {
	maps.DeleteFunc(m, func(id string, _ V) bool { return !ids[id] })
}
