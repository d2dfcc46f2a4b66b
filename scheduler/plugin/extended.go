package plugin

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// ExtendedClaim is the claim by which a pod gets devices for extended resources (KEP-5004), on a node that does not
// have such resources by itself. It is made once it is known that the pod goes there.
type ExtendedClaim struct {
	Claim *resourcev1.ResourceClaim
	// Mappings say which request of the claim is for which container.
	Mappings []corev1.ContainerExtendedResourceRequest
	// Allocation is what was found for it.
	Allocation resourcev1.AllocationResult
}

// class is the class of devices that stand for a resource, nil if none do.
func (d Devices) class(name corev1.ResourceName) *resourcev1.DeviceClass {
	if d.ClassOf == nil {
		return nil
	}
	return d.ClassOf(name)
}

// ByDevices reports whether a node with so much of a resource has none, and devices stand for it, so that claims decide
// about it.
func (d Devices) ByDevices(name corev1.ResourceName, allocatable int64) bool {
	return allocatable == 0 && d.class(name) != nil
}

// Wanted reports whether a pod has claims for devices, or requests resources for which devices stand.
func (d Devices) Wanted(pod *Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 || len(d.extended(pod)) > 0
}

// extended are the requested resources for which devices stand, each with the class of those.
func (d Devices) extended(pod *Pod) map[corev1.ResourceName]string {
	var classes map[corev1.ResourceName]string
	for name, amount := range pod.Requests.other { // what every node has is no device
		if amount == 0 {
			continue
		}
		if class := d.class(name); class != nil {
			if classes == nil {
				classes = make(map[corev1.ResourceName]string)
			}
			classes[name] = class.Name
		}
	}
	return classes
}

// extendedClaim is the claim that pod needs on n besides its own, or nil.
func (c DeviceClaims) extendedClaim(n *Node) *ExtendedClaim {
	classes := maps.Clone(c.extended)
	maps.DeleteFunc(classes, func(name corev1.ResourceName, _ string) bool { return n.allocatable.of(name) > 0 })
	if len(classes) == 0 {
		return nil
	}
	requests, mappings := extendedRequests(c.pod, classes)
	return &ExtendedClaim{Mappings: mappings, Claim: &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.pod.Namespace, GenerateName: c.pod.Name + "-extended-resources-",
			UID:             types.UID("extended resources of " + c.pod.UID), // until it is made
			Annotations:     map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: c.pod.Name, UID: c.pod.UID, Controller: ptr.To(true)}},
		},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}},
	}}
}

// ExtendedClaimOf is the claim among claims that was made for the extended resources of a pod, or nil.
func ExtendedClaimOf(pod *corev1.Pod, claims []*resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	i := slices.IndexFunc(claims, func(c *resourcev1.ResourceClaim) bool {
		return c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" && metav1.IsControlledBy(c, pod)
	})
	if i < 0 {
		return nil
	}
	return claims[i]
}

// extendedRequests are the requests for devices of the given classes, by name, and which container gets which.
func extendedRequests(pod *corev1.Pod, classes map[corev1.ResourceName]string) ([]resourcev1.DeviceRequest, []corev1.ContainerExtendedResourceRequest) {
	var requests []resourcev1.DeviceRequest
	var mappings []corev1.ContainerExtendedResourceRequest
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		r := extendedResource{name: name, class: classes[name], first: len(pod.Spec.InitContainers), containers: slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)}
		r.request()
		requests, mappings = append(requests, r.requests...), append(mappings, r.mappings...)
	}
	slices.SortFunc(requests, func(a, b resourcev1.DeviceRequest) int { return cmp.Compare(a.Name, b.Name) })
	return requests, mappings
}

// extendedResource makes requests for devices of one resource.
type extendedResource struct {
	name       corev1.ResourceName
	class      string
	containers []corev1.Container
	first      int // of those that are no init containers

	requests []resourcev1.DeviceRequest
	mappings []corev1.ContainerExtendedResourceRequest
}

// request gives each container that runs as long as the pod devices of its own. Init containers that end use those of
// containers that start later; what they need beyond that they share, as they run one after the other.
func (r *extendedResource) request() {
	lasting := make([]*resourcev1.DeviceRequest, len(r.containers))
	for i := range r.containers {
		if n := r.amount(i); n > 0 && !r.ends(i) {
			lasting[i] = r.devices(i, n)
			r.mappings = append(r.mappings, r.mapping(i, lasting[i].Name))
			r.requests = append(r.requests, *lasting[i])
		}
	}
	var most *resourcev1.DeviceRequest
	var shared []int // mappings to what is shared
	for i := range r.containers {
		if !r.ends(i) {
			continue
		}
		n := r.amount(i)
		for _, later := range lasting[i:] {
			if n > 0 && later != nil {
				r.mappings = append(r.mappings, r.mapping(i, later.Name))
				n -= later.Exactly.Count
			}
		}
		if n <= 0 {
			continue
		}
		shared = append(shared, len(r.mappings))
		r.mappings = append(r.mappings, r.mapping(i, ""))
		if most == nil || n > most.Exactly.Count {
			most = r.devices(i, n)
		}
	}
	for _, i := range shared {
		r.mappings[i].RequestName = most.Name
	}
	if most != nil {
		r.requests = append(r.requests, *most)
	}
}

// ends reports whether a container ends before those after it start.
func (r *extendedResource) ends(i int) bool {
	return i < r.first && ptr.Deref(r.containers[i].RestartPolicy, "") != corev1.ContainerRestartPolicyAlways
}

func (r *extendedResource) amount(i int) int64 {
	quantity := r.containers[i].Resources.Requests[r.name]
	return quantity.Value()
}

func (r *extendedResource) mapping(i int, request string) corev1.ContainerExtendedResourceRequest {
	return corev1.ContainerExtendedResourceRequest{ContainerName: r.containers[i].Name, ResourceName: string(r.name), RequestName: request}
}

// devices is a request for n devices for a container. Its name tells the places of the container and of the resource
// among the container's requests.
func (r *extendedResource) devices(i int, n int64) *resourcev1.DeviceRequest {
	names := slices.Sorted(maps.Keys(r.containers[i].Resources.Requests))
	return &resourcev1.DeviceRequest{
		Name:    fmt.Sprintf("container-%d-request-%d", i, slices.Index(names, r.name)),
		Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: r.class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: n},
	}
}
