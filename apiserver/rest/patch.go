package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/skiff-k8s/skiff/apiserver/audit"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/heavy"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// patch serves PATCH of an object or of a view of it.
func (h *Handler) patch(w http.ResponseWriter, r *http.Request, t *target) error {
	ctx, cancel := deadline(r)
	defer cancel()
	p, err := h.readPatch(r, t)
	if err != nil {
		return err
	}
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	wr := newWrite(r, t, p.updateOptions(), p.options.FieldManager, p.options.DryRun)
	wr.applies = p.kind == types.ApplyYAMLPatchType
	item, created, err := h.updateObject(ctx, wr, change{
		create: p.kind == types.ApplyYAMLPatchType && t.sub == nil,
		make:   func(live resource.Object) (resource.Object, error) { return h.patched(ctx, wr, p, live) },
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

// patched is live with the patch applied and its fields managed.
func (h *Handler) patched(ctx context.Context, w *write, p *patch, live resource.Object) (resource.Object, error) {
	var obj resource.Object
	var err error
	if p.kind == types.ApplyYAMLPatchType {
		obj, err = h.apply(ctx, w, p, live)
	} else {
		obj, err = h.modify(ctx, w, p, live)
	}
	if err != nil {
		return nil, err
	}
	if live.GetUID() == "" && obj.GetUID() != "" {
		return nil, apierrors.NewConflict(w.resource.GR(), w.name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", obj.GetUID()))
	}
	if err := place(obj, w.namespace); err != nil {
		return nil, err
	}
	return obj, named(obj, w.name)
}

// modify applies a patch that says what to change. It is written against the
// served version.
func (h *Handler) modify(ctx context.Context, w *write, p *patch, live resource.Object) (resource.Object, error) {
	served, err := w.resource.FromStored(live)
	if err != nil {
		return nil, err
	}
	obj := w.resource.New()
	if err := p.apply(ctx, h.Fields.Heavy, codec.As(served, w.resource.GVK()), obj, codec.Input{Kind: w.resource.GVK(), Prune: w.resource.Pruner()}); err != nil {
		return nil, err
	}
	if obj, err = w.toStored(obj); err != nil {
		return nil, err
	}
	return h.manage(ctx, w, live, obj)
}

// patch is the body of a PATCH.
type patch struct {
	kind    types.PatchType
	body    []byte
	options *metav1.PatchOptions
}

// errPatchType does not say which types there are, as kube-apiserver's does not.
var errPatchType = &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType,
	Reason: metav1.StatusReasonUnsupportedMediaType, Message: "415: Unsupported Media Type", Details: &metav1.StatusDetails{}}}

// updateOptions are those of the update that a patch is.
func (p *patch) updateOptions() *metav1.UpdateOptions {
	o := &metav1.UpdateOptions{DryRun: p.options.DryRun, FieldManager: p.options.FieldManager, FieldValidation: p.options.FieldValidation}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	return o
}

// patchType is the type of the patch in a request. Custom resources have no
// strategic merge patch: their lists have no merge keys in Go types.
func patchType(r *http.Request, t *target) (types.PatchType, error) {
	contentType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	known := []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}
	if t.resource.Custom != nil {
		if known = slices.Delete(known, 2, 3); !slices.Contains(known, contentType) {
			return "", codec.UnsupportedMedia(known)
		}
	}
	if !slices.Contains(known, contentType) {
		return "", errPatchType
	}
	return types.PatchType(contentType), nil
}

// readPatch takes the patch from a request.
func (h *Handler) readPatch(r *http.Request, t *target) (*patch, error) {
	kind, err := patchType(r, t)
	if err != nil {
		return nil, err
	}
	body, err := codec.ReadBody(r)
	if err != nil {
		return nil, err
	}
	options, err := patchOptions(r, kind)
	if err != nil {
		return nil, err
	}
	audit.From(r.Context()).Asked(nil, func() ([]byte, error) { return body, nil })
	return &patch{kind: kind, body: body, options: options}, nil
}

// apply reads into what the patch makes of live. Both are of the kind of in.
func (p *patch) apply(ctx context.Context, run heavy.Runner, live, into runtime.Object, in codec.Input) error {
	if p.kind == types.StrategicMergePatchType {
		return p.applyStrategic(ctx, run, live, into)
	}
	before, err := json.Marshal(live)
	if err != nil {
		return fmt.Errorf("encode %T: %w", live, err)
	}
	after, strict, err := p.applyJSON(ctx, run, before)
	if err != nil {
		return err
	}
	more, err := codec.DecodePatched(after, in, into)
	switch {
	case isStatus(err) && in.Prune != nil:
		return err
	case err != nil:
		return invalidPatch(string(after), err)
	}
	return p.strictErrors(ctx, string(after), append(strict, more...))
}

func (p *patch) lax() bool { return p.options.FieldValidation == metav1.FieldValidationIgnore }

// strictErrors are a 422 or warnings, as the client wants.
func (p *patch) strictErrors(ctx context.Context, value string, strict []error) error {
	switch {
	case len(strict) == 0 || p.lax():
		return nil
	case p.options.FieldValidation == metav1.FieldValidationStrict:
		return invalidPatch(value, runtime.NewStrictDecodingError(strict))
	}
	codec.WarnStrict(strict, func(text string) { request.Warn(ctx, text) })
	return nil
}

func invalidPatch(value string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, err.Error())})
}

// applyJSON makes new JSON of old by a JSON patch (RFC 6902) or a merge patch
// (RFC 7386).
func (p *patch) applyJSON(ctx context.Context, run heavy.Runner, before []byte) (after []byte, strict []error, err error) {
	if p.kind == types.MergePatchType {
		if !p.lax() {
			if strict, err = kjson.UnmarshalStrict(p.body, &map[string]any{}); err != nil {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
			}
		}
		after, err = jsonpatch.MergePatch(before, p.body)
		if errors.Is(err, jsonpatch.ErrBadJSONPatch) {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		return after, strict, err
	}
	if !p.lax() {
		if strict, err = p.strictOperations(); err != nil {
			return nil, nil, err
		}
	}
	operations, err := jsonpatch.DecodePatch(p.body)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	after, err = run.PatchJSON(ctx, operations, len(p.body), before)
	if err != nil && !isStatus(err) && ctx.Err() == nil {
		err = unprocessable(err)
	}
	return after, strict, err
}

// operation is what a JSON patch is a list of.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

// strictOperations lists what a JSON patch says that no operation has.
func (p *patch) strictOperations() ([]error, error) {
	var operations []operation
	strict, err := kjson.UnmarshalStrict(p.body, &operations)
	if err != nil {
		// The decoder names the Go type, which in kube-apiserver is another.
		text := strings.Replace(err.Error(), "rest.operation", "handlers.jsonPatchOp", 1)
		return nil, apierrors.NewBadRequest("error decoding patch: " + text)
	}
	for i, e := range strict {
		strict[i] = fmt.Errorf("json patch %w", e)
	}
	return strict, nil
}

func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}
