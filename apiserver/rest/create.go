package rest

import (
	"context"
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// nameAttempts is how many generated names are tried before giving up.
const nameAttempts = 8

// create serves POST to a collection.
func (h *Handler) create(w http.ResponseWriter, r *http.Request, t *target) error {
	ctx, cancel := deadline(r)
	defer cancel()
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	if _, err := codec.NegotiateInput(r, t.offer().Protobuf); err != nil {
		return err
	}
	body, err := codec.ReadBody(r)
	if err != nil {
		return err
	}
	options, err := createOptions(r)
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
	t.name = obj.GetName()
	own(obj)
	if err := place(obj, t.namespace); err != nil {
		return err
	}
	dedupeOwners(obj, false, func(text string) { request.Warn(ctx, text) })
	wr := newWrite(r, t, options, options.FieldManager, options.DryRun)
	if err := h.Fields.Update(ctx, t.resource, "", t.empty(), obj, wr.manager); err != nil {
		return err
	}
	if t.resource.Review != nil {
		return h.review(ctx, w, r, wr, obj)
	}
	item, err := h.createObject(ctx, wr, obj)
	if err != nil {
		return err
	}
	return h.answer(w, r, t, out, http.StatusCreated, item)
}

// review answers a question: nothing is stored.
func (h *Handler) review(ctx context.Context, rw http.ResponseWriter, r *http.Request, w *write, obj resource.Object) error {
	if err := h.mutate(ctx, w, "create", obj, nil); err != nil {
		return err
	}
	if errs := w.stored().Validate(ctx, obj, nil); len(errs) > 0 {
		return apierrors.NewInvalid(w.stored().GVK().GroupKind(), obj.GetName(), errs)
	}
	if err := h.admit(ctx, w, "create", obj, nil); err != nil {
		return err
	}
	options, _ := w.options.(*metav1.CreateOptions)
	answer, err := w.stored().Review(ctx, resource.Call{
		Cluster: h.Cluster(), Resource: w.stored(), Namespace: w.namespace, Name: w.name, DryRun: w.dryRun, Options: options,
	}, obj)
	if err != nil {
		return err
	}
	return answerResult(rw, r, http.StatusCreated, answer, w.resource.GVK())
}

// createObject brings an object whose fields are managed into the store. A
// generated name that is taken is generated anew.
func (h *Handler) createObject(ctx context.Context, w *write, obj resource.Object) (*store.Item, error) {
	if err := h.mutate(ctx, w, "create", obj, nil); err != nil {
		return nil, err
	}
	if obj.GetGenerateName() == "" || obj.GetName() != "" {
		return h.insert(ctx, w, obj)
	}
	for attempt := 1; ; attempt++ {
		item, err := h.insert(ctx, w, obj.DeepCopyObject().(resource.Object))
		if !apierrors.IsAlreadyExists(err) || attempt == nameAttempts {
			return item, err
		}
	}
}

// insert gives a mutated object what the server sets, checks and stores it.
func (h *Handler) insert(ctx context.Context, w *write, obj resource.Object) (*store.Item, error) {
	if obj.GetResourceVersion() != "" && !w.dryRun { // kube-apiserver's storage says so, which dry runs do not reach
		return nil, errors.New("resourceVersion should not be set on objects to be created")
	}
	generate := obj.GetGenerateName() != "" // tried, even if a name was given too
	fill(obj, time.Now())
	var held reservation
	defer held.settle(false)
	if err := held.reserve(ctx, w, obj, nil); err != nil {
		return nil, err
	}
	w.prepare(obj, nil)
	if err := h.validate(ctx, w, obj, nil); err != nil {
		return nil, err
	}
	w.warn(ctx, obj, nil)
	if err := h.admit(ctx, w, "create", obj, nil); err != nil {
		return nil, err
	}
	name := obj.GetName()
	item, err := h.createStored(ctx, w, obj)
	if err != nil {
		return nil, h.createError(ctx, w, name, generate, err)
	}
	held.settle(!w.dryRun)
	return item, nil
}

func (h *Handler) createStored(ctx context.Context, w *write, obj resource.Object) (*store.Item, error) {
	ctx, end := tracing.Start(ctx, "Create in the store")
	defer end()
	item, err := h.Store.Create(ctx, w.stored(), obj, w.dryRun)
	if w.mayForget(err) {
		obj.SetManagedFields(nil)
		item, err = h.Store.Create(ctx, w.stored(), obj, w.dryRun)
	}
	return item, err
}

// createError says why an object was not created; one that is there already
// may be about to go.
func (h *Handler) createError(ctx context.Context, w *write, name string, generate bool, err error) error {
	err = fromStore(err, w.resource, name)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	if generate {
		err = apierrors.NewGenerateNameConflict(w.stored().GR(), name, 1)
	}
	current, getErr := h.Store.Get(ctx, w.stored(), w.objectNamespace(), name)
	var status *apierrors.StatusError
	if getErr == nil && current.Object().GetDeletionTimestamp() != nil && errors.As(err, &status) {
		status.ErrStatus.Message = "object is being deleted: " + status.ErrStatus.Message
	}
	return err
}

// objectNamespace is where the object is kept, which for a Namespace is not
// the namespace of the request.
func (w *write) objectNamespace() string {
	if w.stored().ClusterScoped {
		return ""
	}
	return w.namespace
}
