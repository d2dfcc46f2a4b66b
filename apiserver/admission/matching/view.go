package matching

import (
	"reflect"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// View is a write as it is seen in the version of a row.
type View struct {
	*admission.Attributes
	Row *resource.Resource
}

// Kind is the kind of the objects: that of the row, or of the body of the subresource.
func (v View) Kind() schema.GroupVersionKind { return kindOf(v.Row, v.Subresource) }

func kindOf(r *resource.Resource, subresource string) schema.GroupVersionKind {
	if sub := r.Sub(subresource); sub != nil && !sub.Kind.Empty() {
		return sub.Kind
	}
	return r.GVK()
}

// HasBody reports whether the objects are not those of the kind, but a subresource's own.
func (v View) HasBody() bool { return v.Kind() != v.Row.GVK() }

// Object is an object of the write in the version of the row. It may be obj itself, and may share what it holds.
func (v View) Object(obj runtime.Object) (runtime.Object, error) {
	if stored, ok := obj.(resource.Object); ok && !v.HasBody() {
		converted, err := v.Row.FromStored(stored)
		if err != nil {
			return nil, err
		}
		obj = converted
	}
	return codec.As(obj, v.Kind()), nil
}

// Map is an object of the write as JSON has it; nil if there is none. It must not be changed.
func (v View) Map(obj runtime.Object) (map[string]any, error) {
	if obj == nil {
		return nil, nil
	}
	seen, err := v.Object(obj)
	if err != nil {
		return nil, err
	}
	return AsMap(seen)
}

// AsMap is an object as JSON has it. It may share what obj holds.
func AsMap(obj runtime.Object) (map[string]any, error) {
	if u, ok := obj.(runtime.Unstructured); ok {
		return u.UnstructuredContent(), nil
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
}

// Store makes obj, which is of the version of the row and has its defaults, the new object of the write. The maker of the
// write holds on to what New points to, so that is what changes.
func (v View) Store(obj runtime.Object) error {
	if own, ok := obj.(resource.Object); ok && !v.HasBody() {
		stored, err := v.Row.ToStored(own)
		if err != nil {
			return err
		}
		stored.GetObjectKind().SetGroupVersionKind(v.Row.Stored.GVK())
		obj = stored
	}
	reflect.ValueOf(v.New).Elem().Set(reflect.ValueOf(obj).Elem())
	return nil
}

// Request is what webhooks and policies are told of the write, besides the objects and the uid. matched is the resource
// they are told it is about.
func (v View) Request(matched schema.GroupVersionResource) admissionv1.AdmissionRequest {
	asked := v.Served()
	requestKind, requestResource := metav1.GroupVersionKind(kindOf(asked, v.Subresource)), metav1.GroupVersionResource(asked.GVR())
	name := v.RequestName()
	if obj := v.Attributes.Object(); name == "" && obj != nil {
		name = obj.GetName()
	}
	dryRun := v.DryRun
	r := admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind(v.Kind()), Resource: metav1.GroupVersionResource(matched), SubResource: v.Subresource,
		RequestKind: &requestKind, RequestResource: &requestResource, RequestSubResource: v.Subresource,
		Name: name, Namespace: v.Namespace, Operation: Operation(v.Attributes), DryRun: &dryRun,
		Options: runtime.RawExtension{Object: v.Options},
	}
	if v.User != nil {
		r.UserInfo = authenticationv1.UserInfo{Username: v.User.GetName(), UID: v.User.GetUID(), Groups: v.User.GetGroups(), Extra: make(map[string]authenticationv1.ExtraValue)}
		for key, values := range v.User.GetExtra() {
			r.UserInfo.Extra[key] = values
		}
	}
	return r
}

// RequestMap is Request as expressions see it.
func (v View) RequestMap(matched schema.GroupVersionResource) (map[string]any, error) {
	r := v.Request(matched)
	return runtime.DefaultUnstructuredConverter.ToUnstructured(&r)
}

// Operation is the verb of a as webhooks and policies know it.
func Operation(a *admission.Attributes) admissionv1.Operation {
	return admissionv1.Operation(strings.ToUpper(a.Verb))
}
