package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// state is what the scheduler knows of the cluster: nodes with their pods,
// including the pods it has just decided to place there. Its plugin.Nodes are
// immutable; a change replaces them.
type state struct {
	mu    sync.Mutex
	nodes map[string]*plugin.Node
	// places says where each pod is counted.
	places map[types.UID]place
	// nominated are the pods for which room is being made on a node.
	nominated map[types.UID]nomination
	// cluster is the nodes as the cycle before saw them. Only a cycle may touch it. changed are the nodes that have
	// changed since; nil: nodes have come or gone.
	cluster *plugin.Cluster
	changed map[string]struct{}

	namespaceLabels func(name string) labels.Set
	ownerSelector   func(pod *corev1.Pod) labels.Selector
	storage         plugin.Storage
	devices         plugin.Devices
}

type place struct {
	node string
	// assumed means that the server has not confirmed it yet.
	assumed bool
}

type nomination struct {
	pod  *plugin.Pod
	node string
}

func newState() *state {
	return &state{
		nodes:     make(map[string]*plugin.Node),
		places:    make(map[types.UID]place),
		nominated: make(map[types.UID]nomination),
	}
}

// setNode takes in a new or changed Node. Pods may have been seen before it.
func (s *state) setNode(n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.nodes[n.Name]; ok {
		s.replace(n.Name, old.WithNode(n))
		return
	}
	s.replace(n.Name, plugin.NewNode(n))
}

// removeNode forgets a Node; pods that are still on it are kept by name, for the
// case that it comes back.
func (s *state) removeNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[name]
	if !ok {
		return
	}
	if len(n.Pods) == 0 {
		delete(s.nodes, name)
		s.changed = nil
		return
	}
	s.replace(name, n.WithNode(nil))
}

// place counts pod on the node that the server says it is on.
func (s *state) place(pod *plugin.Pod, node string) { s.count(pod, place{node: node}) }

// assume counts pod on a node to which it is about to be bound.
func (s *state) assume(pod *plugin.Pod, node string) { s.count(pod, place{node, true}) }

// unassume ends that, unless the pod turned out to be bound, and reports whether
// it did.
func (s *state) unassume(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.places[uid].assumed {
		return false
	}
	s.lift(uid)
	return true
}

// counts reports whether a pod counts on a node.
func (s *state) counts(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.places[uid]
	return ok
}

// count counts pod at a place, replacing what was known of the pod.
func (s *state) count(pod *plugin.Pod, at place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lift(pod.UID)
	delete(s.nominated, pod.UID)
	n, ok := s.nodes[at.node]
	if !ok {
		n = plugin.NewNode(nil)
	}
	s.places[pod.UID] = at
	s.replace(at.node, n.Add(pod))
}

// remove forgets a pod.
func (s *state) remove(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lift(uid)
	delete(s.nominated, uid)
}

func (s *state) lift(uid types.UID) {
	at, ok := s.places[uid]
	if !ok {
		return
	}
	delete(s.places, uid)
	n := s.nodes[at.node].Remove(uid)
	s.replace(at.node, n)
	if n.Node == nil && len(n.Pods) == 0 {
		delete(s.nodes, at.node)
	}
}

// nominate notes that room is being made for pod on a node; "" ends that.
func (s *state) nominate(pod *plugin.Pod, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if node == "" {
		delete(s.nominated, pod.UID)
		return
	}
	s.nominated[pod.UID] = nomination{pod, node}
}

// replace puts another state of a node in its place.
func (s *state) replace(name string, n *plugin.Node) {
	old := s.nodes[name]
	s.nodes[name] = n
	switch wasThere, isThere := old != nil && old.Node != nil, n.Node != nil; {
	case wasThere != isThere:
		s.changed = nil
	case isThere && s.changed != nil:
		s.changed[name] = struct{}{}
	}
}

// snapshot is the cluster as pod may find it: pods of at least its priority for
// which room is being made count as if they were there already. It is good until the next.
func (s *state) snapshot(pod *plugin.Pod) *plugin.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.cluster, s.changed = plugin.NewCluster(inTurn(s.nodes)), make(map[string]struct{})
	}
	for name := range s.changed {
		s.cluster.Put(s.nodes[name])
	}
	clear(s.changed)
	for name, n := range s.crowded(pod) {
		s.cluster.Put(n)
		s.changed[name] = struct{}{} // for the next, it is as it was
	}
	return &plugin.Snapshot{
		Cluster: s.cluster, NamespaceLabels: s.namespaceLabels, OwnerSelector: s.ownerSelector, Storage: s.storage, Devices: s.devices,
	}
}

// crowded are the nodes on which room is being made for other pods, with those on them.
func (s *state) crowded(pod *plugin.Pod) map[string]*plugin.Node {
	crowded := make(map[string]*plugin.Node)
	for uid, n := range s.nominated {
		target := cmp.Or(crowded[n.node], s.nodes[n.node])
		if uid == pod.UID || n.pod.Priority() < pod.Priority() || target == nil || target.Node == nil {
			continue
		}
		crowded[n.node] = target.Add(n.pod)
	}
	return crowded
}

// inTurn is the nodes that are known in the order in which they are looked at: of each zone in turn, so that those
// that are looked at are of all zones, though not all nodes are looked at.
func inTurn(nodes map[string]*plugin.Node) []*plugin.Node {
	zones := make(map[string][]*plugin.Node)
	total := 0
	for _, n := range nodes {
		if n.Node != nil {
			zone := zoneOf(n.Node)
			zones[zone] = append(zones[zone], n)
			total++
		}
	}
	names := slices.Sorted(maps.Keys(zones))
	for _, list := range zones {
		slices.SortFunc(list, func(a, b *plugin.Node) int { return strings.Compare(a.Name, b.Name) })
	}
	list := make([]*plugin.Node, 0, total)
	for i := 0; len(list) < total; i++ {
		for _, name := range names {
			if i < len(zones[name]) {
				list = append(list, zones[name][i])
			}
		}
	}
	return list
}

func zoneOf(n *corev1.Node) string {
	return cmp.Or(n.Labels[corev1.LabelTopologyRegion], n.Labels[corev1.LabelFailureDomainBetaRegion]) + "/" +
		cmp.Or(n.Labels[corev1.LabelTopologyZone], n.Labels[corev1.LabelFailureDomainBetaZone])
}
