package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

const requestsPrefix = corev1.DefaultResourceRequestsPrefix

// computed are what containers request and are limited to. Requests have a
// short name as well.
var computed = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}

var podNames = []corev1.ResourceName{
	corev1.ResourcePods,
	corev1.ResourceCPU, corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU,
	corev1.ResourceMemory, corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory,
	corev1.ResourceEphemeralStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage,
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(strings.TrimPrefix(string(name), requestsPrefix), corev1.ResourceHugePagesPrefix)
}

// isExtended reports whether name is the request of a resource of someone
// else's. Such resources cannot be overcommitted, so they have no limits.
func isExtended(name corev1.ResourceName) bool {
	requested, ok := strings.CutPrefix(string(name), requestsPrefix)
	return ok && (!native(requested) || strings.HasPrefix(requested, "deviceclass.resource.kubernetes.io/"))
}

func native(name string) bool {
	return !strings.Contains(name, "/") || strings.Contains(name, corev1.ResourceDefaultNamespacePrefix)
}

// addPod adds what a pod uses beyond its count: nothing once it has ended, or
// should have.
func addPod(used corev1.ResourceList, pod *corev1.Pod, now time.Time) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded || overdue(pod, now) {
		return
	}
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	maps.Copy(used, containerUsage(resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options)))
}

// overdue reports whether a pod that is being deleted is past its grace
// period. Its node may be lost; its replacement must not wait for that.
func overdue(pod *corev1.Pod, now time.Time) bool {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return false
	}
	grace := time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	return now.After(pod.DeletionTimestamp.Add(grace))
}

func containerUsage(requests, limits corev1.ResourceList) corev1.ResourceList {
	used := corev1.ResourceList{corev1.ResourcePods: *one()}
	for _, name := range computed {
		if quantity, ok := requests[name]; ok {
			used[name], used[requestsPrefix+name] = quantity, quantity
		}
		if quantity, ok := limits[name]; ok {
			used["limits."+name] = quantity
		}
	}
	for name, quantity := range requests {
		switch {
		case isHugePages(name):
			used[name], used[requestsPrefix+name] = quantity, quantity
		case isExtended(requestsPrefix + name):
			used[requestsPrefix+name] = quantity
		}
	}
	return used
}

// mandatory are the resources that, when they are limited, every container must
// state.
var mandatory = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
}

// Unstated says which containers of pod do not state which of the limited
// resources they must; nil if all do.
func Unstated(pod *corev1.Pod, limited []corev1.ResourceName) error {
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	missing := make(map[corev1.ResourceName][]string)
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		used := containerUsage(c.Resources.Requests, c.Resources.Limits)
		for _, name := range mandatory {
			if _, stated := used[name]; !stated && slices.Contains(limited, name) {
				missing[name] = append(missing[name], c.Name)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[name])
		parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(missing[name]), ",")))
	}
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

var serviceNames = []corev1.ResourceName{corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers}

// addService counts node ports as they are asked for: they are allocated only
// after the quota was charged.
func addService(used corev1.ResourceList, s *corev1.Service) {
	ports, balancers := 0, 0
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(s.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers, ports = 1, len(s.Spec.Ports)
		if allocate := s.Spec.AllocateLoadBalancerNodePorts; allocate != nil && !*allocate {
			ports = 0
			for _, p := range s.Spec.Ports {
				if p.NodePort != 0 {
					ports++
				}
			}
		}
	}
	used[corev1.ResourceServices] = *one()
	used[corev1.ResourceServicesNodePorts] = *count(ports)
	used[corev1.ResourceServicesLoadBalancers] = *count(balancers)
}

// classInfix stands between the name of a storage class and what is used of it.
const classInfix = ".storageclass.storage.k8s.io/"

var claimNames = []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage}

func addClaim(used corev1.ResourceList, claim *corev1.PersistentVolumeClaim) {
	of := corev1.ResourceList{corev1.ResourcePersistentVolumeClaims: *one()}
	if storage, ok := storageOf(claim); ok {
		of[corev1.ResourceRequestsStorage] = storage
	}
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	for name, quantity := range of {
		used[name] = quantity
		if class != "" {
			used[corev1.ResourceName(class+classInfix)+name] = quantity
		}
	}
}

// storageOf is what a claim asks for or, while it is being resized, has
// already been given; in whole bytes.
func storageOf(claim *corev1.PersistentVolumeClaim) (resource.Quantity, bool) {
	storage, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return storage, false
	}
	if given, has := claim.Status.AllocatedResources[corev1.ResourceStorage]; has && given.Cmp(storage) > 0 {
		storage = given
	}
	storage = storage.DeepCopy()
	storage.RoundUp(0)
	return storage, true
}

// addDevices adds how many devices of each class a claim may get at most. Of alternatives, the one that takes the
// most of a class counts.
func addDevices(used corev1.ResourceList, claim *resourcev1.ResourceClaim) {
	for _, r := range claim.Spec.Devices.Requests {
		most := make(map[corev1.ResourceName]int64)
		note := func(class string, mode resourcev1.DeviceAllocationMode, n int64) {
			if mode == resourcev1.DeviceAllocationModeAll {
				n = resourcev1.AllocationResultsMaxSize
			}
			name := corev1.ResourceName(class + corev1.ResourceClaimsPerClass)
			most[name] = max(most[name], n)
		}
		if r.Exactly != nil {
			note(r.Exactly.DeviceClassName, r.Exactly.AllocationMode, r.Exactly.Count)
		}
		for _, sub := range r.FirstAvailable {
			note(sub.DeviceClassName, sub.AllocationMode, sub.Count)
		}
		for name, n := range most {
			sum := used[name]
			sum.Add(*resource.NewQuantity(n, resource.DecimalSI))
			used[name] = sum
		}
	}
}
