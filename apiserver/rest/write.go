package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilmanagedfields "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/managedfields"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// write is one write on its way: what its steps need to know.
type write struct {
	*target
	user    user.Info
	manager string // of the fields it sets
	options runtime.Object
	dryRun  bool
	// applies: it is an apply, which must not forget which fields it applied.
	applies bool
	// trusted writes are the server's own: admission has no say in them.
	trusted bool
	// collection: it is one of many that a single request deletes.
	collection bool
	// judge, if not nil, is asked instead of the validating phase of admission: what is stored is not what a client sees.
	judge func(ctx context.Context, obj, old resource.Object) error
}

func newWrite(r *http.Request, t *target, options runtime.Object, manager string, stages []string) *write {
	return &write{target: t, user: request.User(r.Context()), manager: managedfields.Name(manager, r.UserAgent()), options: options, dryRun: dryRun(stages)}
}

// stored is the storage version, whose functions apply to what is written.
func (w *write) stored() *resource.Resource { return w.resource.Stored }

// attributes are what admission sees of the write.
func (h *Handler) attributes(ctx context.Context, w *write, verb string, obj, old runtime.Object) *admission.Attributes {
	namespace := w.namespace
	if w.stored().IsNamespace() {
		namespace = w.name // what is in it is what the write is about
	}
	return &admission.Attributes{
		Verb: verb, Resource: w.stored(), Requested: w.resource, Subresource: w.subName(), Namespace: namespace, Name: w.name,
		User: w.user, DryRun: w.dryRun, New: obj, Old: old, Options: w.options, Collection: w.collection,
		Warn:    func(text string) { request.Warn(ctx, text) },
		Audit:   func(key, value string) { request.Annotate(ctx, key, value) },
		Heavy:   h.Fields.Heavy,
		Cluster: h.Cluster(),
	}
}

// mutate lets admission change obj, which is nil on delete.
func (h *Handler) mutate(ctx context.Context, w *write, verb string, obj, old resource.Object) error {
	if w.trusted {
		return nil
	}
	ctx, end := tracing.Start(ctx, "Mutating admission")
	defer end()
	if err := h.change(ctx, w, h.attributes(ctx, w, verb, obj, old)); err != nil || obj == nil {
		return err
	}
	dedupeOwners(obj, true, func(text string) { request.Warn(ctx, text) })
	return place(obj, w.objectNamespace())
}

// change lets admission change what a is about. Whose fields are whose is not for it to spoil.
func (h *Handler) change(ctx context.Context, w *write, a *admission.Attributes) error {
	obj := a.Object()
	if obj == nil {
		return admissionError(w, h.Admission.Mutate(ctx, a))
	}
	managed := obj.GetManagedFields()
	if err := h.Admission.Mutate(ctx, a); err != nil {
		return admissionError(w, err)
	}
	if same(managed, obj.GetManagedFields()) {
		return nil
	}
	if err := utilmanagedfields.ValidateManagedFields(obj.GetManagedFields()); err != nil {
		obj.SetManagedFields(managed)
		a.Warn(fmt.Sprintf(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated "+
			"mutating admission controller; please fix your requests: %v", err))
	}
	return nil
}

// same reports whether two slices are one: what replaces managed fields, a webhook or a policy, makes new ones.
func same(a, b []metav1.ManagedFieldsEntry) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// admit lets admission reject obj.
func (h *Handler) admit(ctx context.Context, w *write, verb string, obj, old resource.Object) error {
	switch {
	case w.judge != nil:
		return w.judge(ctx, obj, old)
	case w.trusted:
		return nil
	}
	ctx, end := tracing.Start(ctx, "Validating admission")
	defer end()
	return admissionError(w, h.Admission.Validate(ctx, h.attributes(ctx, w, verb, obj, old)))
}

// pass takes what is not stored through both phases of admission.
func (h *Handler) pass(ctx context.Context, w *write, a *admission.Attributes) error {
	if err := h.change(ctx, w, a); err != nil {
		return err
	}
	return admissionError(w, h.Admission.Validate(ctx, a))
}

