package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

// amounts writes a list as "name=quantity" in order, for comparison.
func amounts(list corev1.ResourceList) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(list)) {
		quantity := list[name]
		parts = append(parts, fmt.Sprintf("%s=%s", name, quantity.String()))
	}
	return strings.Join(parts, " ")
}

// resources reads "name=quantity" pairs.
func resources(text string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for pair := range strings.FieldsSeq(text) {
		name, quantity, _ := strings.Cut(pair, "=")
		list[corev1.ResourceName(name)] = resource.MustParse(quantity)
	}
	return list
}

func pod(requests, limits string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: resources(requests), Limits: resources(limits)}}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestUsage(t *testing.T) {
	now := time.Now()
	service := func(s corev1.ServiceSpec) *corev1.Service { return &corev1.Service{Spec: s} }
	ports := []corev1.ServicePort{{Port: 80}, {Port: 443, NodePort: 30443}}
	for _, c := range []struct {
		name string
		kind schema.GroupResource
		obj  runtime.Object
		want string
	}{
		{"anything", schema.GroupResource{Group: "apps", Resource: "deployments"}, &corev1.ConfigMap{}, "count/deployments.apps=1"},
		{"one with an old name", schema.GroupResource{Resource: "configmaps"}, &corev1.ConfigMap{}, "configmaps=1 count/configmaps=1"},
		{"idle pod", Pods, pod("", ""), "count/pods=1 pods=1"},
		{"pod", Pods, pod("cpu=1 memory=1Gi example.com/gpu=2", "cpu=2"),
			"count/pods=1 cpu=1 limits.cpu=2 memory=1Gi pods=1 requests.cpu=1 requests.example.com/gpu=2 requests.memory=1Gi"},
		{"ended pod", Pods, pod("cpu=1", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), "count/pods=1"},
		{"pod on its way out", Pods, pod("cpu=1", "", func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: now}, ptr.To(int64(30))
		}), "count/pods=1 cpu=1 pods=1 requests.cpu=1"},
		{"pod stuck on its way out", Pods, pod("cpu=1", "", func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: now.Add(-time.Hour)}, ptr.To(int64(30))
		}), "count/pods=1"},
		{"cluster IP", Services, service(corev1.ServiceSpec{Type: "ClusterIP", Ports: ports}), "count/services=1 services=1 services.loadbalancers=0 services.nodeports=0"},
		{"node ports", Services, service(corev1.ServiceSpec{Type: "NodePort", Ports: ports}), "count/services=1 services=1 services.loadbalancers=0 services.nodeports=2"},
		{"load balancer", Services, service(corev1.ServiceSpec{Type: "LoadBalancer", Ports: ports}), "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"},
		{"load balancer without node ports", Services, service(corev1.ServiceSpec{Type: "LoadBalancer", Ports: ports, AllocateLoadBalancerNodePorts: ptr.To(false)}),
			"count/services=1 services=1 services.loadbalancers=1 services.nodeports=1"},
		{"claim", Claims, &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("gold"), Resources: corev1.VolumeResourceRequirements{Requests: resources("storage=1500m")}}},
			"count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2 persistentvolumeclaims=1 requests.storage=2"},
	} {
		if got := amounts(Usage(c.kind, c.obj, now)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestKind(t *testing.T) {
	for name, want := range map[corev1.ResourceName]string{
		"pods": "pods", "limits.memory": "pods", "requests.example.com/gpu": "pods", "hugepages-2Mi": "pods", "requests.hugepages-2Mi": "pods",
		"count/jobs.batch": "jobs.batch", "configmaps": "configmaps", "services.nodeports": "services",
		"requests.storage": "persistentvolumeclaims", "gold.storageclass.storage.k8s.io/requests.storage": "persistentvolumeclaims",
		"example.com/gpu": "", "nonsense": "",
	} {
		kind, ok := Kind(name)
		if ok != (want != "") || ok && kind.String() != want {
			t.Errorf("%s: got %s (%t), want %q", name, kind, ok, want)
		}
	}
}

func TestDevices(t *testing.T) {
	claim := &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Name: "a", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}},
		{Name: "b", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "nic", AllocationMode: resourcev1.DeviceAllocationModeAll}},
		{Name: "c", FirstAvailable: []resourcev1.DeviceSubRequest{
			{Name: "x", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 3},
			{Name: "y", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
			{Name: "z", DeviceClassName: "fpga", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
		}},
	}}}}
	const want = "count/resourceclaims.resource.k8s.io=1 fpga.deviceclass.resource.k8s.io/devices=1 gpu.deviceclass.resource.k8s.io/devices=5 nic.deviceclass.resource.k8s.io/devices=32"
	if got := amounts(Usage(DeviceClaims, claim, time.Now())); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if kind, ok := Kind("gpu.deviceclass.resource.k8s.io/devices"); !ok || kind != DeviceClaims {
		t.Errorf("devices of a class are counted by %v", kind)
	}
}

