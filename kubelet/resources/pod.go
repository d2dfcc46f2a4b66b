package resources

import (
	v1 "k8s.io/api/core/v1"
	podresources "k8s.io/component-helpers/resource"
)

// Limits are what a control group is told. Zero means that it is left alone, -1 that it is unlimited.
type Limits struct {
	Shares    int64            // cpu.shares
	Quota     int64            // microseconds per Period
	Memory    int64            // bytes
	Processes int64            // pids.max
	HugePages map[string]int64 // bytes by page size ("2MB")
}

// ForPod are the limits of a pod's own control group. A limit that not every container has would bind
// those without, so it is none; unlimited is said outright, as an earlier limit may have been taken away.
func ForPod(pod *v1.Pod) Limits {
	l := Limits{Shares: minShares, Quota: -1, Memory: -1}
	qos := QOS(pod)
	if qos == v1.PodQOSBestEffort {
		return l
	}
	requests := podresources.PodRequests(pod, podresources.PodResourcesOptions{})
	l.Shares = Shares(requests.Cpu().MilliValue())

	cpuLimited, memoryLimited := true, true
	limits := podresources.PodLimits(pod, podresources.PodResourcesOptions{
		ContainerFn: func(r v1.ResourceList, _ podresources.ContainerType) {
			cpuLimited = cpuLimited && !r.Cpu().IsZero()
			memoryLimited = memoryLimited && !r.Memory().IsZero()
		},
	})
	if whole := pod.Spec.Resources; whole != nil {
		cpuLimited = cpuLimited || !whole.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited || !whole.Limits.Memory().IsZero()
	}
	if cpuLimited {
		l.Quota = Quota(limits.Cpu().MilliValue())
	}
	if memoryLimited && !limits.Memory().IsZero() {
		l.Memory = limits.Memory().Value()
	}
	for name, q := range requests {
		if size, ok := pageSize(name); ok {
			if l.HugePages == nil {
				l.HugePages = map[string]int64{}
			}
			l.HugePages[size] = q.Value()
		}
	}
	return l
}

// cpuRequests is what the whole pod requests of the CPU, in thousandths.
func cpuRequests(pod *v1.Pod) int64 {
	requests := podresources.PodRequests(pod, podresources.PodResourcesOptions{})
	return requests.Cpu().MilliValue()
}

// ForAll are the limits of the group of all pods, from what the node has to give.
func ForAll(allocatable v1.ResourceList) Limits {
	return Limits{
		Shares: Shares(allocatable.Cpu().MilliValue()),
		Memory: allocatable.Memory().Value(),
	}
}
