package resources

import (
	v1 "k8s.io/api/core/v1"
	podresources "k8s.io/component-helpers/resource"
)

// oom_score_adj of the quality of service classes; Burstable lies between them by its memory request.
const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// OOMScoreAdj is the oom_score_adj of a container on a node with memory bytes: the more of the node's
// memory a container asked for, the later the kernel kills it (KEP-2837 for requests of pods).
func OOMScoreAdj(pod *v1.Pod, c *v1.Container, memory int64) int64 {
	if pod.Spec.PriorityClassName == "system-node-critical" {
		return oomGuaranteed
	}
	switch QOS(pod) {
	case v1.PodQOSGuaranteed:
		return oomGuaranteed
	case v1.PodQOSBestEffort:
		return oomBestEffort
	}
	if memory <= 0 {
		return oomBestEffort - 1
	}

	spare := sparePerContainer(pod)
	request := c.Resources.Requests.Memory().Value() + spare
	if isSidecar(c) {
		// A sidecar must not die before the containers that need it.
		request = max(request, smallestRequest(pod)+spare)
	}
	score := 1000 - 1000*request/memory
	return min(max(score, 1000+oomGuaranteed), oomBestEffort-1)
}

// sparePerContainer divides the memory that the pod requests beyond its containers' requests among them.
func sparePerContainer(pod *v1.Pod) int64 {
	if !podresources.IsPodLevelRequestsSet(pod) {
		return 0
	}
	whole := pod.Spec.Resources.Requests.Memory().Value()
	requests := podresources.AggregateContainerRequests(pod, podresources.PodResourcesOptions{})
	n := len(pod.Spec.Containers)
	for i := range pod.Spec.InitContainers {
		if isSidecar(&pod.Spec.InitContainers[i]) {
			n++
		}
	}
	return max(whole-requests.Memory().Value(), 0) / int64(max(n, 1))
}

func smallestRequest(pod *v1.Pod) int64 {
	var smallest int64 = -1
	for i := range pod.Spec.Containers {
		request := pod.Spec.Containers[i].Resources.Requests.Memory().Value()
		if smallest < 0 || request < smallest {
			smallest = request
		}
	}
	return max(smallest, 0)
}

func isSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}
