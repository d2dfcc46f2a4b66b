package codec

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Item is an object that keeps its encoded forms, see store.Item.
type Item interface {
	Encoded(form any, make func(resource.Object) ([]byte, error)) ([]byte, error)
}

// form names the bytes of an item or of a watch frame. JSON bytes are whole
// objects, protobuf bytes are messages without their kind.
type form struct {
	resource *resource.Resource
	media    Media
	as       schema.GroupVersionKind
	event    string
}

// item returns the encoded form of an item as seen through r.
func encodeItem(i Item, r *resource.Resource, m Media, as schema.GroupVersionKind) ([]byte, error) {
	if m == YAML {
		m = JSON
	}
	return i.Encoded(form{resource: r, media: m, as: as}, func(obj resource.Object) ([]byte, error) {
		return encodeObject(obj, r, m, as)
	})
}

func encodeObject(stored resource.Object, r *resource.Resource, m Media, as schema.GroupVersionKind) ([]byte, error) {
	kind, obj := r.GVK(), runtime.Object(nil)
	if as.Empty() {
		converted, err := r.FromStored(stored)
		if err != nil {
			return nil, err
		}
		obj = converted
	} else {
		kind, obj = partialKind(as), meta.AsPartialObjectMetadata(stored)
	}
	if m == Protobuf {
		return marshalRaw(obj)
	}
	data, err := json.Marshal(As(obj, kind))
	if err != nil {
		return nil, fmt.Errorf("encode %s %s/%s: %w", r.Plural, stored.GetNamespace(), stored.GetName(), err)
	}
	return data, nil
}

// partialKind is the kind of one object where as may be that of a list.
func partialKind(as schema.GroupVersionKind) schema.GroupVersionKind {
	return as.GroupVersion().WithKind("PartialObjectMetadata")
}

// object is what an Item becomes for a client: the kind of the answer.
func objectKind(r *resource.Resource, as schema.GroupVersionKind) schema.GroupVersionKind {
	if as.Empty() {
		return r.GVK()
	}
	return partialKind(as)
}

// EncodeItem is the body of an answer that is one object of r.
func (o Output) EncodeItem(i Item, r *resource.Resource, table TableOptions) (Body, error) {
	switch o.As.Kind {
	case "Table":
		obj, err := decodedItem(i)
		if err != nil {
			return nil, err
		}
		t, err := newTable(r, []resource.Object{obj}, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}, o.As.GroupVersion(), table)
		if err != nil {
			return nil, err
		}
		return o.Encode(t)
	case "PartialObjectMetadataList":
		return nil, NotAcceptable("you requested PartialObjectMetadataList, but the requested object is not a list (*%s.%s)", goPackage(r.Group), r.Kind)
	}
	if o.Media == Protobuf {
		head, rest, err := newMessages(r, o.As).append(nil, i)
		return Body{envelopeHead(objectKind(r, o.As), len(head)+len(rest)), head, rest, envelopeTail}, err
	}
	data, err := encodeItem(i, r, o.Media, o.As)
	if err != nil {
		return nil, err
	}
	return o.text(data)
}

// decodedItem takes the object out of an item.
func decodedItem(i Item) (resource.Object, error) {
	holder, ok := i.(interface{ Object() resource.Object })
	if !ok {
		return nil, fmt.Errorf("encode %T: it has no object", i)
	}
	return holder.Object(), nil
}

// Encode is the body of an answer that is made for this request alone. obj says
// of what kind it is.
func (o Output) Encode(obj runtime.Object) (Body, error) {
	if o.Media == Protobuf {
		data, err := Marshal(obj, Protobuf)
		return Body{data}, err
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	return o.text(data)
}

// text finishes JSON for the chosen media type.
func (o Output) text(data []byte) (Body, error) {
	switch {
	case o.Media == YAML:
		data, err := yaml.JSONToYAML(data)
		return Body{data}, err
	case o.Pretty:
		data, err := pretty(data)
		return Body{data}, err
	}
	return Body{data, newline}, nil
}

var newline = []byte("\n")
