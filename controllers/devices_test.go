package controllers_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// deviceTemplate makes a template for claims of one device.
func (w *world) deviceTemplate(name string) {
	w.t.Helper()
	template := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceClaimTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"from": name}, Annotations: map[string]string{"note": "kept"}}, Spec: oneDevice(),
	}}
	if _, err := w.ResourceV1().ResourceClaimTemplates(w.namespace).Create(w.t.Context(), template, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func oneDevice() resourcev1.ResourceClaimSpec {
	return resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}},
	}}}
}

// devicePod makes a pod with claims.
func (w *world) devicePod(name, image string, claims ...corev1.PodResourceClaim) *corev1.Pod {
	w.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: image}}, ResourceClaims: claims,
	}}
	pod, err := w.CoreV1().Pods(w.namespace).Create(w.t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return pod
}

func templated(name, template string) corev1.PodResourceClaim {
	return corev1.PodResourceClaim{Name: name, ResourceClaimTemplateName: &template}
}

func shared(claim string) corev1.PodResourceClaim {
	return corev1.PodResourceClaim{Name: "shared", ResourceClaimName: &claim}
}

// claimsOfPod waits until the status of a pod names so many claims, and returns their names by those of the pod.
func (w *world) claimsOfPod(pod string, n int) map[string]string {
	w.t.Helper()
	names := map[string]string{}
	w.eventually("claims of pod "+pod, func() error {
		p, err := w.CoreV1().Pods(w.namespace).Get(w.t.Context(), pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(p.Status.ResourceClaimStatuses) != n {
			return fmt.Errorf("got %v, want %d", p.Status.ResourceClaimStatuses, n)
		}
		for _, s := range p.Status.ResourceClaimStatuses {
			names[s.Name] = *s.ResourceClaimName
		}
		return nil
	})
	return names
}

// allocate does what a scheduler would: it gives a device to a claim, and reserves it for pods.
func (w *world) allocate(claim string, pods ...*corev1.Pod) {
	w.t.Helper()
	w.eventually("allocation of "+claim, func() error {
		c, err := w.ResourceV1().ResourceClaims(w.namespace).Get(w.t.Context(), claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c.Finalizers = []string{resourcev1.Finalizer}
		if c, err = w.ResourceV1().ResourceClaims(w.namespace).Update(w.t.Context(), c, metav1.UpdateOptions{}); err != nil {
			return err
		}
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "r", Driver: "example.com", Pool: "p", Device: "d"},
		}}}
		for _, pod := range pods {
			c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		}
		_, err = w.ResourceV1().ResourceClaims(w.namespace).UpdateStatus(w.t.Context(), c, metav1.UpdateOptions{})
		return err
	})
}

// claimIs waits until a claim is reserved for so many pods, and has devices or none.
func (w *world) claimIs(claim string, allocated bool, reserved int) *resourcev1.ResourceClaim {
	w.t.Helper()
	var c *resourcev1.ResourceClaim
	w.eventually("claim "+claim, func() (err error) {
		c, err = w.ResourceV1().ResourceClaims(w.namespace).Get(w.t.Context(), claim, metav1.GetOptions{})
		if err == nil && ((c.Status.Allocation != nil) != allocated || len(c.Status.ReservedFor) != reserved || (len(c.Finalizers) > 0) != allocated) {
			err = fmt.Errorf("status %+v with finalizers %q, want allocated %t, reserved for %d", c.Status, c.Finalizers, allocated, reserved)
		}
		return err
	})
	return c
}

func (w *world) claimGone(claim string) {
	w.t.Helper()
	w.eventually("end of claim "+claim, func() error {
		_, err := w.ResourceV1().ResourceClaims(w.namespace).Get(w.t.Context(), claim, metav1.GetOptions{})
		return gone(err)
	})
}

