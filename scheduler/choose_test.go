package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
		Cluster:         plugin.NewCluster(nodes),
		NamespaceLabels: func(string) labels.Set { return nil },
		OwnerSelector:   func(*corev1.Pod) labels.Selector { return nil },
		Storage:         testStorage,
	}
}

// testStorage has a class whose claims wait for pods, a volume that is only on
// node a, and a claim in each state, named after it.
var testStorage = plugin.Storage{
	Claim: func(namespace, name string) (*corev1.PersistentVolumeClaim, error) {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		switch name {
		case "unbound":
		case "bound", "exclusive":
			claim.Spec.VolumeName, claim.Status.Phase = "on-a", corev1.ClaimBound
			if name == "exclusive" {
				claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			}
		case "dangling":
			claim.Spec.VolumeName, claim.Status.Phase = "gone", corev1.ClaimBound
		case "waiting", "huge":
			claim.Spec.StorageClassName = ptr.To("local")
			if name == "huge" {
				claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("1Ti")
			}
		default:
			return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaim"), name)
		}
		return claim, nil
	},
	Volume: func(name string) (*corev1.PersistentVolume, error) {
		if name != onA.Name {
			return nil, apierrors.NewNotFound(corev1.Resource("persistentvolume"), name)
		}
		return onA, nil
	},
	Volumes: func() ([]*corev1.PersistentVolume, error) { return []*corev1.PersistentVolume{onA}, nil },
	Class: func(name string) (*storagev1.StorageClass, error) {
		if name != "local" {
			return nil, apierrors.NewNotFound(storagev1.Resource("storageclass"), name)
		}
		return &storagev1.StorageClass{
			Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
		}, nil
	},
}

var onA = &corev1.PersistentVolume{
	ObjectMeta: metav1.ObjectMeta{Name: "on-a"},
	Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}, StorageClassName: "local",
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}},
		}}}},
	},
	Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
}

func claiming(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}}}
	}
}

// onlyOn names nodes as a DaemonSet's pod does, a term per list.
func onlyOn(terms ...[]string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		selector := &corev1.NodeSelector{}
		for _, names := range terms {
			var term corev1.NodeSelectorTerm
			for _, name := range names {
				term.MatchFields = append(term.MatchFields, corev1.NodeSelectorRequirement{
					Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name},
				})
			}
			selector.NodeSelectorTerms = append(selector.NodeSelectorTerms, term)
		}
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: selector}}
	}
}

func spread(key string, when corev1.UnsatisfiableConstraintAction) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
			MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: when,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "p"}},
		})
	}
}

