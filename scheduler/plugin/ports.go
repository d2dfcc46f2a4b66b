package plugin

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
)

// nodePorts keeps two pods off one host port. A port on the unspecified
// address conflicts with the same port on any address.
func nodePorts(pod *Pod, _ *Snapshot) Check {
	if len(pod.ports) == 0 {
		return Check{}
	}
	return Check{Filter: func(n *Node) *Reason {
		for _, other := range n.Pods {
			if portsConflict(pod.ports, other.ports) {
				return portsTaken
			}
		}
		return nil
	}}
}

var portsTaken = because("node(s) didn't have free ports for the requested pod ports")

// hostPorts are the ports of the host that a pod takes.
func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ports = append(ports, p)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}

func portsConflict(a, b []corev1.ContainerPort) bool {
	for _, x := range a {
		for _, y := range b {
			if x.HostPort == y.HostPort && protocol(x) == protocol(y) && addressesOverlap(x.HostIP, y.HostIP) {
				return true
			}
		}
	}
	return false
}

func protocol(p corev1.ContainerPort) corev1.Protocol { return cmp.Or(p.Protocol, corev1.ProtocolTCP) }

func addressesOverlap(a, b string) bool {
	const unspecified = "0.0.0.0"
	a, b = cmp.Or(a, unspecified), cmp.Or(b, unspecified)
	return a == b || a == unspecified || b == unspecified
}
