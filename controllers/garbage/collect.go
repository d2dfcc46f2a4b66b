package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/retry"
)

// errNotOurs means that an object cannot be judged, and that trying again will not change that.
var errNotOurs = errors.New("owner reference is invalid")

// collect does what there is to do about one object. again is when to look at it once more, 0: when it changes.
func (c *Collector) collect(ctx context.Context, id uid) (again time.Duration, err error) {
	n := c.graph.get(id)
	if n == nil {
		return 0, nil
	}
	switch n.phase {
	case orphaning, foreground:
		if !c.monitors.allSynced() {
			return syncPause, nil // its dependents may not be known yet
		}
		return 0, c.letGo(ctx, n)
	case deleting:
		return 0, nil
	}
	if len(n.owners) == 0 || c.allPresent(n) {
		return 0, nil
	}
	return c.judge(ctx, n)
}

// letGo works on an owner whose dependents come first.
func (c *Collector) letGo(ctx context.Context, n *node) error {
	if n.phase == orphaning {
		return c.orphan(ctx, n)
	}
	return c.waitForDependents(ctx, n)
}

// allPresent tells whether every owner is known to be there and to stay. If one goes, we hear of it.
func (c *Collector) allPresent(n *node) bool {
	return !slices.ContainsFunc(n.owners, func(ref metav1.OwnerReference) bool {
		owner := c.graph.get(ref.UID)
		return owner == nil || owner.phase == foreground || !refersTo(ref, n, owner)
	})
}

// waitForDependents lets an owner go when nothing holds it back any more.
func (c *Collector) waitForDependents(ctx context.Context, n *node) error {
	blockers := c.graph.blockers(n)
	if len(blockers) == 0 {
		return c.removeFinalizer(ctx, n, metav1.FinalizerDeleteDependents)
	}
	for _, dependent := range blockers {
		if dependent.phase != foreground {
			c.enqueue(dependent.uid)
		}
	}
	return nil
}

// orphan takes an owner off its dependents and then lets it go.
func (c *Collector) orphan(ctx context.Context, n *node) error {
	for _, dependent := range c.graph.dependentsOf(n.uid) {
		err := c.editOwners(ctx, dependent, without(n.uid))
		if err != nil && !isAbsent(err) {
			return fmt.Errorf("orphan %s %s/%s: %w", dependent.kind, dependent.namespace, dependent.name, err)
		}
	}
	return c.removeFinalizer(ctx, n, metav1.FinalizerOrphanDependents)
}

// owners are the references of an object, by what has become of the owner.
type owners struct {
	present []metav1.OwnerReference
	waiting []metav1.OwnerReference // there, but only until its dependents are gone
	absent  []metav1.OwnerReference
}

// judge decides about an object whose owners are not all surely there. One owner that stays keeps it; it only
// loses its references to the others. Else it is deleted: in the foreground if an owner waits for it and it has
// dependents itself, otherwise as its own finalizers say.
func (c *Collector) judge(ctx context.Context, n *node) (again time.Duration, err error) {
	latest, err := c.live(ctx, n)
	if isAbsent(err) {
		c.graph.remove(n.uid)
		return 0, nil
	}
	if err != nil || len(latest.OwnerReferences) == 0 || latest.DeletionTimestamp != nil {
		return 0, err
	}
	owners, err := c.classify(ctx, n, latest.OwnerReferences)
	switch {
	case err != nil:
		return 0, err
	case len(owners.present) > 0:
		return 0, c.cutLoose(ctx, n, slices.Concat(owners.absent, owners.waiting))
	case len(owners.waiting) > 0 && !c.monitors.allSynced():
		return syncPause, nil // what is to go before it may not be known yet
	}
	return 0, c.discard(ctx, n, latest, len(owners.waiting) > 0)
}

// cutLoose takes references off an object that is kept by others.
func (c *Collector) cutLoose(ctx context.Context, n *node, refs []metav1.OwnerReference) error {
	if len(refs) == 0 {
		return nil
	}
	lost := make([]uid, len(refs))
	for i, ref := range refs {
		lost[i] = ref.UID
	}
	return c.editOwners(ctx, n, without(lost...))
}