func inZone(zone string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = zone }
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
			pod:   testPod("p", "1", nominated("small")),
			nodes: []*plugin.Node{testNode("large", "16"), testNode("small", "2")},
			node:  "small",
		},
		"a claim that is not there": {
			pod:     testPod("p", "1", claiming("data")),
			nodes:   []*plugin.Node{testNode("a", "4")},
			message: `0/1 nodes are available: persistentvolumeclaim "data" not found.`,
		},
		"a claim that should be bound by now": {
			pod:     testPod("p", "1", claiming("unbound")),
			nodes:   []*plugin.Node{testNode("a", "4")},
			message: "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
		},
		"a bound claim draws the pod to its volume": {
			pod:   testPod("p", "1", claiming("bound")),
			nodes: []*plugin.Node{testNode("a", "2"), testNode("b", "16")},
			node:  "a",
		},
		"a bound claim keeps the pod off other nodes": {
			pod:     testPod("p", "1", claiming("bound")),
			nodes:   []*plugin.Node{testNode("b", "2"), testNode("c", "2")},
			message: "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.",
		},
		"a claim bound to nothing": {
			pod:     testPod("p", "1", claiming("dangling")),
			nodes:   []*plugin.Node{testNode("a", "2")},
			message: "0/1 nodes are available: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).",
		},
		"a claim for one pod is in use": {
			pod:     testPod("p", "1", claiming("exclusive")),
			nodes:   []*plugin.Node{testNode("a", "4"), testNode("b", "4").Add(testPod("q", "1", claiming("exclusive")))},
			message: "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.",
		},
		"a waiting claim draws the pod to a volume for it": {
			pod:   testPod("p", "1", claiming("waiting")),
			nodes: []*plugin.Node{testNode("a", "2"), testNode("b", "16")},
			node:  "a",
		},
		"a waiting claim for which no volume is large enough": {
			pod:     testPod("p", "1", claiming("huge")),
			nodes:   []*plugin.Node{testNode("a", "2"), testNode("b", "16")},
			message: "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.",
		},
		"the pod of a DaemonSet is for one node": {
			pod:     testPod("p", "4", onlyOn([]string{"a"})),
			nodes:   []*plugin.Node{testNode("a", "2"), testNode("b", "16"), testNode("c", "16", tainted)},
			message: "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].",
		},
		"any of the terms may name the node": {
			pod:   testPod("p", "4", onlyOn([]string{"a"}, []string{"b"})),
			nodes: []*plugin.Node{testNode("a", "2"), testNode("b", "16"), testNode("c", "32")},
			node:  "b",
		},
		"a term that names two nodes at once": {
			pod:     testPod("p", "1", onlyOn([]string{"a", "b"})),
			nodes:   []*plugin.Node{testNode("a", "2"), testNode("b", "2")},
			message: "0/2 nodes are available: pod affinity terms conflict.",
		},
		"hard spreading leaves the fuller node": {
			pod:   testPod("p", "1", spread(corev1.LabelHostname, corev1.DoNotSchedule)),
			nodes: []*plugin.Node{testNode("empty", "2"), testNode("full", "16").Add(testPod("p", "1"))},
			node:  "empty",
		},
		"hard spreading counts only nodes with all the labels": {
			pod: testPod("p", "1", spread(corev1.LabelHostname, corev1.DoNotSchedule), spread(corev1.LabelTopologyZone, corev1.DoNotSchedule)),
			nodes: []*plugin.Node{
				testNode("a", "4", inZone("east")).Add(testPod("p1", "1", func(p *corev1.Pod) { p.Labels["app"] = "p" })),
				testNode("nowhere", "4"), // empty, yet no domain in which the least would be 0
			},
			node: "a",
		},
		"soft spreading does not prefer nodes outside all domains": {
			pod: testPod("p", "1", spread(corev1.LabelTopologyZone, corev1.ScheduleAnyway)),
			nodes: []*plugin.Node{
				testNode("a", "4", inZone("east")).Add(testPod("p1", "1m", func(p *corev1.Pod) { p.Labels["app"] = "p" })),
				testNode("nowhere", "4"),
			},
			node: "a",
		},
		"an image that is there, by its full name": {
			pod: testPod("p", "1", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "registry:5000/large" }),
			nodes: []*plugin.Node{testNode("a", "4"), testNode("b", "4", func(n *corev1.Node) {
				n.Status.Images = []corev1.ContainerImage{{Names: []string{"registry:5000/large:latest"}, SizeBytes: 1 << 30}}
			})},
			node: "b",
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

func nominated(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.NominatedNodeName = node }
}

// preempted makes a pod one that is ending to make room.
func preempted(p *corev1.Pod) {
	p.DeletionTimestamp = ptr.To(metav1.Now())
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
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
		"lower pods in too small a number": {
			pod:   testPod("p", "3", priority(10)),
			nodes: []*plugin.Node{testNode("a", "4").Add(testPod("x", "2", priority(10))).Add(testPod("y", "1", low))},
			why:   "0/1 nodes are available: 1 Insufficient cpu.",
		},
		"a reason that no eviction changes": {
			pod:   testPod("p", "1", priority(10), claiming("unbound")),
			nodes: []*plugin.Node{testNode("a", "2").Add(testPod("x", "1", low))},
			why:   "0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		},
		"while pods of the nominated node end, no others go": {
			pod:   testPod("p", "2", priority(10), nominated("a")),
			nodes: []*plugin.Node{testNode("a", "2").Add(testPod("x", "1", low, preempted)), testNode("b", "2").Add(testPod("y", "1", low))},
			why:   "not eligible due to a terminating pod on the nominated node.",
		},
		"a nominated node that will not do any more": {
			pod:   testPod("p", "2", priority(10), nominated("a")),
			nodes: []*plugin.Node{testNode("a", "2", tainted).Add(testPod("x", "1", low, preempted)), testNode("b", "2").Add(testPod("y", "1", low))},
			node:  "b", victims: []string{"y"},
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