func (w *world) deletePod(name string) {
	w.t.Helper()
	if err := w.CoreV1().Pods(w.namespace).Delete(w.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func TestDeviceClaimsAreMadeOfTemplates(t *testing.T) {
	w := start(t)
	w.deviceTemplate("gpu")
	pod := w.devicePod("p", "app", templated("one", "gpu"), templated("two", "gpu"))
	names := w.claimsOfPod("p", 2)
	claim, err := w.ResourceV1().ResourceClaims(w.namespace).Get(t.Context(), names["one"], metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owner := metav1.GetControllerOf(claim)
	switch {
	case !strings.HasPrefix(claim.Name, "p-one-"):
		t.Errorf("claim is called %s, want p-one-…", claim.Name)
	case owner == nil || owner.UID != pod.UID || owner.Kind != "Pod" || owner.APIVersion != "v1" || owner.BlockOwnerDeletion != nil:
		t.Errorf("owner is %v, want the pod", owner)
	case claim.Annotations[resourcev1.PodResourceClaimAnnotation] != "one" || claim.Annotations["note"] != "kept" || claim.Labels["from"] != "gpu":
		t.Errorf("metadata is %v %v, want that of the template and the claim of the pod", claim.Annotations, claim.Labels)
	case len(claim.Spec.Devices.Requests) != 1:
		t.Errorf("spec is %v, want that of the template", claim.Spec)
	}

	// Without its claim the pod could not start: there is a new one, and the other stays what it is.
	if err := w.ResourceV1().ResourceClaims(w.namespace).Delete(t.Context(), names["one"], metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("a claim in place of the one deleted", func() error {
		if now := w.claimsOfPod("p", 2); now["one"] == names["one"] || now["two"] != names["two"] {
			return fmt.Errorf("claims are %v, were %v", now, names)
		}
		return nil
	})
	w.deletePod("p")
	w.claimGone(w.lastClaim("two"))
}

// lastClaim is the claim that was made for a claim of a pod; there must be one at most.
func (w *world) lastClaim(of string) string {
	w.t.Helper()
	list, err := w.ResourceV1().ResourceClaims(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range list.Items {
		if c.Annotations[resourcev1.PodResourceClaimAnnotation] == of {
			return c.Name
		}
	}
	return "none"
}

// TestDeviceClaimsAreMadeOnce: whatever happens between making a claim and naming it, there is one.
func TestDeviceClaimsAreMadeOnce(t *testing.T) {
	w := start(t)
	w.deviceTemplate("gpu")
	const pods = 20
	for i := range pods {
		w.devicePod(fmt.Sprint("p", i), "app", templated("one", "gpu"))
	}
	w.restart()
	for i := range pods {
		w.claimsOfPod(fmt.Sprint("p", i), 1)
	}
	list, err := w.ResourceV1().ResourceClaims(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != pods {
		t.Errorf("%d claims for %d pods: %v", len(list.Items), pods, err)
	}
}

func TestDeviceClaimWaitsForTemplate(t *testing.T) {
	w := start(t)
	w.devicePod("p", "app", templated("one", "late"))
	const want = `PodResourceClaim one: resource claim template "late": resourceclaimtemplate.resource.k8s.io "late" not found`
	w.eventually("an event about the template", func() error {
		events, err := w.CoreV1().Events(w.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=FailedResourceClaimCreation"})
		if err == nil && (len(events.Items) == 0 || events.Items[0].Message != want) {
			err = fmt.Errorf("got %v, want %s", events.Items, want)
		}
		return err
	})
	w.deviceTemplate("late")
	w.claimsOfPod("p", 1)
}

func TestDevicesAreGivenBack(t *testing.T) {
	w := start(t)
	w.deviceTemplate("gpu")
	t.Run("by a pod that ends", func(t *testing.T) {
		w := w.in(t)
		pod := w.devicePod("ends", "stuck", templated("one", "gpu"))
		claim := w.claimsOfPod("ends", 1)["one"]
		w.allocate(claim, pod)
		w.claimIs(claim, true, 1)
		ended := []byte(`{"status":{"phase":"Succeeded"}}`)
		if _, err := w.CoreV1().Pods(w.namespace).Patch(t.Context(), "ends", types.MergePatchType, ended, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		w.claimGone(claim)
	})
	t.Run("by the last of two", func(t *testing.T) {
		w := w.in(t)
		w.deviceClaim("both")
		a, b := w.devicePod("a", "app", shared("both")), w.devicePod("b", "app", shared("both"))
		w.allocate("both", a, b)
		w.deletePod("a")
		w.claimIs("both", true, 1)
		w.deletePod("b")
		w.claimIs("both", false, 0)
	})
	t.Run("not by what is no pod", func(t *testing.T) {
		w := w.in(t)
		w.deviceClaim("other")
		pod := w.devicePod("c", "app", shared("other"))
		w.allocate("other", pod)
		c := w.claimIs("other", true, 1)
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{APIGroup: "example.com", Resource: "things", Name: "x", UID: "x"})
		if _, err := w.ResourceV1().ResourceClaims(w.namespace).UpdateStatus(t.Context(), c, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.deletePod("c")
		if c := w.claimIs("other", true, 1); c.Status.ReservedFor[0].Resource != "things" {
			t.Errorf("reserved for %v", c.Status.ReservedFor)
		}
	})
	t.Run("by a claim that is deleted", func(t *testing.T) {
		w := w.in(t)
		w.deviceClaim("held")
		pod := w.devicePod("d", "app", shared("held"))
		w.allocate("held", pod)
		if err := w.ResourceV1().ResourceClaims(w.namespace).Delete(t.Context(), "held", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.claimIs("held", true, 1)
		w.deletePod("d")
		w.claimGone("held")
	})
	t.Run("by a deleted claim that was never used", func(t *testing.T) {
		w := w.in(t)
		w.deviceClaim("idle")
		w.allocate("idle")
		if err := w.ResourceV1().ResourceClaims(w.namespace).Delete(t.Context(), "idle", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.claimGone("idle")
	})
}

// TestDevicesOfPodsWithoutScheduler: a pod that came to its node by itself has its claims reserved.
func TestDevicesOfPodsWithoutScheduler(t *testing.T) {
	w := start(t)
	w.deviceClaim("c")
	w.devicePod("p", "app", shared("c"))
	w.eventually("the binding", func() error {
		p, err := w.CoreV1().Pods(w.namespace).Get(t.Context(), "p", metav1.GetOptions{})
		if err == nil && p.Spec.NodeName == "" {
			err = fmt.Errorf("not bound")
		}
		return err
	})
	w.allocate("c")
	w.claimIs("c", true, 1)
}

// TestSlicesGoWithTheirNode: drivers make a node the owner of its slices.
func TestSlicesGoWithTheirNode(t *testing.T) {
	w := start(t)
	node, err := w.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "leaves"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slice := &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "s", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}},
		Spec:       resourcev1.ResourceSliceSpec{Driver: "example.com", NodeName: &node.Name, Pool: resourcev1.ResourcePool{Name: node.Name, ResourceSliceCount: 1}},
	}
	if _, err := w.ResourceV1().ResourceSlices().Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.CoreV1().Nodes().Delete(t.Context(), node.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the slice", func() error {
		_, err := w.ResourceV1().ResourceSlices().Get(t.Context(), "s", metav1.GetOptions{})
		return gone(err)
	})
}

// TestTaintedDevicesDrivePodsAway: a pod goes when its device gets a taint that its claim does not tolerate, and one
// whose claim does stays.
func TestTaintedDevicesDrivePodsAway(t *testing.T) {
	w := start(t)
	device := resourcev1.Device{Name: "d"}
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "example.com", AllNodes: ptr(true), Pool: resourcev1.ResourcePool{Name: "p", ResourceSliceCount: 1}, Devices: []resourcev1.Device{device},
	}}
	slice, err := w.ResourceV1().ResourceSlices().Create(t.Context(), slice, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var pods []*corev1.Pod
	for _, name := range []string{"goes", "stays", "later"} {
		w.deviceClaim(name)
		pods = append(pods, w.devicePod(name, "app", shared(name)))
	}
	forever := resourcev1.DeviceToleration{Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoExecute}
	hour := forever
	hour.TolerationSeconds = ptr(int64(3600))
	w.allocate("goes", pods[0])
	w.tolerate("stays", pods[1], forever)
	w.tolerate("later", pods[2], hour)
	for _, pod := range pods {
		w.eventually("the binding", func() error {
			p, err := w.CoreV1().Pods(w.namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
			if err == nil && p.Spec.NodeName == "" {
				err = fmt.Errorf("not bound")
			}
			return err
		})
	}
	slice.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoExecute}}
	if slice, err = w.ResourceV1().ResourceSlices().Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the pod", func() error {
		_, err := w.CoreV1().Pods(w.namespace).Get(t.Context(), "goes", metav1.GetOptions{})
		return gone(err)
	})
	w.told("goes", "Marking for deletion")
	slice.Spec.Devices[0].Taints = nil
	if _, err = w.ResourceV1().ResourceSlices().Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.told("later", "Cancelling deletion") // by then everything has been looked at
	for _, name := range []string{"stays", "later"} {
		if p, err := w.CoreV1().Pods(w.namespace).Get(t.Context(), name, metav1.GetOptions{}); err != nil || p.DeletionTimestamp != nil {
			t.Errorf("pod %s is going or gone: %v", name, err)
		}
	}
}

// tolerate is allocate for a claim with a toleration.
func (w *world) tolerate(claim string, pod *corev1.Pod, toleration resourcev1.DeviceToleration) {
	w.t.Helper()
	w.eventually("allocation of "+claim, func() error {
		c, err := w.ResourceV1().ResourceClaims(w.namespace).Get(w.t.Context(), claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "r", Driver: "example.com", Pool: "p", Device: "d", Tolerations: []resourcev1.DeviceToleration{toleration}},
		}}}
		c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: pod.Name, UID: pod.UID}}
		_, err = w.ResourceV1().ResourceClaims(w.namespace).UpdateStatus(w.t.Context(), c, metav1.UpdateOptions{})
		return err
	})
}