// discard deletes an object that nobody owns any more. waited: an owner waits for it to go.
func (c *Collector) discard(ctx context.Context, n *node, latest *metav1.PartialObjectMetadata, waited bool) error {
	dependents := c.graph.dependentsOf(n.uid)
	if waited && len(dependents) > 0 {
		if slices.ContainsFunc(dependents, func(d *node) bool { return d.phase == foreground }) {
			// Its dependent waits too, maybe in a circle back to its owner: it must not hold that up.
			err := c.editOwners(ctx, n, unblocking)
			if err == nil {
				latest, err = c.live(ctx, n)
			}
			if err != nil {
				return err
			}
		}
		return c.delete(ctx, n, latest, metav1.DeletePropagationForeground)
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case slices.Contains(latest.Finalizers, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(latest.Finalizers, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	return c.delete(ctx, n, latest, policy)
}

func (c *Collector) classify(ctx context.Context, n *node, refs []metav1.OwnerReference) (owners, error) {
	var result owners
	for _, ref := range refs {
		state, err := c.stateOf(ctx, n, ref)
		if err != nil {
			return owners{}, err
		}
		switch state {
		case present:
			result.present = append(result.present, ref)
		case waiting:
			result.waiting = append(result.waiting, ref)
		case absent:
			result.absent = append(result.absent, ref)
		}
	}
	return result, nil
}

type ownerState int

const (
	present ownerState = iota
	waiting
	absent
)

// stateOf finds out about an owner: from the graph if that has it or knows it to be absent, else from the server.
// Either answers for the owner that the reference names in every particular, and for no other. An owner of a kind
// that is not served is neither there nor absent: the object waits until that is known.
func (c *Collector) stateOf(ctx context.Context, n *node, ref metav1.OwnerReference) (ownerState, error) {
	if owner := c.graph.get(ref.UID); owner != nil && refersTo(ref, n, owner) {
		return waitingIf(owner.phase == foreground), nil
	}
	if c.graph.knownAbsent(n, ref) {
		return absent, nil
	}
	resource, namespaced, err := c.monitors.resourceOf(ref.APIVersion, ref.Kind)
	if err != nil {
		return present, err
	}
	namespace := ""
	if namespaced {
		if n.namespace == "" {
			return present, fmt.Errorf("%w: %s %s is cluster-scoped and names %s %s, which has a namespace", errNotOurs, n.kind, n.name, ref.Kind, ref.Name)
		}
		namespace = n.namespace
	}
	owner, err := c.config.Metadata.Resource(resource).Namespace(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case isAbsent(err) || err == nil && owner.UID != ref.UID:
		c.graph.notFound(coordinatesIn(namespace, ref))
		return absent, nil
	case err != nil:
		return present, fmt.Errorf("read owner %s %s/%s: %w", ref.Kind, namespace, ref.Name, err)
	}
	return waitingIf(phaseOf(owner) == foreground), nil
}

// isAbsent tells whether the server says that an object is not there. That it does not know the path is no such
// answer, although it has the same code: a version may have ceased to be served, and its objects be there still.
func isAbsent(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

func waitingIf(waits bool) ownerState {
	if waits {
		return waiting
	}
	return present
}

// reportNamespace says of an object that it names an owner in another namespace.
func (c *Collector) reportNamespace(n *node, ref metav1.OwnerReference) {
	about := &corev1.ObjectReference{Kind: n.kind.Kind, APIVersion: n.resource.GroupVersion().String(), Namespace: n.namespace, Name: n.name, UID: n.uid}
	c.config.Events.Eventf(about, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q",
		coordinatesIn(n.namespace, ref), n.namespace)
}

// client reaches the resource of an object.
func (c *Collector) client(n *node) metadata.ResourceInterface {
	return c.config.Metadata.Resource(n.resource).Namespace(n.namespace)
}

// live reads an object from the server. If another has its name by now, it is not found.
func (c *Collector) live(ctx context.Context, n *node) (*metav1.PartialObjectMetadata, error) {
	latest, err := c.client(n).Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if latest.UID != n.uid {
		return nil, apierrors.NewNotFound(n.resource.GroupResource(), n.name)
	}
	return latest, nil
}

// delete deletes exactly the version of the object that was judged.
func (c *Collector) delete(ctx context.Context, n *node, judged *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	version := judged.ResourceVersion
	err := c.client(n).Delete(ctx, n.name, metav1.DeleteOptions{
		PropagationPolicy: &policy,
		Preconditions:     &metav1.Preconditions{UID: &judged.UID, ResourceVersion: &version},
	})
	if isAbsent(err) {
		c.graph.remove(n.uid)
		return nil
	}
	return err
}

// editOwners changes the owner references of an object as it is now.
func (c *Collector) editOwners(ctx context.Context, n *node, edit func([]metav1.OwnerReference) []metav1.OwnerReference) error {
	return c.patch(ctx, n, func(latest *metav1.PartialObjectMetadata) (field string, value any, changed bool) {
		refs := edit(slices.Clone(latest.OwnerReferences))
		return "ownerReferences", refs, !slices.EqualFunc(refs, latest.OwnerReferences, func(a, b metav1.OwnerReference) bool {
			return a.UID == b.UID && blocks(a) == blocks(b)
		})
	})
}

func without(ids ...uid) func([]metav1.OwnerReference) []metav1.OwnerReference {
	return func(refs []metav1.OwnerReference) []metav1.OwnerReference {
		return slices.DeleteFunc(refs, func(ref metav1.OwnerReference) bool { return slices.Contains(ids, ref.UID) })
	}
}

func unblocking(refs []metav1.OwnerReference) []metav1.OwnerReference {
	no := false
	for i := range refs {
		refs[i].BlockOwnerDeletion = &no
	}
	return refs
}

func (c *Collector) removeFinalizer(ctx context.Context, n *node, finalizer string) error {
	err := c.patch(ctx, n, func(latest *metav1.PartialObjectMetadata) (string, any, bool) {
		left := slices.DeleteFunc(slices.Clone(latest.Finalizers), func(f string) bool { return f == finalizer })
		return "finalizers", left, len(left) < len(latest.Finalizers)
	})
	if isAbsent(err) {
		c.graph.remove(n.uid)
		return nil
	}
	return err
}

// patch replaces a field of an object's metadata by what edit makes of the latest version. A merge patch is what
// every resource understands; the version in it makes the server refuse if the field may have changed.
func (c *Collector) patch(ctx context.Context, n *node, edit func(*metav1.PartialObjectMetadata) (field string, value any, changed bool)) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		latest, err := c.live(ctx, n)
		if err != nil {
			return err
		}
		field, value, changed := edit(latest)
		if !changed {
			return nil
		}
		data, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": latest.UID, "resourceVersion": latest.ResourceVersion, field: value,
		}})
		if err != nil {
			return err
		}
		_, err = c.client(n).Patch(ctx, n.name, types.MergePatchType, data, metav1.PatchOptions{})
		return err
	})
}
