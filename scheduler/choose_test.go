package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

func testNode(name, cpu string, change ...func(*corev1.Node)) *plugin.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10"),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return plugin.NewNode(n)
}

func tainted(n *corev1.Node) {
	n.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
}

func testPod(name, cpu string, change ...func(*corev1.Pod)) *plugin.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}},
	}
	for _, f := range change {
		f(p)
	}
	return plugin.NewPod(p)
}

func priority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func awayFrom(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, TopologyKey: corev1.LabelHostname,
			}},
		}}
	}
}

func hostPort(port int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port, Protocol: corev1.ProtocolTCP}}
	}
}

func snapshotOf(nodes ...*plugin.Node) *plugin.Snapshot {
	return &plugin.Snapshot{
		Nodes:           nodes,
		NamespaceLabels: func(string) labels.Set { return nil },
		OwnerSelector:   func(*corev1.Pod) labels.Selector { return nil },
	}
}

func TestChoose(t *testing.T) {
	for name, test := range map[string]struct {
		pod           *plugin.Pod
		nodes         []*plugin.Node
		node, message string
	}{
		"no nodes at all": {
			pod: testPod("p", "1"), message: "no nodes available to schedule pods",
		},
		"the node with more left": {
			pod:   testPod("p", "1"),
			nodes: []*plugin.Node{testNode("small", "2"), testNode("large", "16")},
			node:  "large",
		},
		"every reason is counted": {
			pod:     testPod("p", "3"),
			nodes:   []*plugin.Node{testNode("a", "2"), testNode("b", "2"), testNode("c", "8", tainted)},
			message: "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu.",
		},
		"host ports conflict": {
			pod:     testPod("p", "1", hostPort(80)),
			nodes:   []*plugin.Node{testNode("a", "4").Add(testPod("q", "1", hostPort(80)))},
			message: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
		},
		"anti-affinity of the pod": {
			pod:     testPod("p", "1", awayFrom("q")),
			nodes:   []*plugin.Node{testNode("a", "4").Add(testPod("q", "1"))},
			message: "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
		},
		"anti-affinity of a pod that is there": {
			pod:     testPod("p", "1"),
			nodes:   []*plugin.Node{testNode("a", "4").Add(testPod("q", "1", awayFrom("p")))},
			message: "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
		},
		"a nominated node is taken though another scores higher": {
			pod:   testPod("p", "1", func(p *corev1.Pod) { p.Status.NominatedNodeName = "small" }),
			nodes: []*plugin.Node{testNode("large", "16"), testNode("small", "2")},
			node:  "small",
		},
		"a claim that cannot be met is said at once": {
			pod: testPod("p", "1", func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
				}}}
			}),
			nodes:   []*plugin.Node{testNode("a", "4")},
			message: `0/1 nodes are available: persistentvolumeclaim "data": persistent volumes are not supported by this scheduler.`,
		},
		"hard spreading leaves the fuller node": {
			pod: testPod("p", "1", func(p *corev1.Pod) {
				p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
					MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
					LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "p"}},
				}}
			}),
			nodes: []*plugin.Node{testNode("empty", "2"), testNode("full", "16").Add(testPod("p", "1"))},
			node:  "empty",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := choose(test.pod, snapshotOf(test.nodes...), 0)
			if got.node != test.node {
				t.Errorf("node: got %q (%s), want %q", got.node, got.message(), test.node)
			}
			if test.node == "" && got.message() != test.message {
				t.Errorf("message:\ngot  %s\nwant %s", got.message(), test.message)
			}
		})
	}
}

func TestPlanEviction(t *testing.T) {
	low, mid := priority(1), priority(5)
	for name, test := range map[string]struct {
		pod     *plugin.Pod
		nodes   []*plugin.Node
		node    string
		victims []string
		why     string
	}{
		"the fewest pods go": {
			pod:   testPod("p", "2", priority(10)),
			nodes: []*plugin.Node{testNode("a", "4").Add(testPod("x", "1", low)).Add(testPod("y", "1", low)).Add(testPod("z", "2", mid))},
			node:  "a", victims: []string{"x", "y"},
		},
		"the node whose victims matter least": {
			pod: testPod("p", "2", priority(10)),
			nodes: []*plugin.Node{
				testNode("a", "2").Add(testPod("x", "2", mid)),
				testNode("b", "2").Add(testPod("y", "2", low)),
			},
			node: "b", victims: []string{"y"},
		},
		"pods of the same priority stay": {
			pod:   testPod("p", "2", mid),
			nodes: []*plugin.Node{testNode("a", "2").Add(testPod("x", "2", mid))},
			why:   "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
		},
		"a taint is not helped by eviction": {
			pod:   testPod("p", "1", priority(10)),
			nodes: []*plugin.Node{testNode("a", "2", tainted).Add(testPod("x", "1", low))},
			why:   "0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		},
		"a pod that must not preempt": {
			pod:   testPod("p", "2", priority(10), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }),
			nodes: []*plugin.Node{testNode("a", "2").Add(testPod("x", "2", low))},
			why:   "not eligible due to preemptionPolicy=Never.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshotOf(test.nodes...)
			plan, why := planEviction(test.pod, s, choose(test.pod, s, 0), nil)
			if why != test.why {
				t.Errorf("why: got %q, want %q", why, test.why)
			}
			if plan == nil {
				if test.node != "" {
					t.Error("no plan")
				}
				return
			}
			var victims []string
			for _, v := range plan.victims {
				victims = append(victims, v.Name)
			}
			if plan.node != test.node || len(victims) != len(test.victims) {
				t.Errorf("got %v from %s, want %v from %s", victims, plan.node, test.victims, test.node)
			}
		})
	}
}
