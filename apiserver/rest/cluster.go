package rest

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// manager is the field manager of the server's own writes.
const manager = "skiff-apiserver"

// Cluster is what admission and subresources may ask of the server. Its writes
// take the same steps as those of clients, but for admission.
func (h *Handler) Cluster() resource.Cluster { return cluster{h} }

type cluster struct{ h *Handler }

var _ resource.Cluster = cluster{}

func (c cluster) Resource(group, plural string) *resource.Resource {
	return c.h.Storage(schema.GroupResource{Group: group, Resource: plural})
}

func (c cluster) Get(ctx context.Context, r *resource.Resource, namespace, name string) (resource.Object, error) {
	item, err := c.h.Store.Get(ctx, r, namespace, name)
	if err != nil {
		return nil, fromStore(err, r, name)
	}
	return item.Object(), nil
}

func (c cluster) List(ctx context.Context, r *resource.Resource, namespace string) ([]resource.Object, error) {
	items, _, err := c.h.Store.Snapshot(ctx, r, store.Match{Namespace: namespace}, -1)
	if err != nil {
		return nil, fromStore(err, r, "")
	}
	objects := make([]resource.Object, len(items))
	for i, item := range items {
		objects[i] = item.Object()
	}
	return objects, nil
}

// write is a write of the server's own in the name of whom it serves.
func (c cluster) write(ctx context.Context, r *resource.Resource, namespace, name string, dryRun bool) *write {
	return &write{
		target: &target{resource: r.Stored, namespace: namespace, name: name}, user: request.User(ctx),
		manager: manager, dryRun: dryRun, trusted: true,
	}
}

func (c cluster) Create(ctx context.Context, r *resource.Resource, obj resource.Object) (resource.Object, error) {
	w := c.write(ctx, r, obj.GetNamespace(), obj.GetName(), false)
	obj, err := w.toStored(obj.DeepCopyObject().(resource.Object))
	if err != nil {
		return nil, err
	}
	own(obj)
	if err := c.h.Fields.Update(ctx, w.resource, "", w.empty(), obj, w.manager); err != nil {
		return nil, err
	}
	item, err := c.h.createObject(ctx, w, obj)
	if err != nil {
		return nil, err
	}
	return item.Object(), nil
}

// Update stores what change makes as it is: the server may set status and the
// rest in one write, and owns no fields by it (a bound pod's node name is
// nobody's). An object in deletion whose last finalizer change removes is gone.
func (c cluster) Update(ctx context.Context, r *resource.Resource, namespace, name string, dryRun bool, change func(resource.Object) error) (resource.Object, error) {
	for {
		item, err := c.h.Store.Update(ctx, r.Stored, namespace, name, dryRun, func(current *store.Item) (resource.Object, error) {
			obj := current.Object().DeepCopyObject().(resource.Object)
			if err := change(obj); err != nil {
				return nil, err
			}
			if emptiesDeleted(r.Stored, obj, current.Object()) {
				return nil, &emptied{obj, current}
			}
			return obj, nil
		})
		var gone *emptied
		switch {
		case err == nil:
			return item.Object(), nil
		case errors.As(err, &gone):
			item, err := c.h.finish(ctx, c.write(ctx, r, namespace, name, dryRun), gone)
			if errors.Is(err, store.ErrConflict) {
				continue
			}
			if err != nil {
				return nil, fromStore(err, r, name)
			}
			return itemObject(item), nil
		}
		return nil, fromStore(err, r, name)
	}
}

func (c cluster) Delete(ctx context.Context, r *resource.Resource, namespace, name string, options *metav1.DeleteOptions) (resource.Object, error) {
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	w := c.write(ctx, r, namespace, name, dryRun(options.DryRun))
	w.options = options
	item, _, err := c.h.deleteObject(ctx, w, options)
	if err != nil {
		return nil, err
	}
	return itemObject(item), nil
}
