package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/managedfields"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// update serves PUT of an object or of a view of it.
func (h *Handler) update(w http.ResponseWriter, r *http.Request, t *target) error {
	ctx, cancel := deadline(r)
	defer cancel()
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	body, err := codec.ReadBody(r)
	if err != nil {
		return err
	}
	options, err := updateOptions(r)
	if err != nil {
		return err
	}
	obj, err := t.decode(r, body, options.FieldValidation)
	if err != nil {
		return err
	}
	asked(r, obj, func(out codec.Output) (codec.Body, error) {
		return out.EncodeItem(loose{obj}, t.resource, codec.TableOptions{})
	})
	if err := place(obj, t.namespace); err != nil {
		return err
	}
	if err := named(obj, t.name); err != nil {
		return err
	}
	dedupeOwners(obj, false, func(text string) { request.Warn(ctx, text) })
	wr := newWrite(r, t, options, options.FieldManager, options.DryRun)
	item, created, err := h.updateObject(ctx, wr, change{
		uid: obj.GetUID(), create: t.resource.CreateOnUpdate && t.sub == nil,
		make: func(live resource.Object) (resource.Object, error) {
			return h.manage(ctx, wr, live, obj.DeepCopyObject().(resource.Object))
		},
	})
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return h.answer(w, r, t, out, code, item)
}

// manage records whose fields changed from live to obj.
func (h *Handler) manage(ctx context.Context, w *write, live, obj resource.Object) (resource.Object, error) {
	return obj, h.Fields.Update(ctx, w.resource, w.subName(), live, obj, w.manager)
}

// change is how an update makes the new object of the live one.
type change struct {
	uid types.UID // the object it is meant for; empty: whichever has the name
	// create: a missing object is created.
	create bool
	// make returns the new object with its fields managed. live must not be
	// changed; it is the empty object where there is none.
	make func(live resource.Object) (resource.Object, error)
}

// unmanaged is c without the managers of the fields.
func (c change) unmanaged() change {
	managed := c.make
	c.make = func(live resource.Object) (resource.Object, error) {
		obj, err := managed(live)
		if err == nil {
			obj.SetManagedFields(nil)
		}
		return obj, err
	}
	return c
}

// emptied says that the last finalizer of an object in deletion was removed.
type emptied struct {
	object  resource.Object
	current *store.Item
}

func (e *emptied) Error() string { return "the last finalizer was removed" }

// updateObject changes an object in the store, or creates it where c says so.
func (h *Handler) updateObject(ctx context.Context, w *write, c change) (item codec.Item, created bool, err error) {
	for {
		stored, err := h.tryUpdate(ctx, w, c)
		if w.mayForget(err) {
			stored, err = h.tryUpdate(ctx, w, c.unmanaged())
		}
		var gone *emptied
		switch {
		case errors.As(err, &gone):
			item, err := h.finish(ctx, w, gone)
			if errors.Is(err, store.ErrConflict) {
				continue
			}
			return item, false, fromStore(err, w.resource, w.name)
		case errors.Is(err, store.ErrNotFound) && c.create:
			item, err := h.createByUpdate(ctx, w, c)
			if apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
				continue
			}
			return item, true, err
		}
		return stored, false, fromStore(err, w.resource, w.name)
	}
}

// tryUpdate takes the live object through the steps of a write.
func (h *Handler) tryUpdate(ctx context.Context, w *write, c change) (*store.Item, error) {
	ctx, end := tracing.Start(ctx, "Update in the store")
	defer end()
	var held reservation
	defer held.settle(false)
	r := w.stored()
	item, err := h.Store.Update(ctx, r, w.objectNamespace(), w.name, w.dryRun, func(current *store.Item) (resource.Object, error) {
		// What was stored as another version is updated as it is read.
		old, err := r.FromStored(current.Object())
		if err != nil {
			return nil, err
		}
		if c.uid != "" && c.uid != old.GetUID() {
			return nil, uidConflict(r, w, c.uid, old.GetUID())
		}
		obj, err := c.make(old)
		if err != nil {
			return nil, err
		}
		if err := h.mutate(ctx, w, "update", obj, old); err != nil {
			return nil, err
		}
		if err := sameVersion(w.resource, obj, old); err != nil {
			return nil, err
		}
		if err := held.reserve(ctx, w, obj, old); err != nil {
			return nil, err
		}
		w.prepare(obj, old)
		if err := h.validate(ctx, w, obj, old); err != nil {
			return nil, err
		}
		w.warn(ctx, obj, old)
		managedfields.KeepTimes(obj, old)
		if err := h.admit(ctx, w, "update", obj, old); err != nil {
			return nil, err
		}
		if emptiesDeleted(r, obj, old) {
			return nil, &emptied{obj, current}
		}
		return obj, nil
	})
	held.settle(err == nil && !w.dryRun)
	return item, err
}

