package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// workload is a kind of cluster and of pods. They are of the shapes of upstream's scheduler_perf.
type workload struct {
	name string
	// before changes the pods that are on nodes from the start, and pod those that are measured.
	before, pod func(*corev1.Pod)
	// beforeEach is how many there are on each node; 0: as many in all as are measured.
	beforeEach int
	// part is which part of the pods is measured, if not all; for what takes long.
	part int
	// churn has other objects come and go meanwhile.
	churn bool
}

// zones is over how many zones the nodes are spread.
const zones = 3

var workloads = []workload{
	{name: "basic"},
	{name: "node affinity", pod: inZones("zone-0", "zone-1")},
	{name: "pod anti-affinity", before: apart, pod: apart},
	{name: "preferred pod affinity", before: together, pod: together},
	{name: "topology spread", pod: spread},
	{name: "preemption", beforeEach: 4, part: 4, before: small, pod: large},
	{name: "churn", churn: true},
}

func newNode(i int) *corev1.Node {
	name := fmt.Sprint("node-", i)
	offers := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%zones),
		}},
		Status: corev1.NodeStatus{
			Capacity: offers, Allocatable: offers, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func newPod(name, app string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(0)), // nobody else would end it
			AutomountServiceAccountToken:  ptr.To(false),
			Containers:                    []corev1.Container{{Name: "main", Image: "none", Resources: requests("100m", "500Mi")}},
		},
	}
	if change != nil {
		change(p)
	}
	return p
}

func requests(cpu, memory string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}}
}

func inZones(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: names},
			}}},
		}}}
	}
}

// group makes pods of one workload one group, whether they are there before or measured.
func group(p *corev1.Pod) *metav1.LabelSelector {
	p.Labels["group"] = "one"
	return &metav1.LabelSelector{MatchLabels: map[string]string{"group": "one"}}
}

// apart lets one pod of those that are there before, and one of those that are measured, be on a node.
func apart(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}, TopologyKey: corev1.LabelHostname},
	}}}
}

func together(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
		{Weight: 1, PodAffinityTerm: corev1.PodAffinityTerm{LabelSelector: group(p), TopologyKey: corev1.LabelHostname}},
	}}}
}

func spread(p *corev1.Pod) {
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{
		{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: group(p)},
	}
}

// small and large are pods of which four, or one, fit on a node.
func small(p *corev1.Pod) { p.Spec.Containers[0].Resources = requests("900m", "500Mi") }

func large(p *corev1.Pod) {
	p.Spec.Containers[0].Resources = requests("3", "500Mi")
	p.Spec.PriorityClassName = urgent
}
