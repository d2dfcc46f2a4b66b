package scheduler

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const dongle = "example.com/dongle"

// standIn makes a class of devices that stand for an extended resource.
func (w *world) standIn(name string) {
	w.t.Helper()
	w.must(w.ResourceV1().DeviceClasses().Create(w.t.Context(), &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To(dongle)}}, metav1.CreateOptions{}))
}

// requesting makes a pod that requests one of a resource.
func (w *world) requesting(name, resourceName string) {
	w.t.Helper()
	one := corev1.ResourceList{corev1.ResourceName(resourceName): resource.MustParse("1")}
	w.must(w.CoreV1().Pods("ns").Create(w.t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: one, Limits: one}}},
	}}, metav1.CreateOptions{}))
}

// extendedClaims are those that were made for extended resources.
func (w *world) extendedClaims() []resourcev1.ResourceClaim {
	w.t.Helper()
	list, err := w.ResourceV1().ResourceClaims("ns").List(w.t.Context(), metav1.ListOptions{})
	w.must(list, err)
	return slices.DeleteFunc(list.Items, func(c resourcev1.ResourceClaim) bool {
		return c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true"
	})
}

func TestDevicesForExtendedResources(t *testing.T) {
	w := startWorld(t)
	w.requesting("p", dongle)
	w.waits("p", corev1.PodReasonUnschedulable, "0/2 nodes are available: 2 Insufficient example.com/dongle. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
	w.slice("b", device("one"), device("two"))
	w.standIn("dongles") // which wakes the pod
	w.placed("p", "b")
	p, claims := w.getPod("p"), w.extendedClaims()
	if len(claims) != 1 {
		t.Fatalf("claims are %v, want one", claims)
	}
	c := claims[0]
	if !metav1.IsControlledBy(&c, p) || c.Status.Allocation == nil || len(c.Status.ReservedFor) != 1 || c.Status.ReservedFor[0].UID != p.UID || !slices.Contains(c.Finalizers, resourcev1.Finalizer) {
		t.Errorf("claim is %+v of %v, want it the pod's, allocated and held", c.Status, c.OwnerReferences)
	}
	s := p.Status.ExtendedResourceClaimStatus
	want := corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: dongle, RequestName: "container-0-request-0"}
	if s == nil || s.ResourceClaimName != c.Name || !slices.Equal(s.RequestMappings, []corev1.ContainerExtendedResourceRequest{want}) {
		t.Errorf("the pod says %+v, want claim %s and %+v", s, c.Name, want)
	}

	// The other name of the class is for everybody; there is one more device, and no third.
	w.requesting("q", resourcev1.ResourceDeviceClassPrefix+"dongles")
	w.placed("q", "b")
	w.requesting("r", dongle)
	w.waits("r", corev1.PodReasonUnschedulable, "0/2 nodes are available: 2 cannot allocate all claims. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
}

// TestNodeWithExtendedResource: what a node has by itself needs no devices.
func TestNodeWithExtendedResource(t *testing.T) {
	w := startWorld(t)
	w.standIn("dongles")
	w.must(w.CoreV1().Nodes().Patch(t.Context(), "a", "application/merge-patch+json", []byte(`{"status":{"capacity":{"example.com/dongle":"1"},"allocatable":{"example.com/dongle":"1"}}}`), metav1.PatchOptions{}, "status"))
	w.requesting("p", dongle)
	w.placed("p", "a")
	if claims := w.extendedClaims(); len(claims) > 0 {
		t.Errorf("claims are %v, want none", claims)
	}
}

// TestClaimForExtendedResourcesOfAnEarlierAttempt: nobody knows whether what it has is still right. It goes, and the pod
// gets another one.
func TestClaimForExtendedResourcesOfAnEarlierAttempt(t *testing.T) {
	w := startWorld(t)
	w.standIn("dongles")
	w.requesting("p", dongle)
	w.waits("p", corev1.PodReasonUnschedulable, "0/2 nodes are available: 2 cannot allocate all claims. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
	p := w.getPod("p")
	w.must(w.ResourceV1().ResourceClaims("ns").Create(t.Context(), &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "stale", Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}, Finalizers: []string{resourcev1.Finalizer},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))}},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{request("container-0-request-0", nil)}}},
	}, metav1.CreateOptions{}))
	w.eventually("the claim in the cache", func() error {
		_, err := w.s.devices.claim("ns", "stale")
		return err
	})
	w.slice("b", device("one"))
	w.placed("p", "b")
	w.eventually("the claims", func() error {
		if claims := w.extendedClaims(); len(claims) != 1 || claims[0].Name == "stale" {
			return fmt.Errorf("are %v, want another one than stale", claims)
		}
		return nil
	})
}
