package pods

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func withPort(protocol v1.Protocol, ip string, number int32) *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Ports: []v1.ContainerPort{{Protocol: protocol, HostIP: ip, HostPort: number}}}}}}
}

func withRequest(name v1.ResourceName, amount string) *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{
		Resources: v1.ResourceRequirements{Requests: v1.ResourceList{name: resource.MustParse(amount)}},
	}}}}
}

func TestRefuse(t *testing.T) {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"zone": "a"}},
		Spec:       v1.NodeSpec{Taints: []v1.Taint{{Key: "k", Value: "v", Effect: v1.TaintEffectNoExecute}, {Key: "soft", Effect: v1.TaintEffectNoSchedule}}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("3"), "example.com/dongle": resource.MustParse("1"),
		}},
	}
	tolerate := []v1.Toleration{{Operator: v1.TolerationOpExists}}
	for _, test := range []struct {
		name            string
		pod             *v1.Pod
		others          []*v1.Pod
		reason, message string
	}{
		{name: "fits", pod: withRequest("cpu", "2")},
		{name: "too much cpu", pod: withRequest("cpu", "1500m"), others: []*v1.Pod{withRequest("cpu", "1")},
			reason: "OutOfcpu", message: "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"},
		{name: "too much memory", pod: withRequest("memory", "2Gi"), reason: "OutOfmemory",
			message: "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
		{name: "too many pods", pod: &v1.Pod{}, others: []*v1.Pod{{}, {}, {}}, reason: "OutOfpods",
			message: "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"},
		{name: "extended resource taken", pod: withRequest("example.com/dongle", "1"), others: []*v1.Pod{withRequest("example.com/dongle", "1")}, reason: "OutOfexample.com/dongle"},
		{name: "extended resource the node does not have", pod: withRequest("example.com/other", "1")},
		{name: "selector does not match", pod: &v1.Pod{Spec: v1.PodSpec{NodeSelector: map[string]string{"zone": "b"}}},
			reason: "NodeAffinity", message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{name: "selector matches", pod: &v1.Pod{Spec: v1.PodSpec{NodeSelector: map[string]string{"zone": "a"}}}},
		{name: "same port", pod: withPort("TCP", "", 80), others: []*v1.Pod{withPort("TCP", "127.0.0.1", 80)}, reason: "NodePorts",
			message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		{name: "same port, other protocol", pod: withPort("UDP", "", 80), others: []*v1.Pod{withPort("TCP", "", 80)}},
		{name: "same port, other address", pod: withPort("TCP", "10.0.0.1", 80), others: []*v1.Pod{withPort("TCP", "10.0.0.2", 80)}},
		{name: "other system", pod: &v1.Pod{Spec: v1.PodSpec{OS: &v1.PodOS{Name: v1.Windows}}}, reason: "PodOSNotSupported"},
		{name: "not tolerated", pod: &v1.Pod{Spec: v1.PodSpec{Tolerations: []v1.Toleration{{Key: "k", Value: "other"}}}}, reason: "TaintToleration"},
		{name: "tolerated", pod: &v1.Pod{Spec: v1.PodSpec{Tolerations: []v1.Toleration{{Key: "k", Value: "v", Effect: v1.TaintEffectNoExecute}}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.reason != "TaintToleration" && test.name != "tolerated" {
				test.pod.Spec.Tolerations = tolerate
			}
			f := Refuse(test.pod, node, test.others)
			if f == nil {
				if test.reason != "" {
					t.Errorf("admitted, want %s", test.reason)
				}
				return
			}
			if f.Reason != test.reason || test.message != "" && f.Message != test.message {
				t.Errorf("refused with %s: %s, want %s: %s", f.Reason, f.Message, test.reason, test.message)
			}
		})
	}
}
