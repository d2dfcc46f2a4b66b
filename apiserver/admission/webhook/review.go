package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
)

// encoded is an object of the write in JSON.
func encoded(obj runtime.Object, v matching.View) ([]byte, error) {
	seen, err := v.Object(obj)
	if err != nil {
		return nil, err
	}
	return json.Marshal(seen)
}

// review encodes an AdmissionReview of a version; both versions have the same fields.
func review(uid types.UID, version string, object []byte, v matching.View) ([]byte, error) {
	r := v.Request(v.Row.GVR())
	r.UID, r.Object.Raw = uid, object
	if v.Old != nil {
		old, err := encoded(v.Old, v)
		if err != nil {
			return nil, err
		}
		r.OldObject.Raw = old
	}
	return json.Marshal(&admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: schema.GroupVersion{Group: admissionv1.GroupName, Version: version}.String()},
		Request:  &r,
	})
}

// answer is what a webhook said, in whichever version.
type answer struct {
	*admissionv1.AdmissionResponse
	patchType admissionv1.PatchType
}

// read checks what a webhook said. v1beta1 is trusted to mean well, as it always was.
func read(review runtime.Object, uid types.UID, mutating bool) (answer, error) {
	if beta, ok := review.(*admissionv1beta1.AdmissionReview); ok {
		if beta.Response == nil {
			return answer{}, errors.New("webhook response was absent")
		}
		r := beta.Response
		a := answer{AdmissionResponse: &admissionv1.AdmissionResponse{Allowed: r.Allowed, Result: r.Result, AuditAnnotations: r.AuditAnnotations, Warnings: r.Warnings}}
		if mutating {
			a.Patch, a.patchType = r.Patch, admissionv1.PatchTypeJSONPatch
		}
		return a, nil
	}
	v1, ok := review.(*admissionv1.AdmissionReview)
	if !ok {
		return answer{}, fmt.Errorf("unexpected response type %T", review)
	}
	r, want := v1.Response, admissionv1.SchemeGroupVersion.WithKind("AdmissionReview")
	switch {
	case r == nil:
		return answer{}, errors.New("webhook response was absent")
	case r.UID != uid:
		return answer{}, fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
	case v1.GroupVersionKind() != want:
		return answer{}, fmt.Errorf("expected webhook response of %v, got %v", want, v1.GroupVersionKind())
	case !mutating && len(r.Patch) > 0:
		return answer{}, errors.New("validating webhook may not return response.patch")
	case !mutating && r.PatchType != nil:
		return answer{}, errors.New("validating webhook may not return response.patchType")
	case len(r.Patch) > 0 && r.PatchType == nil:
		return answer{}, errors.New("webhook returned response.patch but not response.patchType")
	case len(r.Patch) == 0 && r.PatchType != nil:
		return answer{}, errors.New("webhook returned response.patchType but not response.patch")
	case r.PatchType != nil && *r.PatchType == "":
		return answer{}, fmt.Errorf("webhook returned invalid response.patchType of %q", *r.PatchType)
	}
	a := answer{AdmissionResponse: r}
	if r.PatchType != nil {
		a.patchType = *r.PatchType
	}
	return a, nil
}

// denied is the error for a write that a webhook refused, with what it said of it.
func denied(name string, result *metav1.Status) error {
	if result == nil {
		result = &metav1.Status{}
	}
	if result.Code < http.StatusBadRequest {
		result.Code = http.StatusBadRequest
	}
	if result.Status == "" || result.Status == metav1.StatusSuccess {
		result.Status = metav1.StatusFailure
	}
	text := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case result.Message != "":
		result.Message = text + ": " + result.Message
	case result.Reason != "":
		result.Message = text + ": " + string(result.Reason)
	default:
		result.Message = text + " without explanation"
	}
	return &denial{&apierrors.StatusError{ErrStatus: *result}}
}