func TestScopes(t *testing.T) {
	idle, busy := pod("", ""), pod("cpu=1", "")
	deadline := pod("", "", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(int64(5)) })
	urgent := pod("", "", func(p *corev1.Pod) { p.Spec.PriorityClassName = "urgent" })
	scope := func(names ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
		return &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Scopes: names}}
	}
	class := func(operator corev1.ScopeSelectorOperator, values ...string) *corev1.ResourceQuota {
		return &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{
			MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: operator, Values: values}},
		}}}
	}
	for _, c := range []struct {
		name  string
		quota *corev1.ResourceQuota
		pod   *corev1.Pod
		want  bool
	}{
		{"none", scope(), idle, true},
		{"best effort", scope(corev1.ResourceQuotaScopeBestEffort), idle, true},
		{"best effort, but it requests", scope(corev1.ResourceQuotaScopeBestEffort), busy, false},
		{"not best effort", scope(corev1.ResourceQuotaScopeNotBestEffort), busy, true},
		{"terminating", scope(corev1.ResourceQuotaScopeTerminating), deadline, true},
		{"not terminating", scope(corev1.ResourceQuotaScopeNotTerminating), deadline, false},
		{"two scopes", scope(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeBestEffort), deadline, true},
		{"two scopes, one of which is not", scope(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotBestEffort), deadline, false},
		{"class", class(corev1.ScopeSelectorOpIn, "urgent"), urgent, true},
		{"another class", class(corev1.ScopeSelectorOpIn, "usual"), urgent, false},
		{"class of a pod without", class(corev1.ScopeSelectorOpIn, "usual"), idle, false},
		{"not that class", class(corev1.ScopeSelectorOpNotIn, "usual"), idle, true},
		{"any class", class(corev1.ScopeSelectorOpExists), urgent, true},
		{"no class", class(corev1.ScopeSelectorOpDoesNotExist), urgent, false},
	} {
		if got := Matches(c.quota, resources("pods=1"), Pods, c.pod); got != c.want {
			t.Errorf("%s: got %t, want %t", c.name, got, c.want)
		}
	}
	if Matches(scope(corev1.ResourceQuotaScopeBestEffort), resources("services=1"), Services, &corev1.Service{}) {
		t.Error("a quota of pods is about services")
	}
}

func TestUsed(t *testing.T) {
	q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: resources("pods=5 requests.cpu=4 limits.memory=1Gi services=2")}}
	got := amounts(Used(q, Pods, []runtime.Object{pod("cpu=500m", ""), pod("cpu=1", "")}, time.Now()))
	if want := "limits.memory=0 pods=2 requests.cpu=1500m"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestUnstated(t *testing.T) {
	p := pod("cpu=1", "")
	p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
	err := Unstated(p, []corev1.ResourceName{"limits.cpu", "pods", "requests.cpu"})
	if want := "must specify limits.cpu for: c,i; requests.cpu for: i"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := Unstated(pod("cpu=1", "cpu=1"), []corev1.ResourceName{"limits.cpu", "requests.cpu"}); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
