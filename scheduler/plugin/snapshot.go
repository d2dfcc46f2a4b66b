package plugin

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
)

// Snapshot is what a scheduler knows at one moment. It is good until its Cluster changes. It and all it refers to are
// shared and must not be changed.
type Snapshot struct {
	*Cluster
	// NamespaceLabels are the labels of a namespace, for affinity terms.
	NamespaceLabels func(name string) labels.Set
	// OwnerSelector selects the pods that serve with pod (of the same Service,
	// ReplicaSet …) for spreading by default; nil if there is nothing like that.
	OwnerSelector func(pod *corev1.Pod) labels.Selector
	Storage       Storage
	Devices       Devices
}

// Node is a node with the pods on it, those being bound included.
type Node struct {
	*corev1.Node
	Pods []*Pod
	// Requested is the sum of the pods' requests; Apparent counts pods that
	// request nothing as if they did a little, for scores.
	Requested, Apparent Resources

	// choosy are those of the pods that want others near or far.
	choosy []*Pod
	// place is which of the nodes of a Cluster it is.
	place int
	// balance is how evenly what there is of cpu and memory is requested.
	balance int64
	// What follows is read from the Node object once.
	allocatable Resources
	images      map[string]int64 // their sizes, by all their names
}

// NewNode is a node without pods.
func NewNode(n *corev1.Node) *Node {
	return (&Node{}).WithNode(n)
}

// WithNode is n with another state of the Node object; nil: it is not known.
func (n *Node) WithNode(object *corev1.Node) *Node {
	changed := *n
	changed.Node, changed.allocatable, changed.images = object, Resources{}, nil
	if object == nil {
		return &changed
	}
	changed.allocatable = amounts(object.Status.Allocatable)
	changed.images = make(map[string]int64)
	for _, image := range object.Status.Images {
		for _, name := range image.Names {
			changed.images[name] = image.SizeBytes
		}
	}
	changed.weigh()
	return &changed
}

func (n *Node) weigh() { n.balance = balance(&n.allocatable, n.Requested.cpu, n.Requested.memory) }

// Add is n with one more pod.
func (n *Node) Add(pod *Pod) *Node {
	changed := *n
	changed.Pods = append(slices.Clip(n.Pods), pod)
	changed.Requested = n.Requested.plus(&pod.Requests, 1)
	changed.Apparent = n.Apparent.plus(&pod.Apparent, 1)
	changed.weigh()
	if pod.choosy() {
		changed.choosy = append(slices.Clip(n.choosy), pod)
	}
	return &changed
}

// Remove is n without a pod, known by its UID.
func (n *Node) Remove(uid types.UID) *Node {
	i := slices.IndexFunc(n.Pods, func(p *Pod) bool { return p.UID == uid })
	if i < 0 {
		return n
	}
	pod := n.Pods[i]
	changed := *n
	changed.Pods = slices.Delete(slices.Clone(n.Pods), i, i+1)
	if pod.choosy() {
		changed.choosy = slices.DeleteFunc(slices.Clone(n.choosy), func(p *Pod) bool { return p == pod })
	}
	changed.Requested = n.Requested.plus(&pod.Requests, -1)
	changed.Apparent = n.Apparent.plus(&pod.Apparent, -1)
	changed.weigh()
	return &changed
}

// What a container that requests nothing is taken to use when nodes are scored.
const (
	apparentMilliCPU = 100
	apparentMemory   = 200 * 1024 * 1024
)

// Pod is a pod with what the rules ask of it again and again.
type Pod struct {
	*corev1.Pod
	Requests, Apparent Resources
	ports              []corev1.ContainerPort
	where              string

	affinity, antiAffinity                   []term
	preferredAffinity, preferredAntiAffinity []term
}

// NewPod computes what the rules need to know of a pod. An affinity term whose
// selector does not parse selects nothing; the API server lets none in.
func NewPod(pod *corev1.Pod) *Pod {
	p := &Pod{Pod: pod}
	p.Requests = amounts(resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true}))
	p.Apparent = amounts(resource.PodRequests(pod, resource.PodResourcesOptions{
		UseStatusResources: true,
		NonMissingContainerRequests: corev1.ResourceList{
			corev1.ResourceCPU:    *milliCPU(apparentMilliCPU),
			corev1.ResourceMemory: *bytes(apparentMemory),
		},
	}))
	p.ports = hostPorts(pod)
	p.where = where(pod)
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			p.affinity = terms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
			p.preferredAffinity = weightedTerms(pod, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			p.antiAffinity = terms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
			p.preferredAntiAffinity = weightedTerms(pod, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	return p
}

// choosy reports whether the pod wants others near or far.
func (p *Pod) choosy() bool {
	return len(p.affinity)+len(p.antiAffinity)+len(p.preferredAffinity)+len(p.preferredAntiAffinity) > 0
}

// Priority of a pod; pods without one are of priority 0.
func (p *Pod) Priority() int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// selector is s as a labels.Selector; one that does not parse selects nothing.
func selector(s *metav1.LabelSelector) labels.Selector {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return parsed
}
