package workloads

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// claim sorts children by who they belong to: an owner adopts children that match its selector and have no
// controller, and releases its own that match no longer.
type claim struct {
	owner    metav1.Object
	kind     schema.GroupVersionKind
	selector labels.Selector
	// live reads the owner from the server. It is called at most once and before the first adoption, because a
	// deleted owner must not adopt and the cache may not know yet.
	live func(ctx context.Context) (metav1.Object, error)
	// patch applies a strategic merge patch to a child.
	patch func(ctx context.Context, child metav1.Object, data []byte) error
	// finalizer, if not empty, is put on adopted children and taken off released ones.
	finalizer string
}

// bond is what an owner should do with a child.
type bond string

const (
	ignore  bond = "ignore"
	keep    bond = "keep"
	adopt   bond = "adopt"
	release bond = "release"
)

// bondOf decides. A child that goes, or an owner that goes, changes no hands any more.
func bondOf(owner metav1.Object, selector labels.Selector, child metav1.Object) bond {
	matches := selector.Matches(labels.Set(child.GetLabels()))
	if ref := metav1.GetControllerOfNoCopy(child); ref != nil {
		switch {
		case ref.UID != owner.GetUID():
			return ignore
		case matches:
			return keep
		case owner.GetDeletionTimestamp() != nil:
			return ignore
		}
		return release
	}
	if !matches || owner.GetDeletionTimestamp() != nil || child.GetDeletionTimestamp() != nil {
		return ignore
	}
	return adopt
}

// take returns the children that are the owner's after all adoptions and releases. Those adopted just now come
// back as the cache has them, without the owner reference.
func take[T metav1.Object](ctx context.Context, c claim, children []T) ([]T, error) {
	var mine []T
	var errs []error
	var mayAdopt error
	asked := false
	for _, child := range children {
		switch bondOf(c.owner, c.selector, child) {
		case keep:
			mine = append(mine, child)
		case release:
			errs = append(errs, c.release(ctx, child))
		case adopt:
			if !asked {
				mayAdopt, asked = c.mayAdopt(ctx), true
			}
			if mayAdopt != nil {
				errs = append(errs, fmt.Errorf("adopt %s: %w", child.GetName(), mayAdopt))
				continue
			}
			err := c.patch(ctx, child, c.adoption(child))
			switch {
			case err == nil:
				mine = append(mine, child)
			case !apierrors.IsNotFound(err):
				errs = append(errs, fmt.Errorf("adopt %s: %w", child.GetName(), err))
			}
		}
	}
	return mine, errors.Join(errs...)
}

func (c claim) mayAdopt(ctx context.Context) error {
	fresh, err := c.live(ctx)
	if err != nil {
		return err
	}
	if fresh.GetUID() != c.owner.GetUID() {
		return fmt.Errorf("%s %s/%s is gone: got uid %s, want %s", c.kind.Kind, c.owner.GetNamespace(), c.owner.GetName(), fresh.GetUID(), c.owner.GetUID())
	}
	if at := fresh.GetDeletionTimestamp(); at != nil {
		return fmt.Errorf("%s %s/%s is being deleted since %s", c.kind.Kind, c.owner.GetNamespace(), c.owner.GetName(), at)
	}
	return nil
}

// release takes the owner off a child. A child that is gone, or another one by now, needs none.
func (c claim) release(ctx context.Context, child metav1.Object) error {
	meta := map[string]any{
		"uid":             child.GetUID(),
		"ownerReferences": []any{map[string]any{"$patch": "delete", "uid": c.owner.GetUID()}},
	}
	if c.finalizer != "" {
		meta["$deleteFromPrimitiveList/finalizers"] = []string{c.finalizer}
	}
	err := c.patch(ctx, child, patchOf(meta))
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return fmt.Errorf("release %s: %w", child.GetName(), err)
}

// adoption is the patch that makes owner the controller. The UID in it makes the server refuse if the name has
// passed to another object.
func (c claim) adoption(child metav1.Object) []byte {
	meta := map[string]any{
		"uid":             child.GetUID(),
		"ownerReferences": []any{metav1.NewControllerRef(c.owner, c.kind)},
	}
	if c.finalizer != "" {
		meta["finalizers"] = []string{c.finalizer}
	}
	return patchOf(meta)
}

func patchOf(metadata map[string]any) []byte {
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(err) // strings only
	}
	return data
}

// without returns references but those to the given owners. It changes nothing.
func without(refs []metav1.OwnerReference, owners ...types.UID) []metav1.OwnerReference {
	return slices.DeleteFunc(slices.Clone(refs), func(ref metav1.OwnerReference) bool { return slices.Contains(owners, ref.UID) })
}
