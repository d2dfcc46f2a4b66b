package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// defaultPod adds to the defaults of every pod spec those that only pods have.
func defaultPod(p *corev1.Pod) {
	s := &p.Spec
	p.Annotations = podspec.DropInitAnnotations(p.Annotations)
	podspec.DefaultSpec(s)
	for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
		for i := range list {
			requestLimits(&list[i].Resources)
			if s.HostNetwork {
				openHostPorts(list[i].Ports)
			}
		}
	}
	defaultPodResources(p)
	if s.EnableServiceLinks == nil {
		links := corev1.DefaultEnableServiceLinks
		s.EnableServiceLinks = &links
	}
	if *s.TerminationGracePeriodSeconds < 0 {
		*s.TerminationGracePeriodSeconds = 1
	}
	syncPodIPs(&p.Status)
}

// requestLimits requests what is limited and not requested.
func requestLimits(r *corev1.ResourceRequirements) {
	if r.Limits == nil {
		return
	}
	if r.Requests == nil {
		r.Requests = make(corev1.ResourceList, len(r.Limits))
	}
	addMissing(r.Requests, r.Limits, func(corev1.ResourceName) bool { return true })
}

func openHostPorts(ports []corev1.ContainerPort) {
	for i := range ports {
		if ports[i].HostPort == 0 {
			ports[i].HostPort = ports[i].ContainerPort
		}
	}
}

// defaultPodResources completes resources of the pod as a whole (KEP 2837) from
// those of its containers. A pod without any gets none.
func defaultPodResources(p *corev1.Pod) {
	r := p.Spec.Resources
	if r == nil || len(r.Limits) == 0 && len(r.Requests) == 0 {
		return
	}
	limits, requests := r.Limits.DeepCopy(), r.Requests.DeepCopy()
	if limits == nil {
		limits = corev1.ResourceList{}
	}
	addMissing(limits, resource.AggregateContainerLimits(p, resource.PodResourcesOptions{}), func(name corev1.ResourceName) bool {
		_, requested := requests[name]
		return podspec.IsHugePages(name) && !requested
	})
	if len(limits) > 0 {
		r.Limits = limits
	}
	if len(r.Limits) == 0 {
		return
	}
	if requests == nil {
		requests = corev1.ResourceList{}
	}
	addMissing(requests, resource.AggregateContainerRequests(p, resource.PodResourcesOptions{}), func(name corev1.ResourceName) bool {
		return resource.IsSupportedPodLevelResource(name) && !podspec.IsHugePages(name)
	})
	addMissing(requests, r.Limits, resource.IsSupportedPodLevelResource)
	if len(requests) > 0 {
		r.Requests = requests
	}
}

// addMissing copies the wanted quantities of from that list does not have.
func addMissing(list, from corev1.ResourceList, wanted func(corev1.ResourceName) bool) {
	for name, q := range from {
		if _, ok := list[name]; !ok && wanted(name) {
			list[name] = q.DeepCopy()
		}
	}
}

// syncPodIPs keeps podIP the first of podIPs. Where they differ podIP is right:
// old kubelets know no other.
func syncPodIPs(s *corev1.PodStatus) {
	if s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP) {
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
}

// qosClass is the quality of service class of a new pod: BestEffort if nothing
// asks for cpu or memory, Guaranteed if every container limits both and
// requests as much, else Burstable. Resources of the pod as a whole, if any,
// count instead of those of its containers.
func qosClass(s *corev1.PodSpec) corev1.PodQOSClass {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	guaranteed := true
	count := func(r *corev1.ResourceRequirements) {
		addCompute(requests, r.Requests)
		if n := addCompute(limits, r.Limits); n < 2 {
			guaranteed = false
		}
	}
	if s.Resources != nil {
		count(s.Resources)
		guaranteed = guaranteed || len(s.Resources.Limits) == 0
	} else {
		for _, c := range allContainers(s) {
			count(&c.Resources)
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	if !guaranteed || len(requests) != len(limits) {
		return corev1.PodQOSBurstable
	}
	for name, request := range requests {
		if limit, ok := limits[name]; !ok || limit.Cmp(request) != 0 {
			return corev1.PodQOSBurstable
		}
	}
	return corev1.PodQOSGuaranteed
}

// addCompute adds the cpu and memory of list to sum and returns how many of the
// two were more than zero.
func addCompute(sum, list corev1.ResourceList) int {
	n := 0
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, ok := list[name]
		if !ok || q.Sign() <= 0 {
			continue
		}
		n++
		total := sum[name]
		total.Add(q)
		sum[name] = total
	}
	return n
}
