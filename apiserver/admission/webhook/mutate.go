package webhook

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/heavy"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// memory is what the first round of a write leaves for the second.
type memory struct {
	asked map[string]bool // webhooks to be asked again if the object changes
	again map[string]bool // webhooks that will be
	left  runtime.Object  // what the first round made
}

// changed remembers that the object is not what earlier webhooks saw.
func (m *memory) changed() {
	for id := range m.asked {
		m.again[id] = true
	}
	m.asked = make(map[string]bool)
}

// mutate asks the mutating webhooks, each about what the one before it made.
func (w *Webhooks) mutate(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) {
		return nil
	}
	hooks, err := w.mutating.list(ctx, w)
	if err != nil || len(hooks) == 0 {
		return err
	}
	m, _ := a.Recall(mutatingName).(*memory)
	if m == nil {
		m = &memory{asked: make(map[string]bool), again: make(map[string]bool)}
		a.Remember(mutatingName, m)
	}
	if a.Round > 0 && !equality.Semantic.DeepEqual(m.left, a.New) {
		m.changed()
	}
	equivalents := matching.Equivalents(a, w.config.Served())
	for i, h := range hooks {
		row, err := w.matches(ctx, h, a, equivalents)
		if err != nil {
			return err
		}
		if row == nil || a.Round > 0 && !m.again[h.id] {
			continue
		}
		changed, err := w.ask(ctx, h, a, row, i)
		if err != nil {
			return err
		}
		if changed {
			m.changed()
			a.Again = true
		}
		if ptr.Deref(h.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy) == admissionregistrationv1.IfNeededReinvocationPolicy {
			m.asked[h.id] = true
		}
	}
	if a.New != nil && len(m.asked) > 0 { // else nobody will ask what it was
		m.left = a.New.DeepCopyObject()
	}
	return nil
}

// ask asks one mutating webhook and does as it says.
func (w *Webhooks) ask(ctx context.Context, h *hook, a *admission.Attributes, row *resource.Resource, index int) (changed bool, err error) {
	began := time.Now()
	said, object, err := h.call(ctx, a, row, true)
	if err == nil {
		changed, err = h.patch(ctx, a, row, said, object)
	}
	place := fmt.Sprintf("round_%d_index_%d", a.Round, index)
	a.Audit("mutation.webhook.admission.k8s.io/"+place, fmt.Sprintf(`{"configuration":%q,"webhook":%q,"mutated":%t}`, h.configuration, h.Name, changed))
	return changed, w.settle(ctx, h, a, "admit", began, err, "failed-open.mutation.webhook.admission.k8s.io/"+place)
}

// settle counts a call, and lets failures pass where the webhook says so.
func (w *Webhooks) settle(ctx context.Context, h *hook, a *admission.Attributes, phase string, began time.Time, err error, failedOpen string) error {
	w.metrics.called(h, a, phase, time.Since(began), err)
	var failed *callError
	if !errors.As(err, &failed) {
		return err
	}
	if ctx.Err() != nil {
		return heavy.Timeout(ctx)
	}
	if !h.ignoresFailures() {
		return apierrors.NewInternalError(failed)
	}
	w.config.Log.Warn("webhook failed and was passed over", "webhook", h.Name, "configuration", h.configuration, "error", fmt.Sprintf("%.1000v", failed))
	a.Audit(failedOpen, h.Name)
	return nil
}

// patch makes of the object what a webhook said. object is as the webhook saw it.
func (h *hook) patch(ctx context.Context, a *admission.Attributes, row *resource.Resource, said answer, object []byte) (changed bool, err error) {
	if len(said.Patch) == 0 {
		return false, nil
	}
	patch, err := jsonpatch.DecodePatch(said.Patch)
	switch {
	case err != nil:
		return false, h.failed(503, "received undecodable patch in webhook response: %w", err)
	case len(patch) == 0:
		return false, nil
	case a.New == nil:
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", h.Name))
	case said.patchType != admissionv1.PatchTypeJSONPatch:
		return false, h.failed(400, "unsupported patch type %q", said.patchType)
	}
	patched, err := a.Heavy.PatchJSON(ctx, patch, len(said.Patch), object)
	switch {
	case apierrors.IsTimeout(err), apierrors.IsTooManyRequests(err):
		return false, err
	case err != nil:
		return false, apierrors.NewInternalError(err)
	}
	view := matching.View{Attributes: a, Row: row}
	before, err := view.Object(a.New)
	if err != nil {
		return false, err
	}
	made := reflect.New(reflect.TypeOf(before).Elem()).Interface().(runtime.Object)
	in := codec.Input{Kind: view.Kind()}
	if !view.HasBody() {
		in.Prune = row.Pruner()
	}
	if _, err := codec.DecodePatched(patched, in, made); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	changed = !equality.Semantic.DeepEqual(before, made)
	if obj, ok := made.(resource.Object); ok && !view.HasBody() {
		row.Default(obj)
	}
	return changed, view.Store(made)
}
