package services

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/endpointslice"
	podrules "k8s.io/endpointslice/util"
)

// subsetsOf groups the addresses of a Service's pods: ports with the same addresses share a subset.
func subsetsOf(service *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	var all []corev1.EndpointSubset
	for _, pod := range pods {
		if !podrules.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		address, ok := addressOf(service, pod)
		if !ok {
			continue
		}
		up := service.Spec.PublishNotReadyAddresses || podrules.IsPodReady(pod)
		if len(service.Spec.Ports) == 0 && service.Spec.ClusterIP == corev1.ClusterIPNone {
			all = append(all, subset(address, up))
		}
		for i := range service.Spec.Ports {
			port := &service.Spec.Ports[i]
			number, err := endpointslice.FindPort(pod, port)
			if err != nil {
				continue // this pod has no port of that name
			}
			all = append(all, subset(address, up, corev1.EndpointPort{
				Name: port.Name, Port: int32(number), Protocol: port.Protocol, AppProtocol: port.AppProtocol,
			}))
		}
	}
	return repack(all)
}

func subset(address corev1.EndpointAddress, up bool, ports ...corev1.EndpointPort) corev1.EndpointSubset {
	if up {
		return corev1.EndpointSubset{Addresses: []corev1.EndpointAddress{address}, Ports: ports}
	}
	return corev1.EndpointSubset{NotReadyAddresses: []corev1.EndpointAddress{address}, Ports: ports}
}

// addressOf is the pod's address of the Service's first family.
func addressOf(service *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	v6 := wantsIPv6(service, pod)
	for _, podIP := range pod.Status.PodIPs {
		ip, err := netip.ParseAddr(podIP.IP)
		if err != nil || ip.Is6() != v6 {
			continue
		}
		node := pod.Spec.NodeName
		address := corev1.EndpointAddress{
			IP:       ip.String(),
			NodeName: &node,
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			},
		}
		if podrules.ShouldSetHostname(pod, service) {
			address.Hostname = pod.Spec.Hostname
		}
		return address, true
	}
	return corev1.EndpointAddress{}, false
}

func wantsIPv6(service *corev1.Service, pod *corev1.Pod) bool {
	if len(service.Spec.IPFamilies) > 0 {
		return service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	}
	text := service.Spec.ClusterIP
	if text == "" || text == corev1.ClusterIPNone {
		text = pod.Status.PodIP
	}
	ip, err := netip.ParseAddr(text)
	return err == nil && ip.Is6()
}

// group is the addresses behind a port, or behind several that have the same.
type group struct {
	ports    []corev1.EndpointPort
	up, down map[string]corev1.EndpointAddress // by addressKey
}

// repack puts subsets into the one form they are compared and shown in: each port once, ports with the same
// addresses together, everything sorted. An address that is ready and not ready at once counts as ready.
func repack(subsets []corev1.EndpointSubset) []corev1.EndpointSubset {
	byAddresses := map[string]*group{}
	for _, g := range byPort(subsets) {
		for key := range g.up {
			delete(g.down, key)
		}
		addresses := fmt.Sprint(len(g.ports) > 0, slices.Sorted(maps.Keys(g.up)), slices.Sorted(maps.Keys(g.down)))
		if same := byAddresses[addresses]; same != nil {
			same.ports = append(same.ports, g.ports...)
		} else {
			byAddresses[addresses] = g
		}
	}
	var packed []corev1.EndpointSubset
	for _, g := range byAddresses {
		slices.SortFunc(g.ports, comparePorts)
		packed = append(packed, corev1.EndpointSubset{Addresses: sorted(g.up), NotReadyAddresses: sorted(g.down), Ports: g.ports})
	}
	slices.SortFunc(packed, func(a, b corev1.EndpointSubset) int {
		return slices.CompareFunc(a.Ports, b.Ports, comparePorts)
	})
	return packed
}

// byPort collects the addresses of each port. Those of subsets without ports make a group without ports.
func byPort(subsets []corev1.EndpointSubset) map[string]*group {
	groups := map[string]*group{}
	add := func(key string, s corev1.EndpointSubset, ports ...corev1.EndpointPort) {
		g := groups[key]
		if g == nil {
			g = &group{ports: ports, up: map[string]corev1.EndpointAddress{}, down: map[string]corev1.EndpointAddress{}}
			groups[key] = g
		}
		for _, a := range s.Addresses {
			g.up[addressKey(a)] = a
		}
		for _, a := range s.NotReadyAddresses {
			g.down[addressKey(a)] = a
		}
	}
	for _, s := range subsets {
		if len(s.Ports) == 0 {
			add("", s)
		}
		for _, port := range s.Ports {
			add(port.String(), s, port)
		}
	}
	return groups
}

func comparePorts(a, b corev1.EndpointPort) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

func addressKey(a corev1.EndpointAddress) string {
	if a.TargetRef != nil {
		return a.IP + "/" + string(a.TargetRef.UID)
	}
	return a.IP
}

func sorted(addresses map[string]corev1.EndpointAddress) []corev1.EndpointAddress {
	if len(addresses) == 0 {
		return nil
	}
	list := make([]corev1.EndpointAddress, 0, len(addresses))
	for _, key := range slices.Sorted(maps.Keys(addresses)) {
		list = append(list, addresses[key])
	}
	return list
}

// truncate cuts subsets down to a number of addresses, each in proportion; not ready ones go first. It tells
// whether there was anything to cut.
func truncate(subsets []corev1.EndpointSubset, limit int) bool {
	up, down := 0, 0
	for _, s := range subsets {
		up += len(s.Addresses)
		down += len(s.NotReadyAddresses)
	}
	if up+down <= limit {
		return false
	}
	room, total := limit-up, down
	if up > limit {
		room, total = limit, up
	}
	left := room
	for i := range subsets {
		list := &subsets[i].NotReadyAddresses
		if up > limit {
			subsets[i].NotReadyAddresses = nil
			list = &subsets[i].Addresses
		}
		share := int(math.Ceil(float64(len(*list)) / float64(total) * float64(room)))
		*list = (*list)[:min(share, left, len(*list))]
		left -= len(*list)
	}
	return true
}
