package scheduler

import (
	"fmt"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// BenchmarkPlace chooses a node for a pod and counts it there, as a cycle does, in a cluster with five pods on each
// node. What a placement costs must not grow with the pods that are there.
func BenchmarkPlace(b *testing.B) {
	for name, change := range map[string]func(*corev1.Pod){
		"plain":        func(*corev1.Pod) {},
		"spread":       spread(corev1.LabelTopologyZone, corev1.DoNotSchedule),
		"antiaffinity": awayFrom("nobody"),
		"selector":     func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: "zone-1"} },
	} {
		for _, nodes := range []int{1000, 5000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", name, nodes), func(b *testing.B) {
				s := filledState(nodes, 5)
				pods := make([]*plugin.Pod, b.N)
				for i := range pods {
					pods[i] = testPod(fmt.Sprintf("new-%d", i), "10m", ofApp(i%10), change)
				}
				looked := 0
				b.ReportAllocs()
				b.ResetTimer()
				for i, pod := range pods {
					found := choose(pod, s.snapshot(pod), looked)
					looked += found.looked
					if found.node == "" {
						b.Fatalf("pod %d: %s", i, found.message())
					}
					s.assume(pod, found.node)
				}
			})
		}
	}
}

// BenchmarkPreempt plans the eviction for a pod in a cluster that is full of others.
func BenchmarkPreempt(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			s := filledState(nodes, 4)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				pod := testPod(fmt.Sprintf("new-%d", i), "31990m", priority(10), ofApp(0))
				snapshot := s.snapshot(pod)
				if plan, why := planEviction(pod, snapshot, choose(pod, snapshot, i), nil); plan == nil {
					b.Fatal(why)
				}
			}
		})
	}
}

// ofApp makes a pod one of a Deployment's.
func ofApp(i int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": strconv.Itoa(i), "pod-template-hash": "h"}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: strconv.Itoa(i), Controller: new(true)}}
	}
}

func filledState(nodes, podsEach int) *state {
	s := newState()
	s.namespaceLabels = func(string) labels.Set { return nil }
	s.ownerSelector = func(p *corev1.Pod) labels.Selector { return labels.SelectorFromSet(p.Labels) }
	s.storage = testStorage
	for i := range nodes {
		name := fmt.Sprintf("node-%d", i)
		s.setNode(testNode(name, "32", inZone(fmt.Sprintf("zone-%d", i%3)), func(n *corev1.Node) {
			n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("1000")
			n.Status.Allocatable[corev1.ResourceMemory] = resource.MustParse("256Gi")
		}).Node)
		for j := range podsEach {
			s.place(testPod(fmt.Sprintf("%s-%d", name, j), "10m", ofApp((i+j)%10)), name)
		}
	}
	return s
}
