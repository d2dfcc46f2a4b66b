package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/kubernetes/scheme"
	sigsjson "sigs.k8s.io/json"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Built-in kinds are stored as Kubernetes stores them: the four bytes "k8s\0"
// and a runtime.Unknown that names the kind. Everything without protobuf
// (custom resources) is JSON.
var (
	envelope = []byte("k8s\x00")
	encoder  = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
)

// encode makes the bytes to store. It clears obj's resourceVersion, which the
// backend's revision stands for, and its selfLink, which no server gives any
// more, and fills in its kind. An object of a kind
// that converts stays of the version it is: r may have taken the place of the
// row under which the object was made.
func encode(r *resource.Resource, obj resource.Object) ([]byte, error) {
	obj.SetResourceVersion("")
	obj.SetSelfLink("")
	if !r.Converts() || obj.GetObjectKind().GroupVersionKind().Empty() {
		obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	}
	switch o := obj.(type) {
	case runtime.Unstructured:
		return json.Marshal(o.UnstructuredContent())
	case runtime.ProtobufMarshaller:
		var w taker
		err := encoder.Encode(obj, &w)
		return w.bytes, err
	}
	return json.Marshal(obj)
}

// taker keeps the one slice the protobuf serializer writes, which nobody else
// uses afterwards.
type taker struct{ bytes []byte }

func (t *taker) Write(p []byte) (int, error) {
	if t.bytes != nil {
		t.bytes = append(t.bytes, p...)
		return len(p), nil
	}
	t.bytes = p
	return len(p), nil
}

// decode makes an object of stored bytes, with its kind and defaults filled in.
func decode(r *resource.Resource, value []byte) (resource.Object, error) {
	obj := r.New()
	var err error
	if bytes.HasPrefix(value, envelope) {
		err = decodeProtobuf(r, value[len(envelope):], obj)
	} else {
		err = decodeJSON(r, value, obj)
	}
	if err != nil {
		return nil, fmt.Errorf("decode stored %s: %w", r.Kind, err)
	}
	if !r.Converts() {
		obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	}
	if prune := r.Pruner(); prune != nil {
		if _, err := prune(obj, true); err != nil {
			return nil, fmt.Errorf("decode stored %s: %w", r.Kind, err)
		}
	}
	r.Default(obj)
	if r.Read != nil {
		r.Read(obj)
	}
	return obj, nil
}

func decodeProtobuf(r *resource.Resource, message []byte, obj resource.Object) error {
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(message); err != nil {
		return err
	}
	if gvk := unknown.GroupVersionKind(); gvk != r.GVK() {
		if gvk.GroupKind() == r.GVK().GroupKind() && slices.Contains(r.Older, gvk.Version) {
			return decodeOlder(r, gvk, unknown.Raw, obj)
		}
		return fmt.Errorf("found %s where %s is stored", gvk, r.GVK())
	}
	into, ok := obj.(interface{ Unmarshal([]byte) error })
	if !ok {
		return fmt.Errorf("%T has no protobuf form", obj)
	}
	return into.Unmarshal(unknown.Raw)
}

// decodeOlder reads a version that has the same fields, though perhaps under other numbers.
func decodeOlder(r *resource.Resource, gvk schema.GroupVersionKind, message []byte, obj resource.Object) error {
	older, err := scheme.Scheme.New(gvk)
	if err != nil {
		return err
	}
	into, ok := older.(interface{ Unmarshal([]byte) error })
	if !ok {
		return fmt.Errorf("%T has no protobuf form", older)
	}
	if err := into.Unmarshal(message); err != nil {
		return err
	}
	value, err := json.Marshal(older)
	if err != nil {
		return err
	}
	return decodeJSON(r, value, obj)
}

func decodeJSON(r *resource.Resource, value []byte, obj resource.Object) error {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return utiljson.Unmarshal(value, &u.Object)
	}
	var meta runtime.TypeMeta
	if err := json.Unmarshal(value, &meta); err != nil {
		return err
	}
	if gv, err := schema.ParseGroupVersion(meta.APIVersion); err == nil && gv.Version != r.Version {
		if done, err := r.Upgrade(gv.Version, value, obj); done || err != nil {
			return err
		}
	}
	return sigsjson.UnmarshalCaseSensitivePreserveInts(value, obj)
}

// EncodeNote makes the bytes of what servers tell each other under keys that
// are no API objects', as kube-apiserver does.
func EncodeNote(kind schema.GroupVersionKind, note resource.Object) ([]byte, error) {
	note.GetObjectKind().SetGroupVersionKind(kind)
	var w taker
	err := encoder.Encode(note, &w)
	return w.bytes, err
}

// DecodeNote reads bytes of EncodeNote, or JSON.
func DecodeNote(value []byte, note resource.Object) error {
	message, ok := bytes.CutPrefix(value, envelope)
	if !ok {
		return sigsjson.UnmarshalCaseSensitivePreserveInts(value, note)
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(message); err != nil {
		return err
	}
	into, ok := note.(interface{ Unmarshal([]byte) error })
	if !ok {
		return fmt.Errorf("%T has no protobuf form", note)
	}
	return into.Unmarshal(unknown.Raw)
}
