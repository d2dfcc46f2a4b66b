package custom

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// retryCleaning is how long to wait after a failure before going on.
const retryCleaning = 5 * time.Second

// begin removes the objects of a definition that is being deleted, and then the
// finalizer that waits for that.
func (d *Definitions) begin(ctx context.Context, is *known, c *definition) {
	ctx, is.cleaning = context.WithCancel(ctx)
	row := (*resource.Resource)(nil)
	if is.kind != nil { // it is served, and so has objects, some moments before it is said to be established
		row = is.kind.stored
	}
	builtin := is.kind == nil && apihelpers.IsCRDConditionTrue(c, apiextensionsv1.Established)
	d.clean.Go("objects of a deleted definition", func() {
		for ctx.Err() == nil {
			err := d.cleanUp(ctx, c, row, builtin)
			if err == nil || ctx.Err() != nil {
				return
			}
			d.config.Log.ErrorContext(ctx, "remove the objects of a definition", "name", c.Name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(retryCleaning):
			}
		}
	})
}

// cleanUp deletes the objects of row, if there is one, and says so.
func (d *Definitions) cleanUp(ctx context.Context, c *definition, row *resource.Resource, builtin bool) error {
	if err := d.terminating(ctx, c, apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress", false); err != nil {
		return err
	}
	switch {
	case builtin:
		return d.terminating(ctx, c, apiextensionsv1.ConditionFalse, "OverlappingBuiltInResource", "instances overlap with built-in resources in storage", true)
	case row == nil:
		return d.terminating(ctx, c, apiextensionsv1.ConditionFalse, "NeverEstablished", "resource was never established", true)
	}
	if err := d.deleteAll(ctx, row); err != nil {
		text := fmt.Sprintf("could not issue all deletes: %v", err)
		return errors.Join(err, d.terminating(ctx, c, apiextensionsv1.ConditionTrue, "InstanceDeletionFailed", text, false))
	}
	if err := d.waitGone(ctx, row); err != nil {
		return err
	}
	return d.terminating(ctx, c, apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances", true)
}

func (d *Definitions) terminating(ctx context.Context, c *definition, status apiextensionsv1.ConditionStatus, reason, message string, done bool) error {
	return d.update(ctx, c, func(now *definition) error {
		set(now, condition{Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message})
		if done {
			apihelpers.CRDRemoveFinalizer(now, apiextensionsv1.CustomResourceCleanupFinalizer)
		}
		return nil
	})
}

// deleteAll deletes every object, or begins to where finalizers hold it.
func (d *Definitions) deleteAll(ctx context.Context, row *resource.Resource) error {
	items, _, err := d.config.Source.Snapshot(ctx, row, store.Match{Readable: true}, -1)
	if err != nil {
		return fmt.Errorf("list %s: %w", row.GR(), err)
	}
	var errs []error
	for _, item := range items {
		obj := item.Object()
		uid := obj.GetUID()
		_, err := d.config.Cluster.Delete(ctx, row, obj.GetNamespace(), obj.GetName(), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// waitGone returns when there is no object any more.
func (d *Definitions) waitGone(ctx context.Context, row *resource.Resource) error {
	for {
		items, revision, err := d.config.Source.Snapshot(ctx, row, store.Match{}, -1)
		if err != nil {
			return fmt.Errorf("list %s: %w", row.GR(), err)
		}
		if len(items) == 0 {
			return nil
		}
		for step, err := range d.config.Source.Watch(ctx, row, store.Match{}, revision) {
			if err != nil {
				break // the list tells more
			}
			if step.Event != nil && !step.Is {
				break
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