// admissionError makes what a plugin said an error of the API. A question that it
// had no answer to is a status already, see package admission.
func admissionError(w *write, err error) error {
	if err == nil || isStatus(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return apierrors.NewForbidden(w.resource.GR(), w.name, err)
}

// prepare resets what a client may not set by this path; old is nil on create.
func (w *write) prepare(obj, old resource.Object) {
	r := w.stored()
	if old != nil {
		obj.SetGeneration(old.GetGeneration())
	}
	if w.sub != nil {
		w.sub.Prepare(obj, old)
	} else {
		r.Prepare(obj, old)
	}
	switch {
	case old != nil:
		// A status is what was observed, never what is desired, even where it
		// brings annotations along.
		status := w.sub != nil && w.sub.Name == "status"
		if r.HasGeneration && !status && r.Generation(obj, old) {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
		carry(obj, old)
	case r.HasGeneration:
		obj.SetGeneration(1)
	}
}

// validate gives 422 with all that is wrong with obj.
func (h *Handler) validate(ctx context.Context, w *write, obj, old resource.Object) error {
	permit, validate := w.resource.Permit, w.resource.Validate // versions may differ in what they accept
	if w.sub != nil {
		permit, validate = w.sub.Permit, w.sub.Validate
	}
	var errs field.ErrorList
	if !w.trusted {
		errs = permit(ctx, h.Cluster(), obj, old)
	}
	errs = append(errs, validateMeta(w.resource, obj, old)...)
	errs = append(errs, validate(ctx, obj, old)...)
	if len(errs) == 0 && old == nil {
		errs = validateSegment(w.resource, obj) // the rules of a kind may say less
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(w.stored().GVK().GroupKind(), obj.GetName(), errs)
}

// warn tells the client what is doubtful about obj.
func (w *write) warn(ctx context.Context, obj, old resource.Object) {
	warnings := w.stored().Warn
	if w.sub != nil {
		warnings = w.sub.Warn
	}
	for _, text := range warnings(obj, old) {
		request.Warn(ctx, text)
	}
}

// mayForget reports whether a write that failed with err may be tried again
// without saying who manages the fields of the object, which makes it smaller.
func (w *write) mayForget(err error) bool { return errors.Is(err, store.ErrTooLarge) && !w.applies }

// reservation is what a write holds until it is known whether it was stored.
type reservation struct {
	release func(committed bool)
}

// reserve takes what is unique in the cluster for obj, after giving back what
// an earlier attempt took. Views change nothing that is reserved.
func (v *reservation) reserve(ctx context.Context, w *write, obj, old resource.Object) error {
	v.settle(false)
	if w.sub != nil {
		return nil
	}
	release, err := w.stored().Reserve(ctx, obj, old, w.dryRun)
	if err != nil {
		return err
	}
	v.release = release
	return nil
}

// settle ends the reservation.
func (v *reservation) settle(committed bool) {
	if v.release != nil {
		v.release(committed)
		v.release = nil
	}
}

// decode reads a body of the kind of t, fills in defaults, and returns the
// object in the stored version.
func (t *target) decode(r *http.Request, body []byte, validation string) (resource.Object, error) {
	_, end := tracing.Start(r.Context(), "Decode")
	defer end()
	obj := t.resource.New()
	media, err := codec.NegotiateInput(r, codec.HasProtobuf(obj))
	if err != nil {
		return nil, err
	}
	err = codec.Decode(body, codec.Input{
		Media: media, Kind: t.resource.GVK(), Validation: validation, Prune: t.resource.Pruner(),
		Warn: func(text string) { request.Warn(r.Context(), text) },
	}, obj)
	if err != nil {
		return nil, err
	}
	return t.toStored(obj)
}

// toStored fills in defaults and converts to the stored version.
func (t *target) toStored(obj resource.Object) (resource.Object, error) {
	t.resource.Default(obj)
	obj, err := t.resource.ToStored(obj)
	if err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(t.resource.Stored.GVK())
	return obj, nil
}

// empty is the object that nothing is known of, in the stored version.
func (t *target) empty() resource.Object {
	obj := t.resource.Stored.New()
	obj.GetObjectKind().SetGroupVersionKind(t.resource.Stored.GVK())
	return obj
}

// loose is an object that is not in the store but answers a request: a dry
// run, or one that is gone with the write that changed it.
type loose struct{ object resource.Object }

func (l loose) Object() resource.Object { return l.object }

func (l loose) Encoded(_ any, make func(resource.Object) ([]byte, error)) ([]byte, error) {
	return make(l.object)
}

var (
	_ codec.Item = loose{}
	_ codec.Item = (*store.Item)(nil)
)
