package garbage

import (
	"maps"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

type uid = types.UID

// identity says what an object is and where to find it.
type identity struct {
	resource  schema.GroupVersionResource
	kind      schema.GroupKind
	namespace string
	name      string
	uid       uid
}

// node is an object as last seen.
type node struct {
	identity
	owners []metav1.OwnerReference
	phase  phase
}

// phase is how far the deletion of an object is.
type phase int

const (
	living     phase = iota
	deleting         // on its way, nothing for us to do
	foreground       // waits until its dependents are deleted
	orphaning        // waits until its dependents are cut loose
)

func phaseOf(obj metav1.Object) phase {
	switch {
	case obj.GetDeletionTimestamp() == nil:
		return living
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
		return orphaning
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return foreground
	}
	return deleting
}

// graph remembers all objects and who refers to whom as owner. Whenever a change may leave an object something
// to be done about, it calls concern with its UID. Safe for concurrent use; nodes are immutable.
type graph struct {
	concern func(uid)

	mu         sync.Mutex
	nodes      map[uid]*node
	dependents map[uid]map[uid]*node // by owner, also by owners never seen
	gone       map[uid]bool          // owners with dependents that were seen to go
}

func newGraph(concern func(uid)) *graph {
	return &graph{concern: concern, nodes: map[uid]*node{}, dependents: map[uid]map[uid]*node{}, gone: map[uid]bool{}}
}

// put notes an object that is new or has changed.
func (g *graph) put(n *node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.nodes[n.uid]
	g.nodes[n.uid] = n
	if old != nil {
		g.unlink(old)
		g.concernFreed(old, n)
	}
	for _, ref := range n.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[uid]*node{}
		}
		g.dependents[ref.UID][n.uid] = n
		if owner := g.nodes[ref.UID]; owner == nil || owner.phase == foreground || !refersTo(ref, n, owner) {
			g.concern(n.uid)
		}
	}
	switch {
	case old == nil:
		g.concernMisled(n)
		if n.phase == foreground || n.phase == orphaning {
			g.concernAll(n)
		}
	case old.phase != n.phase && (n.phase == foreground || n.phase == orphaning):
		g.concernAll(n)
	}
}

// remove notes that an object is gone.
func (g *graph) remove(id uid) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[id]
	if n == nil {
		return
	}
	delete(g.nodes, id)
	g.unlink(n)
	for _, ref := range n.owners {
		if owner := g.nodes[ref.UID]; owner != nil && owner.phase == foreground {
			g.concern(owner.uid)
		}
	}
	if len(g.dependents[id]) > 0 {
		g.gone[id] = true
		for dependent := range g.dependents[id] {
			g.concern(dependent)
		}
	}
}

// unlink takes an object off its owners.
func (g *graph) unlink(n *node) {
	for _, ref := range n.owners {
		of := g.dependents[ref.UID]
		delete(of, n.uid)
		if len(of) == 0 {
			delete(g.dependents, ref.UID)
			delete(g.gone, ref.UID)
		}
	}
}

// concernFreed wakes owners that the object held back and holds back no more.
func (g *graph) concernFreed(old, n *node) {
	for _, ref := range old.owners {
		if !blocks(ref) || slices.ContainsFunc(n.owners, func(r metav1.OwnerReference) bool { return r.UID == ref.UID && blocks(r) }) {
			continue
		}
		if owner := g.nodes[ref.UID]; owner != nil && owner.phase == foreground {
			g.concern(owner.uid)
		}
	}
}

// concernMisled wakes objects that refer to one by its UID, but by another kind, name or namespace than it has.
func (g *graph) concernMisled(owner *node) {
	for _, dependent := range g.dependents[owner.uid] {
		for _, ref := range dependent.owners {
			if ref.UID == owner.uid && !refersTo(ref, dependent, owner) {
				g.concern(dependent.uid)
			}
		}
	}
}

func (g *graph) concernAll(n *node) {
	g.concern(n.uid)
	for dependent := range g.dependents[n.uid] {
		g.concern(dependent)
	}
}

// get returns an object, or nil.
func (g *graph) get(id uid) *node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nodes[id]
}

// dependentsOf lists the objects that refer to an owner.
func (g *graph) dependentsOf(id uid) []*node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Values(g.dependents[id]))
}

// knownGone tells whether an object was seen to go. UIDs do not come back.
func (g *graph) knownGone(id uid) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone[id]
}

// blockers lists the dependents without which a foreground deletion cannot go on.
func (g *graph) blockers(owner *node) []*node {
	return slices.DeleteFunc(g.dependentsOf(owner.uid), func(n *node) bool {
		return !slices.ContainsFunc(n.owners, func(ref metav1.OwnerReference) bool { return ref.UID == owner.uid && blocks(ref) })
	})
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// refersTo tells whether a reference names the object that has its UID. Owners are in the namespace of what they
// own, or cluster-scoped.
func refersTo(ref metav1.OwnerReference, dependent, owner *node) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && ref.UID == owner.uid && ref.Name == owner.name && ref.Kind == owner.kind.Kind && gv.Group == owner.kind.Group &&
		(owner.namespace == "" || owner.namespace == dependent.namespace)
}
