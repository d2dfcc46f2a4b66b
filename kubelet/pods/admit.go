package pods

import (
	"fmt"
	goruntime "runtime"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skiff-k8s/skiff/kubelet/status"
)

// refuse says why the node does not take the pod, nil if it does.
func (m *Manager) refuse(pod *v1.Pod) *status.Failure {
	if m.cfg.Pressure != nil {
		if f := m.cfg.Pressure(pod); f != nil {
			return f
		}
	}
	if err := m.cfg.Sysctls.Refuse(pod); err != nil {
		return &status.Failure{Reason: "SysctlForbidden", Message: err.Error()}
	}
	return Refuse(pod, m.cfg.Node(), m.active(pod))
}

// active are the admitted pods of the node that still take its resources.
func (m *Manager) active(except *v1.Pod) []*v1.Pod {
	var pods []*v1.Pod
	for _, w := range m.all() {
		w.mu.Lock()
		if w.uid != except.UID && w.admitted && !status.Terminal(w.status.Phase) {
			pods = append(pods, w.pod)
		}
		w.mu.Unlock()
	}
	return pods
}

// Refuse says why a node with these pods cannot take another one, nil if it can. It is pure. These are
// the scheduler's checks once more, for pods that did not come through it or came too late.
func Refuse(pod *v1.Pod, node *v1.Node, others []*v1.Pod) *status.Failure {
	for _, check := range []func(*v1.Pod, *v1.Node, []*v1.Pod) *status.Failure{
		refuseOS, refuseResources, refuseAffinity, refusePorts, refuseTaints,
	} {
		if f := check(pod, node, others); f != nil {
			return f
		}
	}
	return nil
}

func refuseOS(pod *v1.Pod, _ *v1.Node, _ []*v1.Pod) *status.Failure {
	if os, found := pod.Labels[v1.LabelOSStable]; found && os != goruntime.GOOS {
		return &status.Failure{Reason: "PodOSSelectorNodeLabelDoesNotMatch", Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if pod.Spec.OS != nil && string(pod.Spec.OS.Name) != goruntime.GOOS {
		return &status.Failure{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

// refuseResources looks at pods, cpu, memory, ephemeral storage, and what else the node has. Extended
// resources it does not have are not its business: a plugin may have gone.
func refuseResources(pod *v1.Pod, node *v1.Node, others []*v1.Pod) *status.Failure {
	capacity := node.Status.Allocatable
	if limit, found := capacity[v1.ResourcePods]; found && int64(len(others)+1) > limit.Value() {
		return outOf(v1.ResourcePods, 1, int64(len(others)), limit.Value())
	}
	wanted := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	names := make([]v1.ResourceName, 0, len(wanted))
	for name := range wanted {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		quantity := wanted[name]
		has, found := capacity[name]
		if quantity.IsZero() || !found {
			continue
		}
		var used resource.Quantity
		for _, other := range others {
			requests := resourcehelper.PodRequests(other, resourcehelper.PodResourcesOptions{UseStatusResources: true})
			used.Add(requests[name])
		}
		if amount(name, quantity)+amount(name, used) > amount(name, has) {
			return outOf(name, amount(name, quantity), amount(name, used), amount(name, has))
		}
	}
	return nil
}

func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func outOf(name v1.ResourceName, requested, used, capacity int64) *status.Failure {
	return &status.Failure{
		Reason:  "OutOf" + string(name),
		Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity),
	}
}

func refuseAffinity(pod *v1.Pod, node *v1.Node, _ []*v1.Pod) *status.Failure {
	match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node)
	if err == nil && match {
		return nil
	}
	return &status.Failure{Reason: "NodeAffinity", Message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
}

// port is a port of the node that a pod takes.
type port struct {
	ip       string
	protocol v1.Protocol
	number   int32
}

func (p port) conflicts(o port) bool {
	const any = "0.0.0.0"
	return p.number == o.number && p.protocol == o.protocol && (p.ip == o.ip || p.ip == any || o.ip == any)
}

func hostPorts(pod *v1.Pod) []port {
	var ports []port
	for _, c := range allContainers(&pod.Spec) {
		if !slices.Contains(lasting(&pod.Spec), c) {
			continue
		}
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			ip, protocol := p.HostIP, p.Protocol
			if ip == "" {
				ip = "0.0.0.0"
			}
			if protocol == "" {
				protocol = v1.ProtocolTCP
			}
			ports = append(ports, port{ip, protocol, p.HostPort})
		}
	}
	return ports
}

// lasting are the main containers and the sidecars.
func lasting(spec *v1.PodSpec) []*v1.Container {
	return slices.DeleteFunc(allContainers(spec), func(c *v1.Container) bool { return isPlainInit(spec, c) })
}

func refusePorts(pod *v1.Pod, _ *v1.Node, others []*v1.Pod) *status.Failure {
	wanted := hostPorts(pod)
	for _, other := range others {
		for _, taken := range hostPorts(other) {
			if slices.ContainsFunc(wanted, taken.conflicts) {
				return &status.Failure{Reason: "NodePorts", Message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
			}
		}
	}
	return nil
}

func refuseTaints(pod *v1.Pod, node *v1.Node, _ []*v1.Pod) *status.Failure {
	for _, taint := range node.Spec.Taints {
		if taint.Effect != v1.TaintEffectNoExecute || tolerated(pod, &taint) {
			continue
		}
		return &status.Failure{Reason: "TaintToleration", Message: "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"}
	}
	return nil
}

func tolerated(pod *v1.Pod, taint *v1.Taint) bool {
	return slices.ContainsFunc(pod.Spec.Tolerations, func(t v1.Toleration) bool { return tolerates(t, taint) })
}

func tolerates(t v1.Toleration, taint *v1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case v1.TolerationOpExists:
		return true
	case v1.TolerationOpEqual, "":
		return t.Key != "" && t.Value == taint.Value
	}
	return false
}
