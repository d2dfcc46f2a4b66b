package garbage

import (
	"fmt"
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

// coordinates are all that an owner reference, together with the place of the dependent, says of an owner. Only
// a reference that agrees in everything is about the object of that UID.
type coordinates struct {
	namespace  string
	apiVersion string
	kind       string
	name       string
	uid        uid
}

func (i identity) coordinates() coordinates {
	return coordinates{i.namespace, i.resource.GroupVersion().String(), i.kind.Kind, i.name, i.uid}
}

// coordinatesIn are those of the owner that a reference names, if that lives in namespace; none for cluster-scoped ones.
func coordinatesIn(namespace string, ref metav1.OwnerReference) coordinates {
	return coordinates{namespace, ref.APIVersion, ref.Kind, ref.Name, ref.UID}
}

func (c coordinates) String() string {
	return fmt.Sprintf("[%s/%s, namespace: %s, name: %s, uid: %s]", c.apiVersion, c.kind, c.namespace, c.name, c.uid)
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
// to be done about, it calls concern with its UID. When an object is seen to refer to an owner of another
// namespace, it calls misplaced. Safe for concurrent use; nodes are immutable.
type graph struct {
	concern   func(uid)
	misplaced func(dependent *node, ref metav1.OwnerReference)

	mu         sync.Mutex
	nodes      map[uid]*node
	dependents map[uid]map[uid]*node // by owner, also by owners never seen
	// absent are owners that dependents name and that are surely not there, because they were seen to go or
	// because the server did not find them. Absence is a matter of all coordinates, not of the UID: a reference
	// that names a UID under another kind or namespace says nothing of the object that has it.
	absent map[uid]map[coordinates]bool
}

func newGraph(concern func(uid), misplaced func(*node, metav1.OwnerReference)) *graph {
	return &graph{
		concern: concern, misplaced: misplaced,
		nodes: map[uid]*node{}, dependents: map[uid]map[uid]*node{}, absent: map[uid]map[coordinates]bool{},
	}
}

// put notes an object that is new or has changed.
func (g *graph) put(n *node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.nodes[n.uid]
	g.nodes[n.uid] = n
	if old != nil {
		g.unlink(old, func(owner uid) bool { return names(n, owner) })
		g.concernFreed(old, n)
	}
	for _, ref := range n.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[uid]*node{}
		}
		g.dependents[ref.UID][n.uid] = n
		owner := g.nodes[ref.UID]
		if owner == nil || owner.phase == foreground || !refersTo(ref, n, owner) {
			g.concern(n.uid)
		}
		if owner != nil && elsewhere(n, owner) && (old == nil || !names(old, ref.UID)) {
			g.misplaced(n, ref)
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
	if n := g.nodes[id]; n != nil {
		g.drop(n)
		g.noteAbsent(n.coordinates())
	}
}

// forget drops all objects of a resource that is watched no more. They may well be there still.
func (g *graph) forget(resource schema.GroupVersionResource) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.nodes {
		if n.resource == resource {
			g.drop(n)
		}
	}
}

// drop takes an object out of the graph and wakes those whom that concerns.
func (g *graph) drop(n *node) {
	delete(g.nodes, n.uid)
	g.unlink(n, func(uid) bool { return false })
	for _, ref := range n.owners {
		if owner := g.nodes[ref.UID]; owner != nil && owner.phase == foreground {
			g.concern(owner.uid)
		}
	}
	for dependent := range g.dependents[n.uid] {
		g.concern(dependent)
	}
}

// notFound notes that the server has no object of these coordinates.
func (g *graph) notFound(owner coordinates) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noteAbsent(owner)
}

// noteAbsent remembers an absence for as long as somebody names the UID.
func (g *graph) noteAbsent(owner coordinates) {
	if len(g.dependents[owner.uid]) == 0 {
		return
	}
	if g.absent[owner.uid] == nil {
		g.absent[owner.uid] = map[coordinates]bool{}
	}
	g.absent[owner.uid][owner] = true
}

// unlink takes an object off its owners, but for those that it keeps.
func (g *graph) unlink(n *node, keeps func(owner uid) bool) {
	for _, ref := range n.owners {
		if keeps(ref.UID) {
			continue
		}
		of := g.dependents[ref.UID]
		delete(of, n.uid)
		if len(of) == 0 {
			delete(g.dependents, ref.UID)
			delete(g.absent, ref.UID)
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
			if ref.UID != owner.uid || refersTo(ref, dependent, owner) {
				continue
			}
			g.concern(dependent.uid)
			if elsewhere(dependent, owner) {
				g.misplaced(dependent, ref)
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

// knownAbsent tells whether an owner that an object names is surely not there. It is so wherever the object may
// look for it: among those without a namespace, and in its own. UIDs do not come back.
func (g *graph) knownAbsent(dependent *node, ref metav1.OwnerReference) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	absent := g.absent[ref.UID]
	return absent[coordinatesIn("", ref)] || absent[coordinatesIn(dependent.namespace, ref)]
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

// refersTo tells whether a reference names the object that has its UID, in the version in which it is watched.
// Owners are in the namespace of what they own, or cluster-scoped.
func refersTo(ref metav1.OwnerReference, dependent, owner *node) bool {
	return !elsewhere(dependent, owner) && coordinatesIn(owner.namespace, ref) == owner.coordinates()
}

// elsewhere tells whether an owner is in another namespace than a dependent, so that it cannot own it.
func elsewhere(dependent, owner *node) bool {
	return owner.namespace != "" && owner.namespace != dependent.namespace
}

// names tells whether an object has a reference to a UID.
func names(n *node, id uid) bool {
	return slices.ContainsFunc(n.owners, func(ref metav1.OwnerReference) bool { return ref.UID == id })
}
