package webhook

import (
	"context"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// callError says that a webhook could not be asked, or that its answer makes no sense. The failure policy decides what
// comes of it.
type callError struct {
	hook   string
	reason error
	code   int
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.hook, e.reason)
}
func (e *callError) Unwrap() error { return e.reason }

func (h *hook) failed(code int, format string, args ...any) error {
	return &callError{h.Name, fmt.Errorf(format, args...), code}
}

// call asks h about a. object is the new object as h saw it. Errors are a *callError, or those of the API.
func (h *hook) call(ctx context.Context, a *admission.Attributes, row *resource.Resource, mutating bool) (said answer, object []byte, err error) {
	if class := ptr.Deref(h.SideEffects, ""); a.DryRun && class != admissionregistrationv1.SideEffectClassNone && class != admissionregistrationv1.SideEffectClassNoneOnDryRun {
		return said, nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.Name))
	}
	version, into := h.version()
	if into == nil {
		return said, nil, h.failed(400, "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)")
	}
	if h.client.err != nil {
		return said, nil, h.failed(500, "could not get REST client: %w", h.client.err)
	}
	view := matching.View{Attributes: a, Row: row}
	if a.New != nil {
		if object, err = encoded(a.New, view); err != nil {
			return said, nil, apierrors.NewInternalError(err)
		}
	}
	uid := uuid.NewUUID()
	body, err := review(uid, version, object, view)
	if err != nil {
		return said, nil, apierrors.NewInternalError(err)
	}
	defer store.Anew(ctx) // h may have written something
	ctx, end := tracing.Start(ctx, callStep(mutating), attribute.String("configuration", h.configuration), attribute.String("webhook", h.Name))
	defer end()
	ctx, cancel := context.WithTimeout(ctx, h.timeout())
	defer cancel()
	if err := h.client.post(ctx, body, into); err != nil {
		code := 503
		if status, ok := err.(apierrors.APIStatus); ok { // of the answer, not of what was wrong on the way to it
			code = int(status.Status().Code)
		}
		return said, nil, h.failed(code, "failed to call webhook: %w", err)
	}
	if said, err = read(into, uid, mutating); err != nil {
		return said, nil, h.failed(503, "received invalid webhook response: %w", err)
	}
	for key, value := range said.AuditAnnotations {
		a.Audit(h.Name+"/"+key, value)
	}
	for _, text := range said.Warnings {
		a.Warn(text)
	}
	if !said.Allowed {
		return said, nil, denied(h.Name, said.Result)
	}
	return said, object, nil
}

// callStep is how a trace names a call.
func callStep(mutating bool) string {
	if mutating {
		return "Call mutating webhook"
	}
	return "Call validating webhook"
}

// version is the first version of AdmissionReview that both sides know, and an empty one of it.
func (h *hook) version() (string, runtime.Object) {
	i := slices.IndexFunc(h.AdmissionReviewVersions, func(v string) bool { return v == "v1" || v == "v1beta1" })
	if i < 0 {
		return "", nil
	}
	if h.AdmissionReviewVersions[i] == "v1" {
		return "v1", &admissionv1.AdmissionReview{}
	}
	return "v1beta1", &admissionv1beta1.AdmissionReview{}
}
