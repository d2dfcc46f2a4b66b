package plugin

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// TestWhatIsKeptIsWhatIsCountedAnew changes a cluster at random. After each change every rule must say of every node
// what it says of a cluster that was made just now.
func TestWhatIsKeptIsWhatIsCountedAnew(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			nodes := make([]*Node, 3+r.IntN(20))
			for i := range nodes {
				nodes[i] = NewNode(randomNode(r, i))
			}
			kept := NewCluster(nodes)
			for step := range 150 {
				changeAtRandom(r, kept, step)
				pod := randomPod(r, "new", 1000+step)
				now, anew := judge(pod, kept), judge(pod, NewCluster(kept.Nodes))
				if !slices.Equal(now, anew) {
					t.Fatalf("step %d:\ngot  %v\nwant %v", step, now, anew)
				}
			}
		})
	}
}

// changeAtRandom changes some nodes of c, as cycles and news from the API do, more often by pods than otherwise.
func changeAtRandom(r *rand.Rand, c *Cluster, step int) {
	for range r.IntN(4) {
		n := c.Nodes[r.IntN(len(c.Nodes))]
		switch r.IntN(12) {
		case 0: // labels, taints, images
			c.Put(n.WithNode(randomNode(r, c.places[n.Name])))
		case 1:
			object := n.DeepCopy()
			object.Spec.Unschedulable = !object.Spec.Unschedulable
			object.Status.Images = randomImages(r)
			c.Put(n.WithNode(object))
		case 2, 3, 4:
			if len(n.Pods) > 0 {
				c.Put(n.Remove(n.Pods[r.IntN(len(n.Pods))].UID))
			}
		case 5:
			c.Try(n.Add(randomPod(r, "tried", step)), func() { judge(randomPod(r, "new", step), c) })
		default:
			c.Put(n.Add(randomPod(r, fmt.Sprint("on-", r.Uint32()), step)))
		}
	}
}

// judge is what the rules say of each node.
func judge(pod *Pod, c *Cluster) []string {
	checks := Prepare(pod, &Snapshot{
		Cluster:         c,
		NamespaceLabels: func(name string) labels.Set { return labels.Set{"of": name} },
		OwnerSelector:   func(pod *corev1.Pod) labels.Selector { return labels.SelectorFromSet(pod.Labels) },
	})
	scores := checks.Score(c.Nodes)
	said := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		said[i] = fmt.Sprint(scores[i])
		if reason := checks.Filter(n); reason != nil {
			said[i] = fmt.Sprint(reason.Texts, reason.Final)
		}
	}
	return said
}

func randomNode(r *rand.Rand, i int) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i), Labels: map[string]string{corev1.LabelHostname: fmt.Sprint("node-", i)}},
		Status: corev1.NodeStatus{Images: randomImages(r), Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: *resource.NewMilliQuantity(r.Int64N(8000), resource.DecimalSI), corev1.ResourceMemory: resource.MustParse("4Gi"),
			corev1.ResourcePods: resource.MustParse("10"),
		}},
	}
	if r.IntN(4) > 0 {
		n.Labels[corev1.LabelTopologyZone] = fmt.Sprint("zone-", r.IntN(3))
	}
	if r.IntN(2) == 0 {
		n.Labels["disk"] = "ssd"
	}
	if r.IntN(5) == 0 {
		n.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	}
	return n
}

func randomImages(r *rand.Rand) (images []corev1.ContainerImage) {
	for i := range 3 {
		if r.IntN(2) == 0 {
			images = append(images, corev1.ContainerImage{Names: []string{fmt.Sprintf("image-%d:latest", i)}, SizeBytes: int64(i+1) << 28})
		}
	}
	return images
}

func randomPod(r *rand.Rand, name string, i int) *Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(fmt.Sprint(name, i)), Namespace: fmt.Sprint("ns-", r.IntN(2)), Labels: randomApp(r)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Image: fmt.Sprint("image-", r.IntN(4)),
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: *resource.NewMilliQuantity(r.Int64N(1000), resource.DecimalSI),
			}},
		}}},
	}
	if r.IntN(6) == 0 {
		p.DeletionTimestamp = ptr.To(metav1.Now())
	}
	if r.IntN(4) == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if r.IntN(6) == 0 {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}}
	}
	for range r.IntN(3) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, randomSpread(r))
	}
	if r.IntN(2) == 0 {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
		wanted, unwanted := p.Spec.Affinity.PodAffinity, p.Spec.Affinity.PodAntiAffinity
		for range r.IntN(3) {
			switch term := randomTerm(r); r.IntN(4) {
			case 0:
				wanted.RequiredDuringSchedulingIgnoredDuringExecution = append(wanted.RequiredDuringSchedulingIgnoredDuringExecution, term)
			case 1:
				unwanted.RequiredDuringSchedulingIgnoredDuringExecution = append(unwanted.RequiredDuringSchedulingIgnoredDuringExecution, term)
			case 2:
				wanted.PreferredDuringSchedulingIgnoredDuringExecution = append(wanted.PreferredDuringSchedulingIgnoredDuringExecution,
					corev1.WeightedPodAffinityTerm{Weight: 1 + r.Int32N(100), PodAffinityTerm: term})
			case 3:
				unwanted.PreferredDuringSchedulingIgnoredDuringExecution = append(unwanted.PreferredDuringSchedulingIgnoredDuringExecution,
					corev1.WeightedPodAffinityTerm{Weight: 1 + r.Int32N(100), PodAffinityTerm: term})
			}
		}
	}
	return NewPod(p)
}

func randomApp(r *rand.Rand) map[string]string {
	return map[string]string{"app": fmt.Sprint(r.IntN(3))}
}

func randomKey(r *rand.Rand) string {
	return []string{corev1.LabelHostname, corev1.LabelTopologyZone, "nowhere"}[r.IntN(3)]
}

func randomTerm(r *rand.Rand) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: randomApp(r)}, TopologyKey: randomKey(r)}
	switch r.IntN(4) {
	case 0:
		t.Namespaces = []string{"ns-0", "ns-1"}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"of": "ns-0"}}
	}
	return t
}

func randomSpread(r *rand.Rand) corev1.TopologySpreadConstraint {
	c := corev1.TopologySpreadConstraint{
		MaxSkew: 1 + r.Int32N(3), TopologyKey: randomKey(r), LabelSelector: &metav1.LabelSelector{MatchLabels: randomApp(r)},
		WhenUnsatisfiable: []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}[r.IntN(2)],
	}
	if r.IntN(3) == 0 {
		c.MinDomains = ptr.To(1 + r.Int32N(4))
	}
	if r.IntN(4) == 0 {
		c.NodeTaintsPolicy = ptr.To(corev1.NodeInclusionPolicyHonor)
	}
	if r.IntN(4) == 0 {
		c.NodeAffinityPolicy = ptr.To(corev1.NodeInclusionPolicyIgnore)
	}
	return c
}
