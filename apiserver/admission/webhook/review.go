package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// kindOf is the kind of the object in a request for row: that of the subresource's body, or of the row.
func kindOf(a *admission.Attributes, row *resource.Resource) schema.GroupVersionKind {
	if sub := row.Sub(a.Subresource); sub != nil && !sub.Kind.Empty() {
		return sub.Kind
	}
	return row.GVK()
}

// hasBody reports whether the objects of a are not those of its kind, but have a kind of their own.
func hasBody(a *admission.Attributes, row *resource.Resource) bool {
	return kindOf(a, row) != row.GVK()
}

// versioned is an object of a in the version of row. It may be obj itself.
func versioned(obj runtime.Object, a *admission.Attributes, row *resource.Resource) (runtime.Object, error) {
	if stored, ok := obj.(resource.Object); ok && !hasBody(a, row) {
		converted, err := row.FromStored(stored)
		if err != nil {
			return nil, err
		}
		obj = converted
	}
	return codec.As(obj, kindOf(a, row)), nil
}

// encoded is versioned in JSON.
func encoded(obj runtime.Object, a *admission.Attributes, row *resource.Resource) ([]byte, error) {
	v, err := versioned(obj, a, row)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// asMap is versioned as match conditions see it.
func asMap(obj runtime.Object, a *admission.Attributes, row *resource.Resource) (map[string]any, error) {
	v, err := versioned(obj, a, row)
	if err != nil {
		return nil, err
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(v)
}

// request is what a webhook is told of a, but for the objects and the uid.
func request(a *admission.Attributes, row *resource.Resource) admissionv1.AdmissionRequest {
	asked := a.Served()
	requestKind, requestResource := metav1.GroupVersionKind(kindOf(a, asked)), metav1.GroupVersionResource(asked.GVR())
	name := a.RequestName()
	if obj := a.Object(); name == "" && obj != nil {
		name = obj.GetName()
	}
	dryRun := a.DryRun
	r := admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind(kindOf(a, row)), Resource: metav1.GroupVersionResource(row.GVR()), SubResource: a.Subresource,
		RequestKind: &requestKind, RequestResource: &requestResource, RequestSubResource: a.Subresource,
		Name: name, Namespace: a.Namespace, Operation: admissionv1.Operation(operation(a)), DryRun: &dryRun,
		Options: runtime.RawExtension{Object: a.Options},
	}
	if a.User != nil {
		r.UserInfo = authenticationv1.UserInfo{Username: a.User.GetName(), UID: a.User.GetUID(), Groups: a.User.GetGroups(), Extra: make(map[string]authenticationv1.ExtraValue)}
		for key, values := range a.User.GetExtra() {
			r.UserInfo.Extra[key] = values
		}
	}
	return r
}

// review encodes an AdmissionReview of a version; both versions have the same fields.
func review(uid types.UID, version string, object []byte, a *admission.Attributes, row *resource.Resource) ([]byte, error) {
	r := request(a, row)
	r.UID, r.Object.Raw = uid, object
	if a.Old != nil {
		old, err := encoded(a.Old, a, row)
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
