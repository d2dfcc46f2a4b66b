package networkpolicy

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// protocolNumber is how packets call a protocol (IANA); false if the API has no such.
func protocolNumber(p corev1.Protocol) (uint8, bool) {
	switch p {
	case corev1.ProtocolTCP:
		return 6, true
	case corev1.ProtocolUDP:
		return 17, true
	case corev1.ProtocolSCTP:
		return 132, true
	}
	return 0, false
}

// mergePorts makes ranges disjoint and sorts them. Those of more than one protocol are Everything.
func mergePorts(list []Ports) []Ports {
	if slices.Contains(list, Everything) {
		return []Ports{Everything}
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Ports) int {
		return cmp.Or(cmp.Compare(a.FirstProtocol, b.FirstProtocol), cmp.Compare(a.First, b.First))
	})
	var merged []Ports
	for _, p := range list {
		if n := len(merged) - 1; n >= 0 && merged[n].FirstProtocol == p.FirstProtocol && int(p.First) <= int(merged[n].Last)+1 {
			merged[n].Last = max(merged[n].Last, p.Last)
			continue
		}
		merged = append(merged, p)
	}
	return merged
}

// portName is a port as a policy may name it.
type portName struct {
	name     string
	protocol uint8
}

// portNames are the numbers of a pod's named ports. Of ports with the same name the first counts, as for
// Services; init containers have ports only if they stay.
func portNames(spec *corev1.PodSpec) map[portName]uint16 {
	var names map[portName]uint16
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			protocol, ok := protocolNumber(cmp.Or(p.Protocol, corev1.ProtocolTCP))
			if !ok || p.Name == "" {
				continue
			}
			if names == nil {
				names = make(map[portName]uint16)
			}
			if _, taken := names[portName{p.Name, protocol}]; !taken {
				names[portName{p.Name, protocol}] = uint16(p.ContainerPort)
			}
		}
	}
	for i := range spec.Containers {
		add(&spec.Containers[i])
	}
	for i := range spec.InitContainers {
		if policy := spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			add(&spec.InitContainers[i])
		}
	}
	return names
}
