package scheduler

import (
	"cmp"
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
	// sorted is the list of nodes for snapshots, by name; nil if nodes have come or
	// gone. While it is shared, snapshots have it and it must not be changed.
	sorted []*plugin.Node
	shared bool

	namespaceLabels func(name string) labels.Set
	ownerSelector   func(pod *corev1.Pod) labels.Selector
	storage         plugin.Storage
	devices         plugin.Devices
	tallies         *plugin.Tallies
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
		tallies:   plugin.NewTallies(),
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
		s.sorted = nil
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
	s.nodes[name] = n
	i, listed := slices.BinarySearchFunc(s.sorted, name, func(n *plugin.Node, name string) int { return strings.Compare(n.Name, name) })
	switch {
	case listed != (n.Node != nil):
		s.sorted = nil
	case listed:
		if s.shared {
			s.sorted, s.shared = slices.Clone(s.sorted), false
		}
		s.sorted[i] = n
	}
}

// snapshot is the cluster as pod may find it: pods of at least its priority for
// which room is being made count as if they were there already.
func (s *state) snapshot(pod *plugin.Pod) *plugin.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sorted == nil {
		for _, n := range s.nodes {
			if n.Node != nil {
				s.sorted = append(s.sorted, n)
			}
		}
		slices.SortFunc(s.sorted, func(a, b *plugin.Node) int { return strings.Compare(a.Name, b.Name) })
	}
	s.shared = true
	snapshot := &plugin.Snapshot{
		Nodes: s.sorted, NamespaceLabels: s.namespaceLabels, OwnerSelector: s.ownerSelector,
		Storage: s.storage, Devices: s.devices, Tallies: s.tallies,
	}
	crowded := make(map[string]*plugin.Node)
	for uid, n := range s.nominated {
		target := cmp.Or(crowded[n.node], s.nodes[n.node])
		if uid == pod.UID || n.pod.Priority() < pod.Priority() || target == nil || target.Node == nil {
			continue
		}
		crowded[n.node] = target.Add(n.pod)
	}
	for _, n := range crowded {
		snapshot = snapshot.With(n)
	}
	return snapshot
}