// told waits for an event about the devices of a pod.
func (w *world) told(pod, message string) {
	w.t.Helper()
	w.eventually("an event about pod "+pod, func() error {
		events, err := w.CoreV1().Events(w.namespace).List(w.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",reason=DeviceTaintManagerEviction"})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Message == message {
				return nil
			}
		}
		return fmt.Errorf("got %v, want %s", events.Items, message)
	})
}

// TestQuotaOfDevices: claims are charged for the devices they may get, by class.
func TestQuotaOfDevices(t *testing.T) {
	w := start(t)
	const gpus, claims = corev1.ResourceName("gpus.deviceclass.resource.k8s.io/devices"), corev1.ResourceName("count/resourceclaims.resource.k8s.io")
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{gpus: resource.MustParse("1"), claims: resource.MustParse("5")}}}
	if _, err := w.CoreV1().ResourceQuotas(w.namespace).Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(want int64) {
		t.Helper()
		w.eventually("usage", func() error {
			q, err := w.CoreV1().ResourceQuotas(w.namespace).Get(t.Context(), "q", metav1.GetOptions{})
			if err != nil {
				return err
			}
			devices, ok := q.Status.Used[gpus]
			if n := q.Status.Used[claims]; !ok || devices.Value() != want || n.Value() != want {
				return fmt.Errorf("used is %v, want %d", q.Status.Used, want)
			}
			return nil
		})
	}
	used(0)
	w.deviceClaim("first")
	used(1)
	second := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "second"}, Spec: oneDevice()}
	_, err := w.ResourceV1().ResourceClaims(w.namespace).Create(t.Context(), second, metav1.CreateOptions{})
	const want = `resourceclaims.resource.k8s.io "second" is forbidden: exceeded quota: q, requested: gpus.deviceclass.resource.k8s.io/devices=1, used: gpus.deviceclass.resource.k8s.io/devices=1, limited: gpus.deviceclass.resource.k8s.io/devices=1`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := w.ResourceV1().ResourceClaims(w.namespace).Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used(0)
}

func (w *world) deviceClaim(name string) {
	w.t.Helper()
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: oneDevice()}
	if _, err := w.ResourceV1().ResourceClaims(w.namespace).Create(w.t.Context(), claim, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// in is w for a part of a test.
func (w *world) in(t *testing.T) *world {
	part := *w
	part.t = t
	return &part
}
