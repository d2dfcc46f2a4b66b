package resources

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	podresources "k8s.io/component-helpers/resource"
)

// QOS is the pod's quality of service class: the one the API server put in its status, else computed
// from the CPU and memory of its containers, or of the pod itself where it sets them.
func QOS(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	demands := []v1.ResourceRequirements{}
	if podresources.IsPodLevelResourcesSet(pod) {
		demands = append(demands, *pod.Spec.Resources)
	} else {
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			demands = append(demands, c.Resources)
		}
	}

	asked, guaranteed := false, true
	for _, d := range demands {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			request, limit := d.Requests[name], d.Limits[name]
			asked = asked || !request.IsZero() || !limit.IsZero()
			// A missing request is the limit, as the API defaults it.
			_, requested := d.Requests[name]
			guaranteed = guaranteed && !limit.IsZero() && (!requested || request.Cmp(limit) == 0)
		}
	}
	switch {
	case !asked:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}
