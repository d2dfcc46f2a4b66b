package codec

import (
	"bytes"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// EncodeList is the body of an answer that is a list of r. The bytes of the
// items are shared, not copied.
func EncodeList[I Item](o Output, items []I, r *resource.Resource, listMeta metav1.ListMeta, table TableOptions) (Body, error) {
	switch o.As.Kind {
	case "Table":
		if r == r.Stored && !r.Converts() {
			body, err := rows(o, items, r, listMeta, table)
			return o.whole(body, err)
		}
		objects := make([]resource.Object, 0, len(items))
		for _, i := range items {
			obj, err := decodedItem(i)
			if err != nil {
				return nil, err
			}
			objects = append(objects, obj)
		}
		t, err := newTable(r, objects, listMeta, o.As.GroupVersion(), table)
		if err != nil {
			return nil, err
		}
		return o.Encode(t)
	case "PartialObjectMetadata":
		return nil, NotAcceptable("you requested PartialObjectMetadata, but the requested object is a list (*%s.%sList)", goPackage(r.Group), r.Kind)
	}
	kind := r.GroupVersion().WithKind(r.ListKind)
	if !o.As.Empty() {
		kind = o.As
	}
	if o.Media == Protobuf {
		return protobufList(kind, listMeta, items, newMessages(r, o.As))
	}
	encoded, err := encodeItems(o, items, r)
	if err != nil {
		return nil, err
	}
	var metadata any = listMeta
	if r.Custom != nil && o.As.Empty() {
		metadata = openListMeta{listMeta, listMeta.Continue}
	}
	body, err := jsonList(kind, metadata, encoded, itemPrefix(r, o.As))
	return o.whole(body, err)
}

// whole finishes JSON that was joined for the chosen media type.
func (o Output) whole(body Body, err error) (Body, error) {
	if err != nil || (o.Media == JSON && !o.Pretty) {
		return body, err
	}
	return o.text(bytes.TrimRight(bytes.Join(body, nil), "\n"))
}

// openListMeta is that of lists of custom resources, which say that nothing
// follows where others leave the token out.
type openListMeta struct {
	metav1.ListMeta
	Continue string `json:"continue"`
}

// encodeItems are the encoded forms of items. Those that are converted all at
// once are not kept.
func encodeItems[I Item](o Output, items []I, r *resource.Resource) ([][]byte, error) {
	encoded := make([][]byte, 0, len(items))
	if !r.Converts() || !o.As.Empty() {
		for _, i := range items {
			data, err := encodeItem(i, r, o.Media, o.As)
			if err != nil {
				return nil, err
			}
			encoded = append(encoded, data)
		}
		return encoded, nil
	}
	objects := make([]resource.Object, 0, len(items))
	for _, i := range items {
		obj, err := decodedItem(i)
		if err != nil {
			return nil, err
		}
		objects = append(objects, obj)
	}
	objects, err := fromStored(r, objects)
	if err != nil {
		return nil, err
	}
	for _, obj := range objects {
		data, err := json.Marshal(As(obj, r.GVK()))
		if err != nil {
			return nil, fmt.Errorf("encode %s %s/%s: %w", r.Plural, obj.GetNamespace(), obj.GetName(), err)
		}
		encoded = append(encoded, data)
	}
	return encoded, nil
}

// itemPrefix is what is cut from the JSON of an item in a list: typed objects
// say their kind once, in the list.
func itemPrefix(r *resource.Resource, as schema.GroupVersionKind) string {
	if r.Custom != nil || !as.Empty() {
		return ""
	}
	return kindPrefix(r.GVK())
}

// jsonList joins items, each without its prefix, to the JSON of a list.
func jsonList(kind schema.GroupVersionKind, listMeta any, items [][]byte, prefix string) (Body, error) {
	metadata, err := json.Marshal(listMeta)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 && kind.Kind == "PartialObjectMetadataList" {
		return Body{fmt.Appendf(nil, "%s\"metadata\":%s,\"items\":null}\n", kindPrefix(kind), metadata)}, nil // as clients know it
	}
	body := make(Body, 0, 2*len(items)+2)
	body = append(body, fmt.Appendf(nil, `%s"metadata":%s,"items":[`, kindPrefix(kind), metadata))
	for n, data := range items {
		separator := ","
		if n == 0 {
			separator = ""
		}
		if prefix != "" && bytes.HasPrefix(data, []byte(prefix)) {
			separator += "{"
			data = data[len(prefix):]
		}
		if separator != "" {
			body = append(body, separators[separator])
		}
		body = append(body, data)
	}
	return append(body, []byte("]}\n")), nil
}

var separators = map[string][]byte{",": []byte(","), "{": []byte("{"), ",{": []byte(",{")}