// uidConflict is the error for a write that was meant for another object of
// the same name. Clients have been seen to parse it.
func uidConflict(r *resource.Resource, w *write, want, have types.UID) error {
	return apierrors.NewConflict(w.resource.GR(), w.name, fmt.Errorf(
		"StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %s, UID in object meta: %s",
		r.Key(w.objectNamespace(), w.name), want, have))
}

// sameVersion checks that obj is based on the object that is there. Without a
// resourceVersion it is, for kinds that allow it.
func sameVersion(r *resource.Resource, obj, old resource.Object) error {
	version := obj.GetResourceVersion()
	none := strings.Trim(version, "0") == ""
	switch {
	case none && r.NeedsVersion:
		resource := schema.GroupKind{Group: r.Group, Kind: r.Plural} // as Kubernetes has it
		return apierrors.NewInvalid(resource, obj.GetName(), field.ErrorList{
			field.Invalid(metadata.Child("resourceVersion"), 0, "must be specified for an update")})
	case none:
		obj.SetResourceVersion(old.GetResourceVersion())
		return nil
	case version != old.GetResourceVersion():
		if _, err := strconv.ParseUint(version, 10, 64); err != nil {
			return err // 500, oddly, but so it is
		}
		return apierrors.NewConflict(r.GR(), obj.GetName(), errChanged)
	}
	return nil
}

// emptiesDeleted reports whether with this update nothing holds an object any
// more that is being deleted.
func emptiesDeleted(r *resource.Resource, obj, old resource.Object) bool {
	grace := old.GetDeletionGracePeriodSeconds()
	return old.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0 && (grace == nil || *grace == 0) && !r.Held(obj)
}

// finish removes an object with whose update its deletion is complete. It
// answers with the object as the client wrote it.
func (h *Handler) finish(ctx context.Context, w *write, gone *emptied) (codec.Item, error) {
	if _, err := h.remove(ctx, w, gone.current); err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	return loose{gone.object}, nil
}

// createByUpdate creates the object that an update did not find.
func (h *Handler) createByUpdate(ctx context.Context, w *write, c change) (codec.Item, error) {
	if c.uid != "" {
		return nil, uidConflict(w.stored(), w, c.uid, "")
	}
	if err := h.may(ctx, w, "create"); err != nil {
		return nil, err
	}
	obj, err := c.make(w.empty())
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion("")
	creating := *w
	creating.options = asCreateOptions(w.options)
	item, err := h.createObject(ctx, &creating, obj)
	if err != nil {
		return nil, err
	}
	return item, nil
}

// may asks whether the user of a write may do what another verb stands for.
func (h *Handler) may(ctx context.Context, w *write, verb string) error {
	if w.trusted || h.Authorizer == nil {
		return nil
	}
	r := w.resource
	a := authorizer.AttributesRecord{
		User: w.user, Verb: verb, Namespace: w.namespace, APIGroup: r.Group, APIVersion: r.Version, Resource: r.Plural,
		Subresource: w.subName(), Name: w.name, ResourceRequest: true,
	}
	decision, reason, err := h.Authorizer.Authorize(ctx, a)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(fmt.Errorf("error occurred while evaluating authorization: %w", err))
	}
	return request.Forbidden(a, reason)
}

// asCreateOptions are the options of the creation that an update turned into.
func asCreateOptions(options runtime.Object) *metav1.CreateOptions {
	c := &metav1.CreateOptions{}
	if o, ok := options.(*metav1.UpdateOptions); ok {
		c.DryRun, c.FieldManager, c.FieldValidation = o.DryRun, o.FieldManager, o.FieldValidation
	}
	c.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	return c
}
